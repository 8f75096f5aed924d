//! One queue's worker: takes what the ring has, carries it out, completes it, in batches.
//!
//! Rule: a chain that was taken is completed exactly once, with a status byte if it has room for one, and the used length
//! is the number of bytes that were written.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use device_model::Error;
use device_model::Progress;
use device_model::Queue;
use device_model::QueueHandler;
use guest_memory::GuestMemory;
use nix::errno::Errno;
use virtio_spec::block::status;
use virtqueue::Chain;
use virtqueue::ChainBatch;
use virtqueue::Token;

use crate::counters::QueueMetrics;
use crate::device::Disk;
use crate::engine::Engine;
use crate::engine::runner::Begun;
use crate::engine::runner::Runner;
use crate::engine::runner::Slot;
use crate::engine::work::Task;
use crate::request::Limits;
use crate::request::Operation;
use crate::request::Parsed;
use crate::request::Refusal;
use crate::request::Source;

/// Chains per batch: completions are published at least this often, so that the driver works on them meanwhile.
const BATCH: usize = 16;
/// Batches per call of [`BlockQueue::run`], so that a busy ring cannot keep its worker from its other duties.
const BATCHES_PER_RUN: usize = 32;

/// What is kept with a request in flight.
#[derive(Default)]
struct Context {
    token: Option<Token>,
    task: Task,
    /// Its completion says that something is on stable storage.
    claims: bool,
    parsed: Parsed,
}

/// A request and its place.
type Request = Slot<Context>;

/// The handler of one request queue.
pub(crate) struct BlockQueue {
    runner: Runner<Context>,
    disk: Arc<Disk>,
    metrics: Arc<QueueMetrics>,
    batch: ChainBatch,
    parsed: Vec<(Box<Request>, Result<Operation, Refusal>)>,
}

/// What a run works with, so that it is looked up once.
struct Run<'a> {
    queue: &'a mut Queue,
    memory: &'a Arc<GuestMemory>,
    /// The disk as it is when a batch was taken: requests of that batch are judged by nothing older.
    limits: Limits,
    write_through: bool,
    completed: u32,
}

struct GuestSource<'a>(&'a GuestMemory);

impl Source for GuestSource<'_> {
    #[inline]
    fn read(&self, addr: u64, out: &mut [u8]) -> bool {
        self.0.read(addr, out).is_ok()
    }
}

impl BlockQueue {
    pub fn new(
        disk: Arc<Disk>,
        engine: Box<dyn Engine>,
        depth: u16,
        metrics: Arc<QueueMetrics>,
    ) -> Self {
        Self {
            runner: Runner::new(engine, Arc::clone(&disk.image), depth),
            disk,
            metrics,
            batch: ChainBatch::with_capacity(BATCH, BATCH * 4),
            parsed: Vec::with_capacity(BATCH),
        }
    }

    fn begin_run<'a>(&mut self, queue: &'a mut Queue, memory: &'a Arc<GuestMemory>) -> Run<'a> {
        self.runner.hold(memory);
        Run {
            queue,
            memory,
            limits: self.disk.limits(),
            write_through: self.disk.write_through(),
            completed: 0,
        }
    }

    /// Gives one chain a slot and reads what it asks for.
    #[inline]
    fn parse(&mut self, run: &mut Run<'_>, chain: Chain<'_>) -> Result<(), Error> {
        let Some(mut slot) = self.runner.claim() else {
            debug_assert!(false, "no more is taken than there is room for");
            return run.complete(chain.token, 0);
        };
        slot.context.token = Some(chain.token);
        let source = GuestSource(run.memory);
        let parsed = &mut slot.context.parsed;
        let operation = parsed.parse(chain.readable, chain.writable, &source, &run.limits);
        self.parsed.push((slot, operation));
        Ok(())
    }

