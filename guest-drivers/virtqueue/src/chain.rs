//! Chains the device half has taken, in an arena that is reused.
//!
//! One rule: everything here is an owned copy; nothing refers to the ring.

use alloc::vec::Vec;

use fallible_alloc::FallibleVec;
use virtio_spec::ring::PackedDescriptor;

use crate::error::RingError;

/// A piece of a buffer, in the driver's (guest-physical or device) address space.
///
/// The address was not checked: translating it is the caller's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Address.
    pub addr: u64,
    /// Length in bytes, not 0.
    pub len: u32,
}

/// Names one taken chain until it is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Head descriptor index (split) or buffer id (packed); below the queue size.
    pub id: u16,
    /// Ring descriptors the chain occupies, not 0 (an indirect table counts as one).
    pub descriptors: u16,
}

/// One taken chain.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    /// What to complete it with.
    pub token: Token,
    /// What the driver wrote for the device.
    pub readable: &'a [Segment],
    /// What the device may write, following the readable part.
    pub writable: &'a [Segment],
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    token: Token,
    start: u32,
    writable: u32,
    end: u32,
    raw_end: u32,
}

/// Chains taken by [`DeviceQueue::take`](crate::DeviceQueue::take); reuse it to avoid allocation.
#[derive(Debug, Default)]
pub struct ChainBatch {
    entries: Vec<Entry>,
    segments: Vec<Segment>,
    raw: Vec<PackedDescriptor>,
    keep_raw: bool,
}

impl ChainBatch {
    /// An empty batch with room for `chains` chains of `segments` segments in all, if there is
    /// memory for them. It grows when that is exceeded; what cannot grow then is an error of
    /// [`DeviceQueue::take`](crate::DeviceQueue::take).
    pub fn with_capacity(chains: usize, segments: usize) -> Self {
        Self {
            entries: Vec::with_room(chains).unwrap_or_default(),
            segments: Vec::with_room(segments).unwrap_or_default(),
            raw: Vec::new(),
            keep_raw: false,
        }
    }

    /// Also keeps the ring descriptors of packed chains, for [`ChainBatch::raw`]. Takes effect for
    /// chains taken from now on.
    pub fn keep_raw_descriptors(&mut self) {
        self.keep_raw = true;
    }

    /// Removes all chains and keeps the room.
    #[inline]
    pub fn clear(&mut self) {
        self.entries.clear();
        self.segments.clear();
        self.raw.clear();
    }

    /// Appends a chain of one segment. Its ring descriptor is not kept: see [`Self::keeps_raw`].
    #[inline]
    pub(crate) fn push_single(
        &mut self,
        token: Token,
        segment: Segment,
        writable: bool,
    ) -> Result<(), RingError> {
        let start = self.segments.len() as u32;
        self.segments.push_growing(segment)?;
        self.entries.push_growing(Entry {
            token,
            start,
            writable: start + u32::from(!writable),
            end: start + 1,
            raw_end: self.raw.len() as u32,
        })?;
        Ok(())
    }

    /// Whether ring descriptors are kept, too.
    #[inline]
    pub(crate) fn keeps_raw(&self) -> bool {
        self.keep_raw
    }

    /// What names the chains, in the order taken.
    #[inline]
    pub fn tokens(&self) -> impl Iterator<Item = Token> {
        self.entries.iter().map(|entry| entry.token)
    }

    /// Removes all chains from `position` on.
    #[inline]
    pub(crate) fn truncate(&mut self, position: usize) {
        let Some(first) = self.entries.get(position) else {
            return;
        };
        let segments = first.start as usize;
        let raw = match position.checked_sub(1) {
            Some(previous) => self.entries.get(previous).map_or(0, |entry| entry.raw_end),
            None => 0,
        };
        self.entries.truncate(position);
        self.segments.truncate(segments);
        self.raw.truncate(raw as usize);
    }

