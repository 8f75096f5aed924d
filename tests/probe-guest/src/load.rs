//! The `load` job: keeps a number of requests under way for some seconds and reports rates and latency percentiles.
//!
//! Rule: the loop allocates nothing; requests are published in batches, so that the device works on one while the next is made.
use alloc::boxed::Box;
use alloc::vec::Vec;

use block_driver::Completion;
use block_driver::Operation;
use block_driver::Request;

use crate::apic;
use crate::command::Task;
use crate::cpu;
use crate::device::number;
use crate::histogram::Histogram;
use crate::json::Line;
use crate::machine::Failure;
use crate::machine::Machine;
use crate::pattern;
use crate::pattern::Random;
use crate::platform::Buffer;
use crate::workload::Disk;
use crate::workload::Queue;

/// Without a completion for this long the disk counts as dead, in milliseconds.
const STALL_MS: u64 = 60_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Mixed,
    Fsync,
}

struct Shape {
    kind: Kind,
    random: bool,
    sectors: u64,
    bytes: u64,
    blocks: u64,
}

/// One request that is always under way.
struct Slot {
    started: u64,
    flushing: bool,
}

struct Lane {
    slots: Vec<Slot>,
    next_block: u64,
}

struct Load<'a> {
    machine: &'a Machine,
    shape: Shape,
    lanes: Vec<Lane>,
    random: Random,
    histogram: Box<Histogram>,
    errors: u64,
    in_flight: u64,
    /// Requests that are published together at most.
    batch: u64,
}

pub(crate) fn run(machine: &Machine, task: &Task<'_>) -> Result<(), Failure> {
    let mut disk = Disk::open(machine, task)?;
    let shape = shape(&disk, task)?;
    let depth = number(task, "qd", 1)?.clamp(1, 4096);
    let seconds = number(task, "seconds", 2)?;
    let interrupts = task.text("wait") == Some("irq");
    let lanes = disk
        .queues
        .iter()
        .map(|queue| Lane {
            slots: (0..depth)
                .map(|_| Slot {
                    started: 0,
                    flushing: false,
                })
                .collect(),
            next_block: shape.blocks / disk.queues.len() as u64 * u64::from(queue.index()),
        })
        .collect();
    let mut load = Load {
        machine,
        shape,
        lanes,
        random: Random::new(number(task, "seed", 1)?),
        histogram: Box::new(Histogram::new()),
        errors: 0,
        in_flight: 0,
        batch: number(task, "batch", 8)?.max(1),
    };
    load.prime(&mut disk)?;
    let (ticks, total) = load.drive(
        &mut disk,
        machine.platform.ticks(seconds * 1000),
        interrupts,
    )?;
    load.report(&disk, task, ticks, total);
    let errors = load.errors;
    disk.close(machine)?;
    if errors == 0 {
        Ok(())
    } else {
        Err(Failure::new("Requests failed", errors))
    }
}

fn shape(disk: &Disk, task: &Task<'_>) -> Result<Shape, Failure> {
    let (kind, random) = match task.text("rw").unwrap_or("randread") {
        "randread" => (Kind::Read, true),
        "randwrite" => (Kind::Write, true),
        "randrw" => (Kind::Mixed, true),
        "read" => (Kind::Read, false),
        "write" => (Kind::Write, false),
        "fsync" => (Kind::Fsync, true),
        _ => {
            return Err(Failure::new(
                "rw= is one of randread randwrite randrw read write fsync",
                0,
            ));
        }
    };
    let bytes = number(task, "bs", 4096)?;
    let info = disk.driver.info();
    let span = number(task, "size", u64::MAX)?.min(info.capacity_sectors * 512);
    if bytes == 0 || bytes % u64::from(info.block_size) != 0 || bytes > 16 << 20 || span < bytes {
        return Err(Failure::new("bs= does not fit the disk", bytes));
    }
    Ok(Shape {
        kind,
        random,
        sectors: bytes / 512,
        bytes,
        blocks: span / bytes,
    })
}

