//! Page numbers as drivers send them: arrays of little-endian `u32` in the readable part of a chain (virtio 1.4 sec. 5.5.6).
//!
//! Rule: a number is read once, into memory whose size does not depend on what the driver says.

use std::ops::Range;

use guest_memory::GuestMemory;
use virtio_spec::balloon::PFN_SIZE;
use virtqueue::Chain;
use virtqueue::Segment;

/// Most page numbers that are read of one chain: 4 GiB of pages in 4 MiB of numbers.
pub(crate) const MOST: usize = 1 << 20;
/// Bytes that are copied from the guest at once.
const COPY: usize = 4096;

/// Page numbers of one chain; keeps its room.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    pages: Vec<u32>,
}

/// What was wrong with a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Numbers that were there more than once.
    pub repeated: u64,
    /// Times that page zero was named.
    pub zero: u64,
    /// Numbers that were not read.
    pub excess: u64,
    /// It is not made of whole numbers in readable memory.
    pub malformed: bool,
}

impl Numbers {
    /// Reads the numbers of `chain`, and puts them in order.
    pub fn read(&mut self, chain: &Chain<'_>, memory: &GuestMemory) -> Faults {
        self.pages.clear();
        let total: u64 = chain.readable.iter().map(|s| u64::from(s.len)).sum();
        let whole = self.fill(chain.readable, memory);
        let mut faults = Faults {
            malformed: !whole
                || !total.is_multiple_of(PFN_SIZE as u64)
                || !chain.writable.is_empty(),
            ..Faults::default()
        };
        if whole {
            faults.excess = (total / PFN_SIZE as u64).saturating_sub(self.pages.len() as u64);
        }
        self.pages.sort_unstable();
        let zeroes = self.pages.partition_point(|page| *page == 0);
        self.pages.drain(..zeroes);
        faults.zero = zeroes as u64;
        let before = self.pages.len();
        self.pages.dedup();
        faults.repeated = (before - self.pages.len()) as u64;
        faults
    }

    /// Copies numbers until the chain or the room ends; `false` when some of it is no memory.
    fn fill(&mut self, segments: &[Segment], memory: &GuestMemory) -> bool {
        let mut bytes = [0; COPY];
        let mut have = 0;
        for segment in segments {
            let (mut addr, mut left) = (segment.addr, segment.len as usize);
            while left != 0 && self.pages.len() < MOST {
                let part = left.min(COPY - have);
                let Some(room) = bytes.get_mut(have..have + part) else {
                    return false;
                };
                if memory.read(addr, room).is_err() {
                    return false;
                }
                have += part;
                left -= part;
                addr = addr.wrapping_add(part as u64);
                let (numbers, _) = bytes
                    .get(..have)
                    .unwrap_or_default()
                    .as_chunks::<PFN_SIZE>();
                let whole = numbers.len() * PFN_SIZE;
                self.pages
                    .extend(numbers.iter().map(|n| u32::from_le_bytes(*n)));
                // A number may lie across two segments.
                bytes.copy_within(whole..have, 0);
                have -= whole;
            }
        }
        self.pages.truncate(MOST);
        true
    }

    /// The runs of neighbouring pages, in order.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> {
        self.pages
            .chunk_by(|a, b| *b == a.wrapping_add(1))
            .filter_map(|run| {
                let (first, last) = (run.first()?, run.last()?);
                Some(u64::from(*first)..u64::from(*last) + 1)
            })
    }
}