    /// Carries out or begins the requests of a batch, the bytes of each next one on their way to the CPU meanwhile.
    fn execute_parsed(&mut self, run: &mut Run<'_>) -> Result<(), Error> {
        let mut parsed = std::mem::take(&mut self.parsed);
        let mut done = Ok(());
        let mut requests = parsed.drain(..).peekable();
        while let Some((slot, operation)) = requests.next() {
            if let Some((_, Ok(Operation::Read { offset, .. } | Operation::Write { offset, .. }))) =
                requests.peek()
            {
                self.runner.prefetch(*offset);
            }
            done = done.and(match operation {
                Ok(operation) => self.execute(run, slot, operation),
                Err(refusal) => self.refuse(run, slot, refusal),
            });
        }
        drop(requests);
        self.parsed = parsed;
        done
    }

    fn execute(
        &mut self,
        run: &mut Run<'_>,
        mut slot: Box<Request>,
        operation: Operation,
    ) -> Result<(), Error> {
        let (task, range) = match operation {
            Operation::Read { offset, len } => (Task::Read, (offset, len)),
            Operation::Write { offset, len } => (Task::Write, (offset, len)),
            Operation::Flush => (Task::Flush, (0, 0)),
            Operation::Discard => (Task::Discard, (0, 0)),
            Operation::WriteZeroes => (Task::WriteZeroes, (0, 0)),
            Operation::GetId => return self.get_id(run, slot),
        };
        let durable = run.write_through;
        slot.context.task = task;
        slot.context.claims = match task {
            Task::Read => false,
            Task::Flush => self.disk.sync_on_flush,
            Task::Write | Task::Discard | Task::WriteZeroes => durable,
        };
        let begun = match task {
            Task::Read | Task::Write => {
                self.runner
                    .transfer(slot, task, range, durable, |context| &context.parsed.data)
            }
            Task::Flush if !self.disk.sync_on_flush => Begun::Over(slot, Ok(())),
            Task::Flush => self.runner.flush(slot),
            Task::Discard | Task::WriteZeroes => {
                self.runner
                    .ranges(slot, task, durable, |context| &context.parsed.ranges)
            }
        };
        match begun {
            Begun::Over(slot, result) => self.finish(run, slot, result),
            Begun::Pending => Ok(()),
        }
    }

    /// Answers GET_ID with as much of the serial as the guest left room for.
    fn get_id(&mut self, run: &mut Run<'_>, slot: Box<Request>) -> Result<(), Error> {
        let mut id = self.disk.id.as_slice();
        let mut written = 0;
        let mut answer = status::OK;
        for segment in &slot.context.parsed.data {
            let room = usize::try_from(segment.len).unwrap_or(usize::MAX);
            let (now, later) = id.split_at(id.len().min(room));
            if run.memory.write(segment.addr, now).is_err() {
                answer = status::IOERR;
                break;
            }
            written += now.len();
            id = later;
        }
        self.answer(run, slot, answer, u32::try_from(written).unwrap_or(0))
    }

    fn refuse(
        &mut self,
        run: &mut Run<'_>,
        slot: Box<Request>,
        refusal: Refusal,
    ) -> Result<(), Error> {
        tracing::debug!(?refusal, "request refused");
        if refusal == Refusal::NoStatus {
            self.metrics.no_status.add(1);
            return self.complete(run, slot, 0);
        }
        self.metrics.refused.add(1);
        self.answer(run, slot, refusal.status(), 0)
    }

    /// Completes a request that the image has answered.
    #[inline]
    fn finish(
        &mut self,
        run: &mut Run<'_>,
        slot: Box<Request>,
        result: Result<(), Errno>,
    ) -> Result<(), Error> {
        let moved = slot.moved();
        let (task, claims) = (slot.context.task, slot.context.claims);
        let result = match claims {
            true => self.disk.durability.vouch(result, slot.synced()),
            false => result,
        };
        if claims && result.is_err() && self.disk.durability.lost().is_some() {
            self.metrics.not_durable.add(1);
        }
        let answer = match result {
            Ok(()) => {
                self.count(task, moved);
                status::OK
            }
            Err(errno) => {
                self.metrics.io_errors.add(1);
                tracing::warn!(%errno, ?task, image = %self.disk.image.path.display(), "the image answers with an error");
                status::IOERR
            }
        };
        let written = if task == Task::Read { moved } else { 0 };
        self.answer(
            run,
            slot,
            answer,
            u32::try_from(written).unwrap_or(u32::MAX - 1),
        )
    }

