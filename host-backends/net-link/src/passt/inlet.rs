//! Frames out of a byte stream.
//!
//! Rule: one read takes as many frames as wait; a length that no frame has means that the stream is out of step, which
//! nothing but a new connection mends.

use std::io;
use std::io::Read;

use crate::MAX_FRAME;

/// Bytes that one read may take: a few of the largest frames.
const BUFFER: usize = 256 << 10;
const PREFIX: usize = 4;
/// An Ethernet header.
const MIN_FRAME: usize = 14;

/// What the buffer has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A frame, at this place in [`Inlet::bytes`].
    Frame(std::ops::Range<usize>),
    /// Not a whole one.
    Nothing,
    /// The length makes no sense.
    OutOfStep(u32),
}

/// The bytes between the socket and the guest.
pub(super) struct Inlet {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inlet {
    pub fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// Forgets everything, for a new connection.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Looks at the next frame without taking it.
    pub fn next(&self) -> Next {
        let waiting = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some(prefix) = waiting.first_chunk::<PREFIX>() else {
            return Next::Nothing;
        };
        let announced = u32::from_be_bytes(*prefix);
        let length = announced as usize;
        if !(MIN_FRAME..=MAX_FRAME).contains(&length) {
            return Next::OutOfStep(announced);
        }
        if waiting.len() < PREFIX + length {
            return Next::Nothing;
        }
        let at = self.start + PREFIX;
        Next::Frame(at..at + length)
    }

    /// The bytes of a frame that [`Inlet::next`] found.
    pub fn bytes(&self, frame: std::ops::Range<usize>) -> &[u8] {
        self.buffer.get(frame).unwrap_or_default()
    }

    /// The frame is done with.
    pub fn take(&mut self, frame: std::ops::Range<usize>) {
        self.start = frame.end.min(self.end);
    }

    /// Reads what waits; 0 is the end of the stream.
    pub fn fill(&mut self, stream: &mut impl Read) -> io::Result<usize> {
        // What is left is less than one frame, or nothing was taken since: moving it is cheap or does not happen.
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let got = stream.read(room)?;
        self.end += got;
        Ok(got)
    }
}
