//! Cuts a mapped buffer into requests that the device accepts: no segment above `size_max`, no request above `seg_max` segments, each
//! request a whole number of blocks.
//!
//! Rule: the byte order of the buffer is kept, and the pieces cover it exactly.
use alloc::vec::Vec;

use driver_platform::DeviceRange;
use fallible_alloc::FallibleVec;
use fallible_alloc::OutOfMemory;
use virtqueue::Segment;

use crate::error::Refusal;

/// Where one request's segments lie in the list, and how many bytes they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) bytes: u64,
}

/// Limits for the cutting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) size_max: u32,
    pub(crate) seg_max: usize,
    pub(crate) block: u32,
    /// Most segments of the whole buffer.
    pub(crate) total_max: usize,
}

/// Collects the pieces of one buffer; made with room for the most that the limits allow.
#[derive(Debug)]
pub(crate) struct Segments {
    list: Vec<Segment>,
    cuts: Vec<Cut>,
    overflow: bool,
}

impl Segments {
    /// For buffers of up to `segments` segments, in up to `cuts` requests.
    pub(crate) fn new(segments: usize, cuts: usize) -> Result<Self, OutOfMemory> {
        Ok(Self {
            list: Vec::with_room(segments)?,
            cuts: Vec::with_room(cuts)?,
            overflow: false,
        })
    }

    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.cuts.clear();
        self.overflow = false;
    }

    /// Appends a piece, in parts of at most `size_max` bytes.
    pub(crate) fn push(&mut self, piece: DeviceRange, limits: &Limits) {
        let mut addr = piece.addr;
        let mut left = piece.len;
        while left > 0 {
            let len = left.min(limits.size_max);
            let full = self.list.len() >= limits.total_max;
            if full || self.list.push_in_room(Segment { addr, len }).is_err() {
                self.overflow = true;
                return;
            }
            addr = addr.wrapping_add(u64::from(len));
            left -= len;
        }
    }

    pub(crate) fn cuts(&self) -> &[Cut] {
        &self.cuts
    }

    pub(crate) fn of(&self, cut: Cut) -> &[Segment] {
        self.list.get(cut.start..cut.end).unwrap_or(&[])
    }

    /// Makes the cuts. `len` is what the buffer says it has.
    pub(crate) fn cut(&mut self, len: u64, limits: &Limits) -> Result<(), Refusal> {
        if self.overflow {
            return Err(Refusal::TooLarge);
        }
        let total: u64 = self.list.iter().map(|segment| u64::from(segment.len)).sum();
        if total != len || len == 0 {
            return Err(Refusal::BadBuffer);
        }
        if self.list.len() <= limits.seg_max && total <= u64::from(u32::MAX) {
            return self.add_cut(Cut {
                start: 0,
                end: self.list.len(),
                bytes: total,
            });
        }
        let mut start = 0;
        while start < self.list.len() {
            start = self.cut_one(start, limits)?;
        }
        Ok(())
    }

    /// Makes the cut that begins at segment `start`; returns where the next one begins.
    fn cut_one(&mut self, start: usize, limits: &Limits) -> Result<usize, Refusal> {
        let block = u64::from(limits.block);
        let mut bytes = 0_u64;
        // The last segment at which a whole number of blocks is reached or passed, and the bytes up to that block border.
        let mut best = None;
        let candidates = self
            .list
            .get(start..)
            .unwrap_or(&[])
            .iter()
            .take(limits.seg_max);
        for (index, segment) in candidates.enumerate() {
            if bytes + u64::from(segment.len) > u64::from(u32::MAX) {
                break;
            }
            let before = bytes - bytes % block;
            bytes += u64::from(segment.len);
            let whole = bytes - bytes % block;
            if whole > before {
                best = Some((start + index, whole, bytes - whole));
            }
        }
        let (last, whole, excess) = best.ok_or(Refusal::TooLarge)?;
        if excess > 0 {
            self.split_segment(last, excess, limits)?;
        }
        self.add_cut(Cut {
            start,
            end: last + 1,
            bytes: whole,
        })?;
        Ok(last + 1)
    }

    fn add_cut(&mut self, cut: Cut) -> Result<(), Refusal> {
        self.cuts.push_in_room(cut).map_err(|_| Refusal::TooLarge)
    }

    /// Makes the last `tail` bytes of a segment a segment of their own.
    fn split_segment(&mut self, index: usize, tail: u64, limits: &Limits) -> Result<(), Refusal> {
        let segment = self.list.get_mut(index).ok_or(Refusal::TooLarge)?;
        // Less than one block, and blocks are at most 64 KiB.
        let tail = u32::try_from(tail).map_err(|_| Refusal::TooLarge)?;
        let head = segment
            .len
            .checked_sub(tail)
            .filter(|&head| head > 0)
            .ok_or(Refusal::TooLarge)?;
        let addr = segment.addr.wrapping_add(u64::from(head));
        segment.len = head;
        if self.list.len() >= limits.total_max {
            return Err(Refusal::TooLarge);
        }
        let appended = self.list.push_in_room(Segment { addr, len: tail });
        appended.map_err(|_| Refusal::TooLarge)?;
        if let Some(behind) = self.list.get_mut(index + 1..) {
            behind.rotate_right(1);
        }
        Ok(())
    }
}
