//! What a guest says of its memory (virtio 1.4 sec. 5.5.6.3).
//!
//! Rule: entries come in any order and number; what is not understood is counted and left out, and a value is whatever
//! the guest claims.

use std::time::Instant;

use guest_memory::GuestMemory;
use virtio_spec::balloon::Stat;
use virtio_spec::balloon::stat;
use virtqueue::Chain;
use zerocopy::FromBytes;

/// Most entries that are read: each tag many times over.
const MOST: usize = 256;

/// The statistics of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    values: [Option<u64>; stat::COUNT],
    /// When they came.
    pub at: Instant,
}

impl Statistics {
    /// Statistics with `values` by tag, as of `at`.
    pub fn new(values: [Option<u64>; stat::COUNT], at: Instant) -> Self {
        Self { values, at }
    }

    /// The value of `tag`, if the guest gave one.
    pub fn get(&self, tag: u16) -> Option<u64> {
        self.values.get(usize::from(tag)).copied().flatten()
    }

    /// All values that there are, with their names.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let pairs = stat::NAMES.iter().zip(&self.values);
        pairs.filter_map(|(name, value)| value.map(|value| (*name, value)))
    }
}

/// What was odd about a buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Oddities {
    /// Entries with unknown or repeated tags, and entries that are not whole or too many.
    pub entries: u64,
    /// Some of it is no memory, or not the device's to read.
    pub malformed: bool,
}

/// Reads the statistics in `chain`.
pub(crate) fn read(chain: &Chain<'_>, memory: &GuestMemory) -> (Statistics, Oddities) {
    let mut bytes = [0; MOST * size_of::<Stat>()];
    let mut have = 0;
    let mut odd = Oddities {
        malformed: !chain.writable.is_empty(),
        ..Oddities::default()
    };
    for segment in chain.readable {
        let part = (segment.len as usize).min(bytes.len() - have);
        odd.entries += u64::from(part < segment.len as usize);
        let Some(room) = bytes.get_mut(have..have + part) else {
            break;
        };
        if memory.read(segment.addr, room).is_err() {
            odd.malformed = true;
            break;
        }
        have += part;
    }
    let mut values = [None; stat::COUNT];
    let (entries, rest) = bytes
        .get(..have)
        .unwrap_or_default()
        .as_chunks::<{ size_of::<Stat>() }>();
    odd.entries += u64::from(!rest.is_empty());
    for entry in entries {
        let Ok(entry) = Stat::read_from_bytes(entry) else {
            continue;
        };
        match values.get_mut(usize::from(entry.tag.get())) {
            // The last word counts.
            Some(place) => odd.entries += u64::from(place.replace(entry.value.get()).is_some()),
            None => odd.entries += 1,
        }
    }
    let statistics = Statistics {
        values,
        at: Instant::now(),
    };
    (statistics, odd)
}
