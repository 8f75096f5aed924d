//! The segments of a chain that is being put together.
//!
//! Rule: room for the longest chain is made with the queue; a segment too many is remembered and the chain refused later.
use alloc::vec::Vec;

use driver_platform::DeviceRange;
use fallible_alloc::FallibleVec;
use fallible_alloc::OutOfMemory;
use virtqueue::Segment;

/// A chain that is being put together, in the order in which the device sees it.
#[derive(Debug)]
pub struct Chain {
    segments: Vec<Segment>,
    bytes: u64,
    most: usize,
    overflow: bool,
}

impl Chain {
    pub(crate) fn new(most: usize) -> Result<Self, OutOfMemory> {
        Ok(Self {
            segments: Vec::with_room(most)?,
            bytes: 0,
            most,
            overflow: false,
        })
    }

    /// Begins a new chain.
    #[inline]
    pub fn clear(&mut self) {
        self.segments.clear();
        self.bytes = 0;
        self.overflow = false;
    }

    /// Appends a segment, unless it is empty.
    #[inline]
    pub fn push(&mut self, segment: Segment) {
        if segment.len == 0 {
            return;
        }
        if self.segments.len() >= self.most || self.segments.push_in_room(segment).is_err() {
            self.overflow = true;
            return;
        }
        self.bytes += u64::from(segment.len);
    }

    /// Appends a piece of a mapped buffer.
    #[inline]
    pub fn push_range(&mut self, range: DeviceRange) {
        self.push(Segment {
            addr: range.addr,
            len: range.len,
        });
    }

    /// Appends segments.
    #[inline]
    pub fn extend(&mut self, segments: &[Segment]) {
        for &segment in segments {
            self.push(segment);
        }
    }

    /// Its segments.
    #[inline]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Its length in segments.
    #[inline]
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Whether it has no segments.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes of all segments.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there was a segment too many.
    #[inline]
    pub(crate) fn overflows(&self) -> bool {
        self.overflow
    }
}
