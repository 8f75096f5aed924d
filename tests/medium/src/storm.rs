//! Many requests by seed, each write a new version of its sectors, while memory comes and goes and the daemon dies. One
//! rule: a sector has one write in flight at a time, so its versions have an order.

use crate::Disk;
use crate::Ledger;
use crate::Machine;
use crate::Medium;
use crate::Random;
use crate::Request;
use crate::content;
use crate::machine::Done;
use crate::machine::QUEUES;
use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use std::collections::HashMap;
use virtio_spec::block::status;

/// One write in this many is followed by a flush.
const FLUSH_EVERY: u32 = 12;
/// One in this many writes zeroes.
const ZERO_EVERY: u32 = 40;

/// What is to happen.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    /// Where its choices come from.
    pub seed: u64,
    /// How many writes.
    pub writes: u32,
    /// Each write is a promise, for the disk writes through.
    pub through: bool,
    /// The driver sends flushes.
    pub flushes: bool,
    /// How often memory comes or goes.
    pub pauses: u32,
    /// How often the daemon is killed.
    pub kills: u32,
}

enum Sent {
    Write { first: u32, versions: Vec<u32> },
    Flush(Vec<u32>),
}

struct Run<'a> {
    storm: Storm,
    random: Random,
    medium: &'a Medium,
    machine: &'a mut Machine,
    ledger: Ledger,
    sectors: u32,
    busy: Vec<bool>,
    sent: HashMap<u64, Sent>,
    writes: u32,
    tags: u64,
}

impl Storm {
    /// Lets it happen; what the driver knows afterwards.
    ///
    /// # Errors
    /// A request fails or hangs, or the daemon does not come back.
    pub fn run(self, medium: &Medium, machine: &mut Machine, disk: &mut Disk) -> Result<Ledger> {
        let sectors = (medium.image().len() / content::SECTOR) as u32;
        let mut run = Run {
            storm: self,
            random: Random(self.seed),
            medium,
            machine,
            ledger: Ledger::new(sectors),
            sectors,
            busy: vec![false; sectors as usize],
            sent: HashMap::new(),
            writes: 0,
            tags: 0,
        };
        let chance = |times: u32| self.writes / (times + 1);
        while run.writes < self.writes || run.machine.in_flight() != 0 {
            let before = run.writes;
            run.fill()?;
            run.machine.kick();
            let crossed = |every: u32| every != 0 && before / every != run.writes / every;
            let (pause, kill) = (crossed(chance(self.pauses)), crossed(chance(self.kills)));
            if self.pauses != 0 && pause {
                run.machine.pause()?;
            }
            if self.kills != 0 && kill {
                disk.restart()?;
                run.machine.attach(&disk.socket())?;
            }
            if run.machine.in_flight() != 0 {
                let done = run.machine.wait()?;
                let position = medium.position();
                done.into_iter()
                    .try_for_each(|done| run.take(done, position))?;
            }
        }
        Ok(run.ledger)
    }
}

impl Run<'_> {
    fn fill(&mut self) -> Result<()> {
        // Sometimes the ring runs empty, sometimes it is full.
        let depth = 1 + self.random.below(self.machine.room() as u32) as usize;
        for _ in 0..depth.min(self.machine.room()) {
            if self.writes == self.storm.writes {
                return Ok(());
            } else if self.storm.flushes && self.random.once_in(FLUSH_EVERY) {
                let versions = self.ledger.at_flush();
                self.send(&Request::Flush, Sent::Flush(versions))?;
            } else {
                self.write()?;
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let count = 1 << self.random.below(5);
        let first = self.random.below(self.sectors - count);
        let range = first as usize..(first + count) as usize;
        let places = self.busy.get_mut(range).context("no such sectors")?;
        if places.iter().any(|busy| *busy) {
            return Ok(());
        }
        places.fill(true);
        self.writes += 1;
        let zeroes = self.random.once_in(ZERO_EVERY);
        let versions = self.ledger.submit(first, count, zeroes);
        let request = if zeroes {
            let unmap = self.random.once_in(2);
            Request::Zero {
                first,
                count,
                unmap,
            }
        } else {
            let sectors = (first..).zip(&versions);
            let data = sectors.flat_map(|(sector, version)| content::fill(sector, *version));
            Request::Write {
                first,
                data: data.collect(),
            }
        };
        self.send(&request, Sent::Write { first, versions })
    }

    fn send(&mut self, request: &Request, sent: Sent) -> Result<()> {
        self.tags += 1;
        self.sent.insert(self.tags, sent);
        let queue = self.random.below(QUEUES.into()) as usize;
        self.machine.submit(queue, self.tags, request)
    }

    fn take(&mut self, done: Done, position: usize) -> Result<()> {
        ensure!(
            done.status == status::OK,
            "a request failed: {}",
            done.status
        );
        match self
            .sent
            .remove(&done.tag)
            .context("an unknown request came back")?
        {
            Sent::Flush(versions) => self.ledger.flushed(versions, position),
            Sent::Write { first, versions } => {
                let places = self.busy.iter_mut().skip(first as usize);
                places.take(versions.len()).for_each(|busy| *busy = false);
                self.ledger
                    .acknowledge(first, versions, self.storm.through, position);
            }
        }
        ensure!(self.medium.position() >= position, "the record shrank");
        Ok(())
    }
}