    /// Number of chains.
    #[inline]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no chains.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The chain at `position`, in the order taken.
    #[inline]
    pub fn get(&self, position: usize) -> Option<Chain<'_>> {
        let entry = self.entries.get(position)?;
        let readable = self
            .segments
            .get(entry.start as usize..entry.writable as usize)?;
        let writable = self
            .segments
            .get(entry.writable as usize..entry.end as usize)?;
        Some(Chain {
            token: entry.token,
            readable,
            writable,
        })
    }

    /// All chains, in the order taken.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Chain<'_>> {
        (0..self.entries.len()).map(|position| {
            self.get(position).unwrap_or(Chain {
                token: Token {
                    id: 0,
                    descriptors: 0,
                },
                readable: &[],
                writable: &[],
            })
        })
    }

    /// The ring descriptors of the packed chain at `position`, as they stood in the ring: what an
    /// in-flight record has to keep, for used descriptors overwrite them. Empty for split chains,
    /// and unless [`ChainBatch::keep_raw_descriptors`] was called before.
    pub fn raw(&self, position: usize) -> &[PackedDescriptor] {
        let start = match position.checked_sub(1) {
            Some(previous) => self.entries.get(previous).map_or(0, |entry| entry.raw_end),
            None => 0,
        };
        let end = self
            .entries
            .get(position)
            .map_or(start, |entry| entry.raw_end);
        self.raw.get(start as usize..end as usize).unwrap_or(&[])
    }
}

/// A chain that is being put into a batch; dropped without [`ChainBuilder::finish`] it leaves
/// the batch as it was.
pub(crate) struct ChainBuilder<'a> {
    batch: &'a mut ChainBatch,
    start: usize,
    raw_start: usize,
    writable_start: usize,
    readable_bytes: u64,
    writable_bytes: u64,
    finished: bool,
}

impl<'a> ChainBuilder<'a> {
    #[inline]
    pub(crate) fn new(batch: &'a mut ChainBatch) -> Self {
        let start = batch.segments.len();
        let raw_start = batch.raw.len();
        Self {
            batch,
            start,
            raw_start,
            writable_start: usize::MAX,
            readable_bytes: 0,
            writable_bytes: 0,
            finished: false,
        }
    }

    /// Appends a segment.
    ///
    /// # Errors
    /// [`RingError::ReadAfterWrite`] when a readable one follows a writable one.
    #[inline]
    pub(crate) fn push(&mut self, segment: Segment, writable: bool) -> Result<(), RingError> {
        if writable {
            if self.writable_start == usize::MAX {
                self.writable_start = self.batch.segments.len();
            }
            self.writable_bytes += u64::from(segment.len);
        } else {
            if self.writable_start != usize::MAX {
                return Err(RingError::ReadAfterWrite);
            }
            self.readable_bytes += u64::from(segment.len);
        }
        self.batch.segments.push_growing(segment)?;
        Ok(())
    }

    /// Keeps a ring descriptor, if the batch asks for it.
    #[inline]
    pub(crate) fn push_raw(
        &mut self,
        descriptor: impl FnOnce() -> PackedDescriptor,
    ) -> Result<(), RingError> {
        if self.batch.keep_raw {
            self.batch.raw.push_growing(descriptor())?;
        }
        Ok(())
    }

    /// Segments so far.
    #[inline]
    pub(crate) fn segments(&self) -> usize {
        self.batch.segments.len() - self.start
    }

    /// Bytes so far, readable and writable.
    #[inline]
    pub(crate) fn bytes(&self) -> u64 {
        self.readable_bytes + self.writable_bytes
    }

    /// Bytes the device may write so far.
    #[inline]
    pub(crate) fn writable_bytes(&self) -> u64 {
        self.writable_bytes
    }

    #[inline]
    pub(crate) fn finish(mut self, token: Token) -> Result<(), RingError> {
        let end = self.batch.segments.len();
        let writable = if self.writable_start == usize::MAX {
            end
        } else {
            self.writable_start
        };
        self.batch.entries.push_growing(Entry {
            token,
            start: self.start as u32,
            writable: writable as u32,
            end: end as u32,
            raw_end: self.batch.raw.len() as u32,
        })?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for ChainBuilder<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.finished {
            self.batch.segments.truncate(self.start);
            self.batch.raw.truncate(self.raw_start);
        }
    }
}
