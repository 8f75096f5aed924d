//! What reached the medium, what was promised, and whether the one bears the other out. One rule: the driver's ledger and
//! the medium's record are written by different parties, and meet only here.

use crate::Random;
use crate::content::Content;
use anyhow::Result;
use anyhow::ensure;

/// Something that reached the medium.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// Sectors from `first` on; durable at once or with the next sync.
    Write {
        first: u32,
        contents: Vec<Content>,
        durable: bool,
    },
    /// All that reached the medium before it is durable.
    Sync,
}

/// All that reached a medium of `sectors` sectors, in order.
#[derive(Debug, Clone)]
pub struct Record {
    pub(crate) sectors: u32,
    pub(crate) events: Vec<Event>,
}

/// What the driver wrote and was told. Versions of a sector count from 1.
#[derive(Debug)]
pub struct Ledger {
    submitted: Vec<u32>,
    /// Versions of each sector that are zeroes.
    zeroed: Vec<Vec<u32>>,
    acknowledged: Vec<u32>,
    claims: Vec<Claim>,
}

/// A promise: from this point of the record on these versions, or later ones, are durable.
#[derive(Debug)]
struct Claim {
    position: usize,
    first: u32,
    versions: Vec<u32>,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Verified {
    /// Promises after each of which every sector was checked in all states that it could be in.
    pub claims: usize,
    /// States after a power cut that were drawn and checked as a whole.
    pub states: usize,
}

impl Ledger {
    /// Of a disk whose sectors are all zero.
    pub fn new(sectors: u32) -> Self {
        let count = sectors as usize;
        Self {
            submitted: vec![0; count],
            zeroed: vec![Vec::new(); count],
            acknowledged: vec![0; count],
            claims: Vec::new(),
        }
    }

    /// The driver writes sectors from `first` on; their new versions.
    pub fn submit(&mut self, first: u32, count: u32, zeroes: bool) -> Vec<u32> {
        let range = first as usize..(first + count) as usize;
        let mut versions = Vec::new();
        let places = self.submitted.iter_mut().zip(&mut self.zeroed);
        for (version, zeroed) in places.skip(range.start).take(range.len()) {
            *version += 1;
            versions.push(*version);
            if zeroes {
                zeroed.push(*version);
            }
        }
        versions
    }

    /// A write was acknowledged when the record was `position` long; `durable` if that was a promise.
    pub fn acknowledge(&mut self, first: u32, versions: Vec<u32>, durable: bool, position: usize) {
        let places = self.acknowledged.iter_mut().skip(first as usize);
        for (known, version) in places.zip(&versions) {
            *known = (*known).max(*version);
        }
        if durable {
            self.promise(first, versions, position);
        }
    }

    /// What a flush that is sent now will promise.
    pub fn at_flush(&self) -> Vec<u32> {
        self.acknowledged.clone()
    }

    /// A flush was acknowledged that was sent at `versions`.
    pub fn flushed(&mut self, versions: Vec<u32>, position: usize) {
        self.promise(0, versions, position);
    }

    fn promise(&mut self, first: u32, versions: Vec<u32>, position: usize) {
        self.claims.push(Claim {
            position,
            first,
            versions,
        });
    }

    /// Fails if a power cut after `at` events may leave `content` in `sector`.
    fn check(&self, required: &[u32], at: usize, sector: usize, content: Content) -> Result<()> {
        let required = required.get(sector).copied().unwrap_or(0);
        ensure!(
            self.allows(sector, required, content),
            "a power cut after event {at} may leave {content:?} in sector {sector}, of which version {required} was promised"
        );
        Ok(())
    }

    /// Whether `content` may be found in `sector` when `required` of it was promised.
    fn allows(&self, sector: usize, required: u32, content: Content) -> bool {
        let (Some(submitted), Some(zeroed)) = (self.submitted.get(sector), self.zeroed.get(sector))
        else {
            return false;
        };
        match content {
            Content::Version(version) => {
                (required..=*submitted).contains(&version) && !zeroed.contains(&version)
            }
            Content::Zero => required == 0 || zeroed.iter().any(|version| *version >= required),
            Content::Torn => false,
        }
    }
}

/// The medium at one point of its record.
struct Replay<'a> {
    record: &'a Record,
    at: usize,
    durable: Vec<Content>,
    /// What was written to each sector since the last sync.
    loose: Vec<Vec<Content>>,
    touched: Vec<usize>,
}

impl<'a> Replay<'a> {
    fn new(record: &'a Record) -> Self {
        let count = record.sectors as usize;
        Self {
            record,
            at: 0,
            durable: vec![Content::Zero; count],
            loose: vec![Vec::new(); count],
            touched: Vec::new(),
        }
    }

