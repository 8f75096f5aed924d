//! The workers of the five queues.
//!
//! Rule: a chain is answered exactly once and with no bytes written, whatever is in it; only a broken ring stops a queue.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use device_model::Error;
use device_model::Progress;
use device_model::Queue;
use device_model::QueueHandler;
use guest_memory::Cursor;
use guest_memory::GuestMemory;
use virtio_spec::balloon::HINT_COMMAND_SIZE;
use virtio_spec::balloon::PAGE_SIZE;
use virtio_spec::balloon::queue::Role;
use virtqueue::Chain;
use virtqueue::ChainBatch;
use virtqueue::Token;

use crate::balloon::Terms;
use crate::device::Shared;
use crate::numbers::Numbers;
use crate::statistics;

/// Chains per batch: completions are published at least this often.
const BATCH: usize = 8;
/// Batches per call of `run`, so that a busy ring cannot keep its worker from its other duties.
const BATCHES_PER_RUN: usize = 8;

/// Serves one queue.
pub(crate) struct BalloonQueue {
    shared: Arc<Shared>,
    role: Role,
    terms: Terms,
    /// What the driver fills free pages with counts.
    poison: bool,
    started: bool,
    batch: ChainBatch,
    numbers: Numbers,
    /// The buffer with the last statistics; it goes back when new ones are wanted.
    held: Option<Token>,
}

impl BalloonQueue {
    pub fn new(shared: Arc<Shared>, role: Role, terms: Terms, poison: bool) -> Self {
        Self {
            shared,
            role,
            terms,
            poison,
            started: false,
            batch: ChainBatch::default(),
            numbers: Numbers::default(),
            held: None,
        }
    }

    /// The first look at a ring: one that starts at its beginning has a new driver behind it, and that driver's balloon
    /// is empty, whatever its predecessor left. (A ring that happens to stand there after a pause loses the set, which
    /// does no harm; a set that is believed wrongly would.)
    fn start(&mut self, queue: &Queue, memory: &Arc<GuestMemory>) {
        let mut state = self.shared.lock();
        state.balloon.on(memory);
        if !std::mem::replace(&mut self.started, true) && self.role == Role::Inflate && fresh(queue)
        {
            state.start_over();
        }
    }

    fn serve(
        &mut self,
        chain: &Chain<'_>,
        queue: &mut Queue,
        memory: &GuestMemory,
    ) -> Result<(), Error> {
        match self.role {
            Role::Inflate | Role::Deflate => self.move_pages(chain, memory),
            Role::Reporting => self.report(chain, memory),
            Role::FreePage => self.hint(chain, memory),
            Role::Stats => {
                let (statistics, odd) = statistics::read(chain, memory);
                self.shared.take_statistics(statistics, odd);
                // A driver has one buffer; should it offer another, the older is of no use.
                return match self.held.replace(chain.token) {
                    Some(older) => queue.complete(older, 0),
                    None => Ok(()),
                };
            }
        }
        queue.complete(chain.token, 0)
    }

    fn move_pages(&mut self, chain: &Chain<'_>, memory: &GuestMemory) {
        let counters = &self.shared.counters;
        let faults = self.numbers.read(chain, memory);
        counters.repeated_pages.add(faults.repeated);
        counters.zero_pages.add(faults.zero);
        counters.excess_pages.add(faults.excess);
        counters.malformed_chains.add(u64::from(faults.malformed));
        let mut state = self.shared.lock();
        if self.role == Role::Inflate {
            state
                .balloon
                .inflate(&self.numbers, memory, self.terms, counters);
        } else {
            state
                .balloon
                .deflate(&self.numbers, memory, self.terms, counters);
        }
    }

