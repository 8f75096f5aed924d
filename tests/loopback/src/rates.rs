//! How fast driver core and backend are together, with a thread each and nothing between them.
//!
//! Rule: the driver polls and the backend polls; doorbells and interrupts are only counted.
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use block_driver::BlockDriver;
use block_driver::BlockQueue;
use block_driver::Operation;
use block_driver::Options;
use block_driver::Request;
use device_model::Device;
use driver_fakes::DirectBuffer;
use driver_fakes::DirectPlatform;
use driver_fakes::FakeBar;
use driver_fakes::FakeInterrupts;
use driver_fakes::Random;
use hdrhistogram::Histogram;

use crate::Backend;
use crate::shared_arena;

/// How often an idle side looks before it offers its processor to others.
const IDLE_SPINS: u32 = 2000;

/// What to do.
#[derive(Clone, Debug)]
pub struct Workload {
    /// `randread`, `randwrite`, `randrw`, `read`, `write` or `fsync`.
    pub pattern: String,
    /// Bytes of a request.
    pub block_bytes: usize,
    /// Requests under way.
    pub depth: u64,
    /// For how long.
    pub duration: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Rates {
    /// Requests finished.
    pub operations: u64,
    /// Requests failed.
    pub errors: u64,
    /// Time taken.
    pub elapsed: Duration,
    /// Latencies in nanoseconds.
    pub latency_ns: Histogram<u64>,
}

struct Run<'a> {
    work: &'a Workload,
    platform: &'a DirectPlatform,
    queue: BlockQueue<DirectPlatform, FakeBar>,
    random: Random,
    blocks: u64,
    next: u64,
    started: Vec<Instant>,
    parked: Vec<Option<DirectBuffer>>,
    latency_ns: Histogram<u64>,
    errors: u64,
    idle: u32,
}

/// Runs one workload on one queue of `device`.
///
/// # Errors
/// The disk does not start, is too small for the request, or a queue breaks.
pub fn measure(device: Arc<dyn Device>, work: &Workload) -> anyhow::Result<Rates> {
    let size = (64 << 20) + work.block_bytes as u64 * work.depth * 2;
    let (memory, arena) = shared_arena(size.next_multiple_of(4096))?;
    let platform = DirectPlatform::new(arena);
    let (mut backend, function) = Backend::new(device, memory)?;
    let options = Options::default();
    let (mut driver, queues) = BlockDriver::start(&platform, function, &FakeInterrupts(0), options)
        .map_err(|failure| anyhow::anyhow!("The disk did not start: {}", failure.error))?;
    let queue = queues.into_iter().next().context("no queue")?;
    let blocks = driver.info().capacity_sectors * 512 / work.block_bytes as u64;
    if blocks == 0 {
        bail!("The disk is smaller than one request");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let server = std::thread::spawn(move || -> anyhow::Result<()> {
        let mut idle = 0_u32;
        while !stopped.load(Ordering::Relaxed) {
            if backend.serve(0)? {
                idle = 0;
            } else if idle < IDLE_SPINS {
                idle += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        backend.drain()
    });
    let run = Run {
        work,
        platform: &platform,
        queue,
        random: Random::new(1),
        blocks,
        next: 0,
        started: vec![Instant::now(); usize::try_from(work.depth)?],
        parked: (0..work.depth).map(|_| None).collect(),
        latency_ns: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
        errors: 0,
        idle: 0,
    };
    let rates = run.run();
    stop.store(true, Ordering::Relaxed);
    let served = server
        .join()
        .map_err(|_| anyhow::anyhow!("The backend panicked"))?;
    driver.begin_stop(&platform);
    let rates = rates?;
    served?;
    Ok(rates)
}

impl Run<'_> {
    fn run(mut self) -> anyhow::Result<Rates> {
        self.queue.disarm();
        for slot in 0..self.work.depth {
            let buffer = self
                .platform
                .buffer(self.work.block_bytes)
                .context("no memory for buffers")?;
            self.submit(slot, buffer)?;
        }
        self.queue.kick();
        let start = Instant::now();
        while start.elapsed() < self.work.duration {
            self.round()?;
        }
        let elapsed = start.elapsed();
        let operations = self.latency_ns.len();
        while self.queue.in_flight() > 0 {
            self.queue.poll(self.platform)?;
        }
        Ok(Rates {
            operations,
            errors: self.errors,
            elapsed,
            latency_ns: self.latency_ns,
        })
    }

    fn round(&mut self) -> anyhow::Result<()> {
        let mut staged = 0;
        while let Some(done) = self.queue.poll(self.platform)? {
            self.errors += u64::from(done.result.is_err());
            let slot = usize::try_from(done.cookie)?;
            if self.work.pattern == "fsync" && done.operation != Operation::Flush {
                self.parked[slot] = done.buffer;
                self.issue(Request {
                    operation: Operation::Flush,
                    buffer: None,
                    cookie: done.cookie,
                })?;
            } else {
                self.latency_ns
                    .saturating_record(u64::try_from(self.started[slot].elapsed().as_nanos())?);
                let buffer = done
                    .buffer
                    .or_else(|| self.parked[slot].take())
                    .context("a buffer was lost")?;
                self.submit(done.cookie, buffer)?;
            }
            staged += 1;
            if staged == 8 {
                self.queue.kick();
                staged = 0;
            }
        }
        if staged > 0 {
            self.queue.kick();
            self.idle = 0;
        } else if self.idle < IDLE_SPINS {
            self.idle += 1;
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
        Ok(())
    }

    fn submit(&mut self, slot: u64, buffer: DirectBuffer) -> anyhow::Result<()> {
        let random = self.work.pattern.starts_with("rand") || self.work.pattern == "fsync";
        self.next = if self.next + 1 >= self.blocks {
            0
        } else {
            self.next + 1
        };
        let block = if random {
            self.random.below(self.blocks)
        } else {
            self.next
        };
        let sector = block * (self.work.block_bytes as u64 / 512);
        let operation = match self.work.pattern.as_str() {
            "randread" | "read" => Operation::Read { sector },
            "randwrite" | "write" | "fsync" => Operation::Write { sector },
            "randrw" if self.random.one_in(2) => Operation::Read { sector },
            "randrw" => Operation::Write { sector },
            other => bail!("Unknown pattern {other:?}"),
        };
        self.started[usize::try_from(slot)?] = Instant::now();
        self.issue(Request {
            operation,
            buffer: Some(buffer),
            cookie: slot,
        })
    }

    fn issue(&mut self, request: Request<DirectBuffer>) -> anyhow::Result<()> {
        let taken = self.queue.submit(self.platform, request);
        taken.map_err(|rejected| anyhow::anyhow!("A request was refused: {}", rejected.reason))
    }
}