    /// Goes on to a later point; `looks` at each content that a power cut may leave from then on.
    fn advance(
        &mut self,
        to: usize,
        mut looks: impl FnMut(usize, usize, Content) -> Result<()>,
    ) -> Result<()> {
        let record = self.record;
        let events = record.events.iter().enumerate();
        for (at, event) in events.take(to).skip(self.at) {
            match event {
                Event::Sync => self.sync(),
                Event::Write {
                    first,
                    contents,
                    durable,
                } => {
                    for (sector, content) in (*first as usize..).zip(contents) {
                        looks(at + 1, sector, *content)?;
                        self.write(sector, *content, *durable);
                    }
                }
            }
        }
        self.at = self.at.max(to);
        Ok(())
    }

    fn sync(&mut self) {
        for sector in self.touched.drain(..) {
            let loose = self.loose.get_mut(sector).map(std::mem::take);
            let last = loose.unwrap_or_default().pop();
            if let (Some(last), Some(place)) = (last, self.durable.get_mut(sector)) {
                *place = last;
            }
        }
    }

    fn write(&mut self, sector: usize, content: Content, durable: bool) {
        let (Some(loose), Some(place)) = (self.loose.get_mut(sector), self.durable.get_mut(sector))
        else {
            return;
        };
        if durable {
            loose.clear();
            *place = content;
        } else {
            loose.push(content);
            self.touched.push(sector);
        }
    }

    /// All that a power cut at this point may leave in each sector.
    fn choices(&self) -> impl Iterator<Item = (usize, &Content, &[Content])> {
        let both = self.durable.iter().zip(&self.loose).enumerate();
        both.map(|(sector, (durable, loose))| (sector, durable, loose.as_slice()))
    }

    /// One of the states that a power cut may leave.
    fn draw(&self, random: &mut Random) -> Vec<Content> {
        self.choices()
            .map(|(_, durable, loose)| {
                let choice = random.below(loose.len() as u32 + 1) as usize;
                *choice
                    .checked_sub(1)
                    .and_then(|at| loose.get(at))
                    .unwrap_or(durable)
            })
            .collect()
    }
}

impl Record {
    /// Whether this version of the sector is durable.
    pub fn is_durable(&self, sector: u32, version: u32) -> bool {
        let mut replay = Replay::new(self);
        let all = replay.advance(self.events.len(), |_, _, _| Ok(()));
        all.is_ok() && replay.durable.get(sector as usize) == Some(&Content::Version(version))
    }

    /// Whether each state that a power cut may leave, at any point, holds all that was promised before it. Every content
    /// that a sector may have is looked at; `states` and more whole states are drawn besides.
    ///
    /// # Errors
    /// A promise that was not kept, with the sector.
    pub fn verify(&self, ledger: &Ledger, seed: u64, states: usize) -> Result<Verified> {
        let mut random = Random(seed);
        let mut replay = Replay::new(self);
        let mut required = vec![0; self.sectors as usize];
        let mut verified = Verified::default();
        let claims = &ledger.claims;
        ensure!(!claims.is_empty(), "nothing was promised");
        let draws = states.div_ceil(claims.len());
        let ends = claims.iter().skip(1).map(|claim| claim.position);
        let ends = ends.chain([self.events.len()]);
        for (claim, end) in claims.iter().zip(ends) {
            replay.advance(claim.position, |at, sector, content| {
                ledger.check(&required, at, sector, content)
            })?;
            let places = required.iter_mut().skip(claim.first as usize);
            for (known, version) in places.zip(&claim.versions) {
                *known = (*known).max(*version);
            }
            for (sector, durable, loose) in replay.choices() {
                for content in loose.iter().chain([durable]) {
                    ledger.check(&required, replay.at, sector, *content)?;
                }
            }
            verified.claims += 1;
            // And at any later point, as long as nothing more is promised.
            for draw in 0..draws {
                let left = end.saturating_sub(replay.at) as u32;
                let step = match draw {
                    0 => left / 2,
                    _ => random.below(left + 1),
                };
                replay.advance(replay.at + step as usize, |at, sector, content| {
                    ledger.check(&required, at, sector, content)
                })?;
                for (sector, content) in replay.draw(&mut random).into_iter().enumerate() {
                    ledger.check(&required, replay.at, sector, content)?;
                }
                verified.states += 1;
            }
        }
        replay.advance(self.events.len(), |at, sector, content| {
            ledger.check(&required, at, sector, content)
        })?;
        Ok(verified)
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
