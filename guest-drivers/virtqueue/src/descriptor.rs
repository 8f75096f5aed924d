//! Descriptors as owned values, and the checks both formats share.
//!
//! One rule: a descriptor is read from shared memory once, as two words, and everything is decided
//! on that copy.

use virtio_spec::ring::descriptor_flags;

use crate::chain::ChainBatch;
use crate::chain::ChainBuilder;
use crate::chain::Segment;
use crate::chain::Token;
use crate::error::RingError;
use crate::memory::PeerMemory;
use crate::memory::RingMemory;

/// Size of a descriptor in bytes, in both formats.
pub(crate) const SIZE: usize = 16;

/// Most segments of a chain that ends in an indirect table, unless the queue is longer. The
/// specification forbids chains longer than the queue (sec. 2.7.5.3.1), but Linux sizes indirect
/// chains by the device's limits instead, so this is what other devices accept.
const INDIRECT_SEGMENTS_MAX: u16 = 1024;

const CHAIN_BYTES_MAX: u64 = 1 << 32;

/// A descriptor of either format: `extra` is `next` of a split one and `id` of a packed one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) extra: u16,
}

impl Descriptor {
    /// From the words of a split descriptor (sec. 2.7.5).
    #[inline]
    pub(crate) fn from_split(addr: u64, rest: u64) -> Self {
        Self {
            addr,
            len: rest as u32,
            flags: (rest >> 32) as u16,
            extra: (rest >> 48) as u16,
        }
    }

    /// The words of a split descriptor.
    #[inline]
    pub(crate) fn split_words(self) -> (u64, u64) {
        let rest = u64::from(self.len) | u64::from(self.flags) << 32 | u64::from(self.extra) << 48;
        (self.addr, rest)
    }

    /// From the words of a packed descriptor (sec. 2.8.10.1).
    #[inline]
    pub(crate) fn from_packed(addr: u64, rest: u64) -> Self {
        Self {
            addr,
            len: rest as u32,
            extra: (rest >> 32) as u16,
            flags: (rest >> 48) as u16,
        }
    }

    /// The words of a packed descriptor.
    #[inline]
    pub(crate) fn packed_words(self) -> (u64, u64) {
        (self.addr, packed_rest(self.len, self.extra, self.flags))
    }

    #[inline]
    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Whether it is a chain by itself: it has no successor and is no table.
    #[inline]
    pub(crate) fn is_single(&self) -> bool {
        !self.has(descriptor_flags::NEXT | descriptor_flags::INDIRECT)
    }

    /// Appends the chain that it is by itself, once `begin` has remembered the bytes that may be written.
    #[inline]
    pub(crate) fn finish_single(
        &self,
        id: u16,
        batch: &mut ChainBatch,
        begin: impl FnOnce(u64) -> Result<(), RingError>,
    ) -> Result<(), RingError> {
        if self.len == 0 {
            return Err(RingError::ZeroLength);
        }
        let writable = self.has(descriptor_flags::WRITE);
        begin(if writable { self.len.into() } else { 0 })?;
        let segment = Segment {
            addr: self.addr,
            len: self.len,
        };
        batch.push_single(Token { id, descriptors: 1 }, segment, writable)
    }

    /// Adds the buffer of a plain descriptor to the chain.
    #[inline]
    pub(crate) fn push_to(&self, chain: &mut ChainBuilder<'_>) -> Result<(), RingError> {
        if self.len == 0 {
            return Err(RingError::ZeroLength);
        }
        let segment = Segment {
            addr: self.addr,
            len: self.len,
        };
        chain.push(segment, self.has(descriptor_flags::WRITE))?;
        if chain.bytes() > CHAIN_BYTES_MAX {
            return Err(RingError::ChainTooLarge);
        }
        Ok(())
    }
}

/// The second word of a packed descriptor.
#[inline]
pub(crate) fn packed_rest(len: u32, id: u16, flags: u16) -> u64 {
    u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48
}

/// An indirect table in the peer's memory (sec. 2.7.5.3, 2.8.7).
pub(crate) struct Table {
    memory: RingMemory,
    entries: u32,
    segments_max: usize,
}

impl Table {
    /// The table that `descriptor` refers to. Its `WRITE` flag is ignored, as sec. 2.7.5.3.2 asks.
    pub(crate) fn find(
        descriptor: &Descriptor,
        memory: &impl PeerMemory,
        queue_size: u16,
    ) -> Result<Self, RingError> {
        let len = descriptor.len as usize;
        if len == 0 || !len.is_multiple_of(SIZE) {
            return Err(RingError::IndirectLength);
        }
        let memory = memory
            .span(descriptor.addr, len)
            .ok_or(RingError::IndirectAddress)?;
        let segments_max = usize::from(queue_size.max(INDIRECT_SEGMENTS_MAX));
        Ok(Self {
            memory,
            entries: descriptor.len / SIZE as u32,
            segments_max,
        })
    }

    fn words(&self, index: u32) -> Result<(u64, u64), RingError> {
        self.memory
            .load_pair(index as usize * SIZE)
            .ok_or(RingError::IndirectAddress)
    }

    fn push(&self, entry: &Descriptor, chain: &mut ChainBuilder<'_>) -> Result<(), RingError> {
        if chain.segments() == self.segments_max {
            return Err(RingError::ChainTooLong);
        }
        entry.push_to(chain)
    }

    /// Adds a split table: the entries linked from the first on.
    pub(crate) fn walk_linked(&self, chain: &mut ChainBuilder<'_>) -> Result<(), RingError> {
        let mut index = 0;
        for _ in 0..self.entries {
            let (addr, rest) = self.words(index)?;
            let entry = Descriptor::from_split(addr, rest);
            if entry.has(descriptor_flags::INDIRECT) {
                return Err(RingError::IndirectNested);
            }
            self.push(&entry, chain)?;
            if !entry.has(descriptor_flags::NEXT) {
                return Ok(());
            }
            index = u32::from(entry.extra);
            if index >= self.entries {
                return Err(RingError::DescriptorIndex);
            }
        }
        Err(RingError::ChainTooLong)
    }

    /// Adds a packed table: all entries, one after the other. Of their flags only `WRITE` counts
    /// (sec. 2.8.7).
    pub(crate) fn walk_all(&self, chain: &mut ChainBuilder<'_>) -> Result<(), RingError> {
        if self.entries as usize > self.segments_max {
            return Err(RingError::ChainTooLong);
        }
        for index in 0..self.entries {
            let (addr, rest) = self.words(index)?;
            self.push(&Descriptor::from_packed(addr, rest), chain)?;
        }
        Ok(())
    }
}