impl Load<'_> {
    /// Submits the first requests.
    fn prime(&mut self, disk: &mut Disk) -> Result<(), Failure> {
        for lane in 0..self.lanes.len() {
            let slots = self.lanes.get(lane).map_or(0, |lane| lane.slots.len());
            for slot in 0..slots {
                let buffer = self
                    .machine
                    .platform
                    .buffer(self.shape.bytes as u32, self.shape.bytes as u32);
                let buffer =
                    buffer.ok_or(Failure::new("No memory for buffers", self.shape.bytes))?;
                pattern_into(&buffer, slot as u64);
                let queue = disk
                    .queues
                    .get_mut(lane)
                    .ok_or(Failure::new("No such queue", lane as u64))?;
                if !self.submit(queue, lane, slot, buffer) {
                    // The ring holds fewer than asked for: that is the depth, then.
                    break;
                }
            }
        }
        Ok(())
    }

    fn submit(&mut self, queue: &mut Queue, lane: usize, slot: usize, buffer: Buffer) -> bool {
        let operation = self.next_operation(lane);
        let request = Request {
            operation,
            buffer: Some(buffer),
            cookie: slot as u64,
        };
        self.issue(queue, lane, slot, request)
    }

    fn issue(
        &mut self,
        queue: &mut Queue,
        lane: usize,
        slot: usize,
        request: Request<Buffer>,
    ) -> bool {
        let now = cpu::tsc();
        let flushing = request.operation == Operation::Flush;
        if let Some(slot) = self
            .lanes
            .get_mut(lane)
            .and_then(|lane| lane.slots.get_mut(slot))
        {
            slot.flushing = flushing;
            if !flushing {
                slot.started = now;
            }
        }
        let taken = queue.submit(&self.machine.platform, request).is_ok();
        self.in_flight += u64::from(taken);
        taken
    }

    fn next_operation(&mut self, lane: usize) -> Operation {
        let block = match (self.shape.random, self.lanes.get_mut(lane)) {
            (false, Some(lane)) => {
                let block = lane.next_block;
                lane.next_block = if block + 1 >= self.shape.blocks {
                    0
                } else {
                    block + 1
                };
                block
            }
            _ => self.random.below(self.shape.blocks),
        };
        let sector = block * self.shape.sectors;
        match self.shape.kind {
            Kind::Read => Operation::Read { sector },
            Kind::Mixed if self.random.next_u64() & 1 == 0 => Operation::Read { sector },
            _ => Operation::Write { sector },
        }
    }

    /// Runs until the time is over, then collects what is still under way. Returns the ticks and the requests done in time.
    fn drive(
        &mut self,
        disk: &mut Disk,
        ticks: u64,
        interrupts: bool,
    ) -> Result<(u64, u64), Failure> {
        for queue in &mut disk.queues {
            queue.disarm();
            queue.kick();
        }
        if interrupts {
            apic::alarm(Some(cpu::FIRST_VECTOR));
        }
        let start = cpu::tsc();
        let mut last = start;
        let mut parked: Vec<Option<Buffer>> = Vec::new();
        while cpu::tsc() - start < ticks {
            if self.round(disk, true, &mut parked)? {
                last = cpu::tsc();
            } else if interrupts {
                self.wait(disk);
            } else {
                core::hint::spin_loop();
            }
            if cpu::tsc() - last > self.machine.platform.ticks(STALL_MS) {
                return Err(Failure::new("No completion for a minute", self.in_flight));
            }
        }
        let (elapsed, total) = (cpu::tsc() - start, self.histogram.count());
        let end = cpu::tsc() + self.machine.platform.ticks(STALL_MS);
        while self.in_flight > 0 {
            self.round(disk, false, &mut parked)?;
            if cpu::tsc() > end {
                return Err(Failure::new("Requests did not come back", self.in_flight));
            }
        }
        apic::alarm(None);
        Ok((elapsed, total))
    }

    /// Looks at every queue once; submits again if `more`. True when something completed.
    fn round(
        &mut self,
        disk: &mut Disk,
        more: bool,
        parked: &mut Vec<Option<Buffer>>,
    ) -> Result<bool, Failure> {
        let mut progress = false;
        for (lane, queue) in disk.queues.iter_mut().enumerate() {
            let mut staged = 0;
            while let Some(done) = queue
                .poll(&self.machine.platform)
                .map_err(|_| Failure::new("The queue is broken", lane as u64))?
            {
                staged += u64::from(self.completed(queue, lane, done, more, parked));
                if staged >= self.batch {
                    queue.kick();
                    staged = 0;
                }
                progress = true;
            }
            if staged > 0 {
                queue.kick();
            }
        }
        Ok(progress)
    }

    fn completed(
        &mut self,
        queue: &mut Queue,
        lane: usize,
        done: Completion<Buffer>,
        more: bool,
        parked: &mut Vec<Option<Buffer>>,
    ) -> bool {
        self.in_flight -= 1;
        self.errors += u64::from(done.result.is_err());
        let slot = done.cookie as usize;
        let wrote = self.shape.kind == Kind::Fsync && done.operation != Operation::Flush;
        if wrote && more {
            // The buffer waits here while the flush, which has none, is under way.
            if parked.len() <= slot {
                parked.resize_with(slot + 1, || None);
            }
            if let Some(place) = parked.get_mut(slot) {
                *place = done.buffer;
            }
            let flush = Request {
                operation: Operation::Flush,
                buffer: None,
                cookie: done.cookie,
            };
            return self.issue(queue, lane, slot, flush);
        }
        let started = self
            .lanes
            .get(lane)
            .and_then(|lane| lane.slots.get(slot))
            .map_or(0, |slot| slot.started);
        self.histogram.record(cpu::tsc().wrapping_sub(started));
        let buffer = done
            .buffer
            .or_else(|| parked.get_mut(slot).and_then(Option::take));
        match buffer {
            Some(buffer) if more => self.submit(queue, lane, slot, buffer),
            _ => false,
        }
    }

    /// Sleeps until an interrupt, unless something completed meanwhile.
    fn wait(&mut self, disk: &mut Disk) {
        let seen = cpu::interrupts();
        let mut ready = false;
        for queue in &mut disk.queues {
            ready |= queue.arm();
        }
        if !ready {
            cpu::sleep(seen);
        }
        for queue in &mut disk.queues {
            queue.disarm();
        }
    }

    fn report(&self, disk: &Disk, task: &Task<'_>, ticks: u64, total: u64) {
        let platform = &self.machine.platform;
        let nanoseconds = platform.nanoseconds(ticks).max(1);
        let per_second =
            |amount: u64| (u128::from(amount) * 1_000_000_000 / u128::from(nanoseconds)) as u64;
        let depth = self.lanes.first().map_or(0, |lane| lane.slots.len());
        let (mut doorbells, mut batches) = (0, 0);
        for queue in &disk.queues {
            doorbells += queue.counters().doorbells;
            batches += queue.counters().batches;
        }
        let mut line = Line::new("load");
        line.text("rw", task.text("rw").unwrap_or("randread"))
            .number("bs", self.shape.bytes);
        line.number("qd", depth as u64)
            .number("queues", disk.queues.len() as u64);
        line.text("wait", task.text("wait").unwrap_or("poll"));
        line.hex("features", disk.driver.features());
        line.number("ns", nanoseconds)
            .number("ops", total)
            .number("iops", per_second(total));
        line.thousandths("mib_s", per_second(total * self.shape.bytes) / 1049);
        self.histogram.report(platform, &mut line);
        line.number("doorbells", doorbells)
            .number("batches", batches);
        line.number("interrupts", cpu::interrupts())
            .number("errors", self.errors)
            .print();
    }
}

fn pattern_into(buffer: &Buffer, seed: u64) {
    let mut sector = [0; pattern::SECTOR];
    for index in 0..buffer.len as usize / pattern::SECTOR {
        pattern::fill(&mut sector, seed + index as u64, 0);
        buffer.write(index * pattern::SECTOR, &sector);
    }
}
