//! The `verify` job: random I/O with a shadow model, then error paths.
//!
//! Rule: a sector under way belongs to one request only, so the model always knows what it must hold; a request that comes back twice,
//! never, or with the wrong bytes ends the job.
mod buffers;
mod error_paths;

use alloc::vec::Vec;

use block_driver::Completion;
use block_driver::Operation;
use block_driver::Refusal;
use block_driver::Request;

use crate::apic;
use crate::command::Task;
use crate::cpu;
use crate::device::number;
use crate::json::Line;
use crate::machine::Failure;
use crate::machine::Machine;
use crate::pattern::Random;
use crate::platform::Buffer;
use crate::workload::Disk;

use self::buffers::check_buffer;
use self::buffers::fill_buffer;

/// Without a completion for this long the disk counts as dead, in milliseconds.
const STALL_MS: u64 = 60_000;
/// Largest request of the random phase, in bytes.
const REQUEST_MAX: u64 = 64 << 10;
/// Pieces that buffers are shown in, so that requests have many segments.
const PIECE: u32 = 4096;

/// What a sector holds, in the model.
const UNKNOWN: u32 = 0;
const ZERO: u32 = 1;
/// Discarded: zero or what it was is right; the first read decides.
const DISCARDED: u32 = 1 << 31;
const FIRST_GENERATION: u32 = 2;

/// One request that may be under way.
struct Slot {
    busy: bool,
    sector: u64,
    sectors: u64,
    generation: u32,
    queue: usize,
    buffer: Option<Buffer>,
}

#[derive(Default)]
struct Counts {
    reads: u64,
    writes: u64,
    flushes: u64,
    discards: u64,
    zeroes: u64,
}

struct Verify<'a> {
    machine: &'a Machine,
    disk: Disk,
    shadow: Vec<u32>,
    slots: Vec<Slot>,
    random: Random,
    generation: u32,
    block: u64,
    counts: Counts,
    interrupts: bool,
    last_progress: u64,
    /// Longest time without a completion while requests were under way: a backend's restart shows here.
    longest_gap: u64,
    submitted: u64,
    completed: u64,
}

/// How much of the work to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it.
    Everything,
    /// No error paths; says when it starts.
    StormOnly,
}

pub(crate) fn run(machine: &Machine, task: &Task<'_>, extent: Extent) -> Result<(), Failure> {
    let disk = Disk::open(machine, task)?;
    let info = disk.driver.info();
    let bytes = number(
        task,
        "size",
        if extent == Extent::StormOnly {
            4 << 20
        } else {
            32 << 20
        },
    )?
    .min(info.capacity_sectors * 512);
    let block = info.sectors_per_block();
    let sectors = bytes / 512 / block * block;
    let depth = number(task, "qd", 16)?.clamp(1, 256);
    let mut verify = Verify {
        machine,
        shadow: (0..sectors).map(|_| UNKNOWN).collect(),
        slots: Vec::new(),
        random: Random::new(number(task, "seed", 1)?),
        generation: FIRST_GENERATION,
        block,
        counts: Counts::default(),
        interrupts: task.text("wait") != Some("poll"),
        last_progress: cpu::tsc(),
        longest_gap: 0,
        submitted: 0,
        completed: 0,
        disk,
    };
    verify.make_slots(depth)?;
    let seconds = number(task, "seconds", 0)?;
    let requests = number(
        task,
        "requests",
        if seconds > 0 { u64::MAX } else { 20_000 },
    )?;
    verify.all(extent, seconds, requests)?;
    verify.report(extent);
    verify.disk.close(machine)
}

