//! Verified traffic to a disk through pages that are borrowed from the balloon's pool, while the balloon moves.
//!
//! Rule: what is written is read back into another page and compared; one request at a time for each place on the disk.
use alloc::vec::Vec;

use block_driver::Completion;
use block_driver::Operation;
use block_driver::Refusal;
use block_driver::Request;

use crate::command::Task;
use crate::machine::Failure;
use crate::machine::Machine;
use crate::pattern;
use crate::platform::Buffer;
use crate::pool::Pool;
use crate::workload::Disk;

/// Requests under way at once.
const SLOTS: usize = 16;
/// Sectors of a request: one page.
const SECTORS: u64 = 8;
/// Places on the disk that each slot goes through.
const PLACES: u64 = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Writing,
    Written,
    Reading,
}

struct Slot {
    phase: Phase,
    page: usize,
    round: u64,
}

/// A disk with traffic on it.
pub(crate) struct Traffic {
    disk: Disk,
    slots: Vec<Slot>,
    /// Pages written, read back and found right.
    pub(crate) verified: u64,
}

impl Traffic {
    pub(crate) fn open(machine: &Machine, task: &Task<'_>) -> Result<Self, Failure> {
        let idle = |_| Slot {
            phase: Phase::Idle,
            page: 0,
            round: 0,
        };
        Ok(Self {
            disk: Disk::open(machine, task)?,
            slots: (0..SLOTS).map(idle).collect(),
            verified: 0,
        })
    }

    /// Takes what is done and, if `more`, starts what there are pages for. Whether something is under way.
    pub(crate) fn step(
        &mut self,
        machine: &Machine,
        pool: &mut Pool,
        more: bool,
    ) -> Result<bool, Failure> {
        while let Some(done) = self.poll(machine)? {
            self.done(&done, pool)?;
        }
        for index in 0..self.slots.len() {
            self.start(machine, pool, index, more)?;
        }
        if let Some(queue) = self.disk.queues.first_mut() {
            queue.kick();
        }
        let idle = |slot: &Slot| slot.phase == Phase::Idle;
        Ok(!self.slots.iter().all(idle))
    }

    /// As the driver's `arm`.
    pub(crate) fn arm(&mut self) -> bool {
        self.disk.queues.iter_mut().any(|queue| queue.arm())
    }

    pub(crate) fn close(self, machine: &Machine) -> Result<(), Failure> {
        self.disk.close(machine)
    }

    fn poll(&mut self, machine: &Machine) -> Result<Option<Completion<Buffer>>, Failure> {
        let queue = self.disk.queues.first_mut();
        let queue = queue.ok_or(Failure::new("The disk has no queue", 0))?;
        queue
            .poll(&machine.platform)
            .map_err(|_| Failure::new("The disk's queue is broken", 0))
    }

    fn done(&mut self, done: &Completion<Buffer>, pool: &mut Pool) -> Result<(), Failure> {
        let index = done.cookie as usize;
        let slot = self.slots.get_mut(index);
        let slot = slot.ok_or(Failure::new("Unknown cookie", done.cookie))?;
        if done.result.is_err() {
            return Err(Failure::new("A good request failed", done.cookie));
        }
        let sector = sector(index, slot.round);
        let right = match (slot.phase, &done.buffer) {
            (Phase::Writing, Some(_)) => true,
            (Phase::Reading, Some(buffer)) => is_right(buffer, sector, slot.round),
            _ => return Err(Failure::new("A request completed twice", done.cookie)),
        };
        if !right {
            return Err(Failure::new("The disk holds something else at", sector));
        }
        pool.give_back(slot.page);
        slot.phase = match slot.phase {
            Phase::Writing => Phase::Written,
            _ => {
                slot.round += 1;
                self.verified += 1;
                Phase::Idle
            }
        };
        Ok(())
    }

    fn start(
        &mut self,
        machine: &Machine,
        pool: &mut Pool,
        index: usize,
        more: bool,
    ) -> Result<(), Failure> {
        let (Some(slot), Some(queue)) = (self.slots.get_mut(index), self.disk.queues.first_mut())
        else {
            return Ok(());
        };
        let sector = sector(index, slot.round);
        let (operation, phase) = match slot.phase {
            Phase::Idle if more => (Operation::Write { sector }, Phase::Writing),
            Phase::Written => (Operation::Read { sector }, Phase::Reading),
            _ => return Ok(()),
        };
        let Some((page, buffer)) = pool.borrow() else {
            return Ok(());
        };
        if phase == Phase::Writing {
            fill(&buffer, sector, slot.round);
        }
        let request = Request {
            operation,
            buffer: Some(buffer),
            cookie: index as u64,
        };
        match queue.submit(&machine.platform, request) {
            Ok(()) => (slot.phase, slot.page) = (phase, page),
            Err(rejected) => {
                pool.give_back(page);
                if rejected.reason != Refusal::Busy {
                    return Err(Failure::new("A good request was refused at", sector));
                }
            }
        }
        Ok(())
    }
}

fn sector(index: usize, round: u64) -> u64 {
    (index as u64 * PLACES + round % PLACES) * SECTORS
}

fn fill(buffer: &Buffer, sector: u64, round: u64) {
    let mut bytes = [0; pattern::SECTOR];
    for part in 0..SECTORS {
        pattern::fill(&mut bytes, sector + part, round as u32 + 1);
        buffer.write(part as usize * pattern::SECTOR, &bytes);
    }
}

fn is_right(buffer: &Buffer, sector: u64, round: u64) -> bool {
    let mut bytes = [0; pattern::SECTOR];
    (0..SECTORS).all(|part| {
        buffer.read(part as usize * pattern::SECTOR, &mut bytes)
            && pattern::matches(&bytes, sector + part, round as u32 + 1)
    })
}