    #[inline]
    fn count(&self, task: Task, moved: u64) {
        let metrics = &self.metrics;
        match task {
            Task::Read => {
                metrics.reads.add(1);
                metrics.read_bytes.add(moved);
            }
            Task::Write => {
                metrics.writes.add(1);
                metrics.written_bytes.add(moved);
            }
            Task::Flush => metrics.flushes.add(1),
            Task::Discard => metrics.discards.add(1),
            Task::WriteZeroes => metrics.write_zeroes.add(1),
        }
    }

    /// Writes the status byte, completes the chain and frees the slot.
    #[inline]
    fn answer(
        &mut self,
        run: &mut Run<'_>,
        slot: Box<Request>,
        answer: u8,
        written: u32,
    ) -> Result<(), Error> {
        let status_addr = slot.context.parsed.status_addr;
        let written = match run.memory.write(status_addr, &[answer]) {
            Ok(()) => written + 1,
            Err(_) => {
                self.metrics.no_status.add(1);
                0
            }
        };
        self.complete(run, slot, written)
    }

    /// Completes the chain and frees the slot.
    #[inline]
    fn complete(
        &mut self,
        run: &mut Run<'_>,
        mut slot: Box<Request>,
        written: u32,
    ) -> Result<(), Error> {
        let token = slot.context.token.take();
        self.runner.release(slot);
        debug_assert!(
            token.is_some(),
            "a request has a chain, and is completed once"
        );
        token.map_or(Ok(()), |token| run.complete(token, written))
    }

    /// Completes what the kernel has finished.
    fn collect(&mut self, run: &mut Run<'_>) -> Result<(), Error> {
        while let Some((slot, result)) = self.runner.next_over() {
            self.finish(run, slot, result)?;
        }
        Ok(())
    }

    fn submit(&mut self) -> Result<(), Error> {
        self.runner.submit().map_err(ring_failed)
    }

    /// Takes one batch; returns how many chains it had.
    fn take(&mut self, run: &mut Run<'_>) -> Result<u32, Error> {
        let room = self.runner.room().min(BATCH);
        if room == 0 {
            return Ok(0);
        }
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        let taken = run.queue.take(&mut batch, room);
        // Loaded after the chains: what the front-end was told before the driver made them available counts for them.
        run.limits = self.disk.limits();
        run.write_through = self.disk.write_through();
        let mut done = Ok(());
        for chain in batch.iter() {
            done = done.and(self.parse(run, chain));
        }
        self.batch = batch;
        done.and(self.execute_parsed(run))?;
        Ok(u32::try_from(taken?).unwrap_or(u32::MAX))
    }
}

impl Run<'_> {
    #[inline]
    fn complete(&mut self, token: Token, written: u32) -> Result<(), Error> {
        self.completed += 1;
        self.queue.complete(token, written)
    }
}

fn ring_failed(errno: Errno) -> Error {
    Error::Io {
        what: "io_uring_enter",
        source: errno.into(),
    }
}

impl QueueHandler for BlockQueue {
    fn run(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<Progress, Error> {
        let mut run = self.begin_run(queue, memory);
        let mut taken = 0;
        for _ in 0..BATCHES_PER_RUN {
            let batch = self.take(&mut run);
            let over = self.submit().and(self.collect(&mut run));
            run.queue.publish();
            over?;
            match batch? {
                0 => break,
                chains => taken += chains,
            }
        }
        Ok(Progress {
            taken,
            completed: run.completed,
        })
    }

    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        self.runner.completion_fd()
    }

    fn before_sleep(&mut self) {
        self.runner.before_sleep();
    }

    fn after_sleep(&mut self, completed: bool) {
        self.runner.after_sleep(completed);
    }

    fn in_flight(&self) -> usize {
        self.runner.pending()
    }

    fn drain(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<(), Error> {
        let mut run = self.begin_run(queue, memory);
        let mut over = self.submit().and(self.collect(&mut run));
        while self.runner.pending() != 0 && over.is_ok() {
            over = self
                .runner
                .wait()
                .map_err(ring_failed)
                .and(self.collect(&mut run));
        }
        run.queue.publish();
        over
    }
}