    /// Reported pages go before they are acknowledged; afterwards the guest may use them (sec. 5.5.6.6).
    fn report(&self, chain: &Chain<'_>, memory: &GuestMemory) {
        let counters = &self.shared.counters;
        let keep = self.poison && self.shared.poison() != 0;
        let mut malformed = !chain.readable.is_empty();
        let state = self.shared.lock();
        for segment in chain.writable {
            let len = u64::from(segment.len);
            if keep {
                counters.poisoned_bytes.add(len);
            } else {
                malformed |= !state.balloon.report(segment.addr, len, memory, counters);
            }
        }
        counters.malformed_chains.add(u64::from(malformed));
    }

    fn hint(&self, chain: &Chain<'_>, memory: &GuestMemory) {
        let counters = &self.shared.counters;
        let mut state = self.shared.lock();
        if !chain.readable.is_empty() {
            let total: u64 = chain.readable.iter().map(|s| u64::from(s.len)).sum();
            let mut command = [0; HINT_COMMAND_SIZE];
            let mut cursor = Cursor::new(memory, chain.readable);
            let read = total == HINT_COMMAND_SIZE as u64 && cursor.read(&mut command).is_ok();
            if !read {
                counters.malformed_chains.add(1);
                return;
            }
            if !state.hints.told(u32::from_le_bytes(command)) {
                counters.stale_hints.add(1);
            }
        }
        for segment in chain.writable {
            if !state.hints.current() {
                counters.stale_hints.add(1);
                continue;
            }
            let end = segment.addr.saturating_add(u64::from(segment.len));
            let pages = segment.addr.div_ceil(PAGE_SIZE)..end / PAGE_SIZE;
            let known = state.balloon.inside(pages);
            for part in known {
                counters
                    .hinted_bytes
                    .add((part.end - part.start) * PAGE_SIZE);
                state.hints.add(part);
            }
        }
    }

    /// Asks for new statistics when they are due.
    fn poll(&mut self, queue: &mut Queue) -> Result<u32, Error> {
        if self.role != Role::Stats || !self.shared.statistics_due() {
            return Ok(0);
        }
        match self.held.take() {
            Some(token) => {
                queue.complete(token, 0)?;
                queue.publish();
                Ok(1)
            }
            None => {
                self.shared.counters.statistics_missed.add(1);
                Ok(0)
            }
        }
    }
}

/// Whether nothing was ever taken from the ring.
fn fresh(queue: &Queue) -> bool {
    let format = queue.config().format;
    queue.base() == virtqueue::QueueState::fresh(format).encode(format)
}

impl QueueHandler for BalloonQueue {
    fn run(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<Progress, Error> {
        self.start(queue, memory);
        let mut progress = Progress::default();
        for _ in 0..BATCHES_PER_RUN {
            let mut batch = std::mem::take(&mut self.batch);
            batch.clear();
            let taken = queue.take(&mut batch, BATCH);
            let mut done = Ok(());
            for chain in batch.iter() {
                done = done.and_then(|()| self.serve(&chain, queue, memory));
                // Pages of a chain can take long to release; the driver need not wait for its neighbours'.
                queue.publish();
            }
            progress.taken += u32::try_from(batch.len()).unwrap_or(u32::MAX);
            progress.completed += u32::try_from(batch.len()).unwrap_or(u32::MAX);
            let empty = batch.is_empty();
            self.batch = batch;
            done?;
            if taken? == 0 || empty {
                break;
            }
        }
        // Last: after a pause the buffer to ask with waits in the ring.
        progress.completed += self.poll(queue)?;
        Ok(progress)
    }

    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        (self.role == Role::Stats).then(|| self.shared.timer.as_fd())
    }

    fn in_flight(&self) -> usize {
        usize::from(self.held.is_some())
    }

    /// The held buffer goes back: the driver fills it again, and it waits in the ring for the next start.
    fn drain(&mut self, queue: &mut Queue, _memory: &Arc<GuestMemory>) -> Result<(), Error> {
        if let Some(token) = self.held.take() {
            queue.complete(token, 0)?;
            queue.publish();
        }
        Ok(())
    }
}
