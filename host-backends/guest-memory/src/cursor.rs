//! A place in a scatter list of guest memory that moves forward: how a header is read, and a frame copied, across
//! descriptor and region borders at any byte.
//!
//! One rule: each span is looked up when the cursor reaches it and used at once; nothing is kept.

use crate::Error;
use crate::GuestMemory;
use crate::HostSlice;
use crate::IoVecs;
use virtqueue::Segment;

/// A position in `segments` of `memory`.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    memory: &'a GuestMemory,
    segments: &'a [Segment],
    /// Bytes of the first segment that are behind.
    offset: u32,
}

impl<'a> Cursor<'a> {
    /// The first byte of `segments`.
    #[inline]
    pub fn new(memory: &'a GuestMemory, segments: &'a [Segment]) -> Self {
        Self {
            memory,
            segments,
            offset: 0,
        }
    }

    /// Moves on by `bytes`, or to the end.
    #[inline]
    pub fn skip(&mut self, mut bytes: usize) {
        while let Some((first, rest)) = self.segments.split_first() {
            let left = (first.len - self.offset) as usize;
            if bytes < left {
                self.offset += bytes as u32;
                return;
            }
            bytes -= left;
            self.segments = rest;
            self.offset = 0;
        }
    }

    /// What lies ahead, as the rest of the first segment and the segments behind it.
    #[inline]
    pub fn rest(&self) -> Option<(Segment, &'a [Segment])> {
        let (first, rest) = self.segments.split_first()?;
        let ahead = Segment {
            addr: first.addr.wrapping_add(u64::from(self.offset)),
            len: first.len - self.offset,
        };
        Some((ahead, rest))
    }

    /// The next contiguous bytes, at most `max`; `None` at the end. The cursor moves behind them.
    ///
    /// # Errors
    /// The address is no memory.
    #[inline]
    fn next(&mut self, max: usize) -> Result<Option<HostSlice<'a>>, Error> {
        let Some((ahead, _)) = self.rest() else {
            return Ok(None);
        };
        let want = max.min(ahead.len as usize);
        let span = match self.memory.host_slice(ahead.addr, want) {
            Some(span) => span,
            None => self.memory.first_span(ahead.addr, want)?,
        };
        self.skip(span.len());
        Ok(Some(span))
    }

    /// Copies the next bytes to `out`; returns how many there were.
    ///
    /// # Errors
    /// A part is no memory.
    #[inline]
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        while let Some(target) = out.get_mut(done..).filter(|target| !target.is_empty()) {
            let Some(span) = self.next(target.len())? else {
                break;
            };
            span.read(target);
            done += span.len();
        }
        Ok(done)
    }

    /// Copies `data` to the next bytes; returns how many there were. Dirty pages are the caller's business: a queue
    /// marks those of its chains.
    ///
    /// # Errors
    /// A part is no memory.
    #[inline]
    pub fn write(&mut self, data: &[u8]) -> Result<usize, Error> {
        let mut done = 0;
        while let Some(source) = data.get(done..).filter(|source| !source.is_empty()) {
            let Some(span) = self.next(source.len())? else {
                break;
            };
            span.write(source);
            done += span.len();
        }
        Ok(done)
    }

    /// Appends the next `len` bytes to `out` as spans; returns how many there were.
    ///
    /// # Errors
    /// A part is no memory; `out` has the parts before it.
    #[inline]
    pub fn spans(&mut self, len: usize, out: &mut IoVecs) -> Result<usize, Error> {
        let mut done = 0;
        while done < len {
            let Some(span) = self.next(len - done)? else {
                break;
            };
            done += span.len();
            out.push(span);
        }
        Ok(done)
    }

    /// Copies the next `len` bytes of `from` to the next bytes of this; returns how many there were on both sides. As
    /// for `write`, dirty pages are the caller's business.
    ///
    /// # Errors
    /// A part is no memory.
    #[inline]
    pub fn copy_from(&mut self, from: &mut Cursor<'_>, len: usize) -> Result<usize, Error> {
        let mut done = 0;
        while done < len {
            let Some(mut source) = from.next(len - done)? else {
                break;
            };
            while source.len() != 0 {
                let Some(target) = self.next(source.len())? else {
                    return Ok(done);
                };
                source = source.copy_to(target);
                done += target.len();
            }
        }
        Ok(done)
    }
}