impl Verify<'_> {
    fn make_slots(&mut self, depth: u64) -> Result<(), Failure> {
        let queues = self.disk.queues.len();
        for index in 0..depth as usize {
            let buffer = self.machine.platform.buffer(REQUEST_MAX as u32, PIECE);
            let buffer = Some(buffer.ok_or(Failure::new("No memory for buffers", depth))?);
            let queue = index % queues.max(1);
            self.slots.push(Slot {
                busy: false,
                sector: 0,
                sectors: 0,
                generation: 0,
                queue,
                buffer,
            });
        }
        Ok(())
    }

    fn all(&mut self, extent: Extent, seconds: u64, requests: u64) -> Result<(), Failure> {
        if self.interrupts {
            apic::alarm(Some(cpu::FIRST_VECTOR));
        }
        if !self.disk.driver.info().read_only {
            self.fill()?;
        }
        if extent == Extent::StormOnly {
            Line::new("started").print();
        }
        self.storm(seconds, requests)?;
        self.read_everything()?;
        if extent == Extent::Everything {
            self.error_paths()?;
        }
        apic::alarm(None);
        Ok(())
    }

    /// Writes every sector once.
    fn fill(&mut self) -> Result<(), Failure> {
        let mut sector = 0;
        let total = self.shadow.len() as u64;
        while sector < total {
            let sectors = (REQUEST_MAX / 512).min(total - sector);
            let slot = self.free_slot()?;
            self.start(slot, Operation::Write { sector }, sectors)?;
            sector += sectors;
        }
        self.drain()?;
        if self.disk.driver.info().flush {
            self.simple(Operation::Flush)?;
        }
        Ok(())
    }

    /// Random requests, as many as are asked for or as fit into the time.
    fn storm(&mut self, seconds: u64, requests: u64) -> Result<(), Failure> {
        let start = cpu::tsc();
        let ticks = self.machine.platform.ticks(seconds * 1000);
        let mut done = 0;
        while done < requests && (seconds == 0 || cpu::tsc() - start < ticks) {
            let slot = self.free_slot()?;
            if let Some((sector, sectors)) = self.free_range() {
                let operation = self.pick(sector, sectors);
                self.start(slot, operation, sectors)?;
                done += 1;
            } else {
                self.progress()?;
            }
        }
        self.drain()
    }

    fn pick(&mut self, sector: u64, sectors: u64) -> Operation {
        let info = self.disk.driver.info();
        match self.random.below(16) {
            0 if info.flush => Operation::Flush,
            1 if info.max_discard_sectors > 0 && !info.read_only => {
                Operation::Discard { sector, sectors }
            }
            2 if info.max_write_zeroes_sectors > 0 && !info.read_only => Operation::WriteZeroes {
                sector,
                sectors,
                unmap: self.random.below(2) == 0,
            },
            3..=8 if !info.read_only => Operation::Write { sector },
            _ => Operation::Read { sector },
        }
    }

    fn read_everything(&mut self) -> Result<(), Failure> {
        let mut sector = 0;
        let total = self.shadow.len() as u64;
        while sector < total {
            let sectors = (REQUEST_MAX / 512).min(total - sector);
            let slot = self.free_slot()?;
            self.start(slot, Operation::Read { sector }, sectors)?;
            sector += sectors;
        }
        self.drain()
    }

    /// A range that nothing under way touches.
    fn free_range(&mut self) -> Option<(u64, u64)> {
        let most = (REQUEST_MAX / 512 / self.block).max(1);
        let total = self.shadow.len() as u64 / self.block;
        let blocks = (1 + self.random.below(most)).min(total);
        let sector = self.random.below(total - blocks + 1) * self.block;
        let sectors = blocks * self.block;
        let clash = self.slots.iter().any(|slot| {
            slot.busy && sector < slot.sector + slot.sectors && slot.sector < sector + sectors
        });
        (!clash).then_some((sector, sectors))
    }

    fn free_slot(&mut self) -> Result<usize, Failure> {
        loop {
            if let Some(slot) = self.slots.iter().position(|slot| !slot.busy) {
                return Ok(slot);
            }
            self.progress()?;
        }
    }

    fn start(&mut self, index: usize, operation: Operation, sectors: u64) -> Result<(), Failure> {
        self.generation = (self.generation + 1) & !DISCARDED;
        let generation = self.generation.max(FIRST_GENERATION);
        let slot = self
            .slots
            .get_mut(index)
            .ok_or(Failure::new("No such slot", index as u64))?;
        let buffer = slot.buffer.take();
        let sector = match operation {
            Operation::Read { sector }
            | Operation::Write { sector }
            | Operation::Discard { sector, .. }
            | Operation::WriteZeroes { sector, .. } => sector,
            _ => 0,
        };
        // A flush covers no sector.
        let sectors = if operation == Operation::Flush {
            0
        } else {
            sectors
        };
        let (mut carried, mut kept) = (None, buffer);
        if matches!(operation, Operation::Read { .. } | Operation::Write { .. }) {
            carried = kept
                .take()
                .map(|buffer| buffer.with_len(sectors as u32 * 512));
        }
        if let (Operation::Write { .. }, Some(buffer)) = (operation, &carried) {
            fill_buffer(buffer, sector, sectors, generation);
        }
        let queue = slot.queue;
        (
            slot.busy,
            slot.sector,
            slot.sectors,
            slot.generation,
            slot.buffer,
        ) = (true, sector, sectors, generation, kept);
        self.submitted += 1;
        self.submit(
            queue,
            Request {
                operation,
                buffer: carried,
                cookie: index as u64,
            },
        )
    }

    fn submit(&mut self, queue: usize, mut request: Request<Buffer>) -> Result<(), Failure> {
        let starved = cpu::tsc();
        loop {
            let target = self
                .disk
                .queues
                .get_mut(queue)
                .ok_or(Failure::new("No such queue", queue as u64))?;
            match target.submit(&self.machine.platform, request) {
                Ok(()) => {
                    target.kick();
                    return Ok(());
                }
                Err(rejected) if rejected.reason == Refusal::Busy => request = rejected.request,
                Err(rejected) => {
                    return Err(Failure::new(
                        "A good request was refused",
                        rejected.request.cookie,
                    ));
                }
            }
            if self.idle() && cpu::tsc() - starved > self.machine.platform.ticks(1000) {
                return Err(Failure::new(
                    "An empty queue says that it is full",
                    queue as u64,
                ));
            }
            self.progress()?;
        }
    }

    fn idle(&self) -> bool {
        self.disk.queues.iter().all(|queue| queue.in_flight() == 0)
    }

    fn drain(&mut self) -> Result<(), Failure> {
        while self.slots.iter().any(|slot| slot.busy) {
            self.progress()?;
        }
        match self.submitted == self.completed {
            true => Ok(()),
            false => Err(Failure::new(
                "Requests were lost or doubled",
                self.submitted,
            )),
        }
    }

    /// Collects completions; waits for the next interrupt when there are none.
    fn progress(&mut self) -> Result<(), Failure> {
        let mut any = false;
        for queue in 0..self.disk.queues.len() {
            while let Some(done) = self.poll(queue)? {
                self.completed(done)?;
                any = true;
            }
        }
        let now = cpu::tsc();
        if any {
            self.last_progress = now;
            return Ok(());
        }
        let gap = now - self.last_progress;
        self.longest_gap = self.longest_gap.max(gap);
        if gap > self.machine.platform.ticks(STALL_MS) {
            return Err(Failure::new("No completion for a minute", self.in_flight()));
        }
        if self.interrupts {
            let seen = cpu::interrupts();
            let ready = self
                .disk
                .queues
                .iter_mut()
                .fold(false, |ready, queue| queue.arm() | ready);
            if !ready {
                cpu::sleep(seen);
            }
        }
        Ok(())
    }

    fn in_flight(&self) -> u64 {
        self.disk
            .queues
            .iter()
            .map(|queue| u64::from(queue.in_flight()))
            .sum()
    }

    fn poll(&mut self, queue: usize) -> Result<Option<Completion<Buffer>>, Failure> {
        let target = self
            .disk
            .queues
            .get_mut(queue)
            .ok_or(Failure::new("No such queue", queue as u64))?;
        target
            .poll(&self.machine.platform)
            .map_err(|_| Failure::new("The queue is broken", queue as u64))
    }

    fn completed(&mut self, done: Completion<Buffer>) -> Result<(), Failure> {
        let slot = self
            .slots
            .get_mut(done.cookie as usize)
            .ok_or(Failure::new("Unknown cookie", done.cookie))?;
        self.completed += 1;
        if !slot.busy {
            return Err(Failure::new("A request completed twice", done.cookie));
        }
        if done.result.is_err() {
            return Err(Failure::new("A good request failed at sector", slot.sector));
        }
        slot.busy = false;
        if done.buffer.is_some() {
            slot.buffer = done.buffer;
        }
        let (first, end) = (slot.sector as usize, (slot.sector + slot.sectors) as usize);
        let covered = self
            .shadow
            .get_mut(first..end)
            .ok_or(Failure::new("Sector out of the model", slot.sector))?;
        match done.operation {
            Operation::Read { .. } => {
                self.counts.reads += 1;
                if let Some(buffer) = &slot.buffer {
                    check_buffer(buffer, slot.sector, covered)?;
                }
            }
            Operation::Write { .. } => {
                self.counts.writes += 1;
                covered.fill(slot.generation);
            }
            Operation::WriteZeroes { .. } => {
                self.counts.zeroes += 1;
                covered.fill(ZERO);
            }
            Operation::Discard { .. } => {
                self.counts.discards += 1;
                covered.iter_mut().for_each(|tag| *tag |= DISCARDED);
            }
            _ => self.counts.flushes += 1,
        }
        Ok(())
    }

    fn simple(&mut self, operation: Operation) -> Result<(), Failure> {
        let slot = self.free_slot()?;
        self.start(slot, operation, 0)?;
        self.drain()
    }

    fn report(&self, extent: Extent) {
        let mut line = Line::new(if extent == Extent::Everything {
            "verify"
        } else {
            "sequence"
        });
        line.truth("good", true)
            .number("sectors", self.shadow.len() as u64);
        line.number("queues", self.disk.queues.len() as u64)
            .hex("features", self.disk.driver.features());
        line.number("reads", self.counts.reads)
            .number("writes", self.counts.writes);
        line.number("flushes", self.counts.flushes)
            .number("discards", self.counts.discards);
        line.number("write_zeroes", self.counts.zeroes);
        let pause_ms = self.machine.platform.nanoseconds(self.longest_gap) / 1_000_000;
        line.number("completed", self.completed)
            .number("longest_pause_ms", pause_ms);
        line.number("interrupts", cpu::interrupts()).print();
    }
}
