//! The Internet checksum (RFC 1071) over pieces.
//!
//! Rule: pieces may have any length; an odd one shifts those behind it.

use guest_memory::GuestMemory;
use virtqueue::Segment;

/// Bytes of guest memory that are copied for summing at a time.
const PIECE: usize = 2048;

/// A one's complement sum that grows piece by piece.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    /// Sum of 16-bit words as they lie in memory, carries not yet folded.
    words: u64,
    /// An odd number of bytes was added.
    odd: bool,
}

impl Sum {
    /// Adds the next bytes.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        let folded = u64::from(fold(sum_words(bytes)));
        let folded = if self.odd {
            u64::from(u16::try_from(folded).unwrap_or_default().swap_bytes())
        } else {
            folded
        };
        self.words += folded;
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Adds a number as two bytes in network order.
    pub fn add16(&mut self, value: u16) {
        self.add(&value.to_be_bytes());
    }

    /// The sum, not complemented: what a partial checksum holds.
    pub fn partial(self) -> u16 {
        u16::from_be(fold(self.words))
    }

    /// The checksum as a packet carries it; zero is written as its other form, as UDP wants.
    pub fn checksum(self) -> u16 {
        match !self.partial() {
            0 => 0xffff,
            sum => sum,
        }
    }
}

/// Folds carries into 16 bits.
fn fold(mut words: u64) -> u16 {
    for _ in 0..4 {
        words = (words & 0xffff) + (words >> 16);
    }
    u16::try_from(words).unwrap_or(u16::MAX)
}

/// Sum of the bytes as 32-bit words, in eight lanes so that it becomes vector code.
#[inline]
fn sum_words(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0u64; 8];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut sum: u64 = lanes.iter().map(|lane| u64::from(fold(*lane))).sum();
    let (pairs, last) = rest.as_chunks::<2>();
    for pair in pairs {
        sum += u64::from(u16::from_ne_bytes(*pair));
    }
    if let [last] = last {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

/// The bytes of a frame behind its head, wherever they are.
pub trait Tail {
    /// How many.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the bytes from `from` on; whether all were there.
    fn read(&self, from: usize, into: &mut [u8]) -> bool;

    /// Calls `each` with the bytes `from..from + len`, in order and in pieces of any length; whether all were there.
    fn visit(&self, mut from: usize, len: usize, each: &mut dyn FnMut(&[u8])) -> bool {
        let mut piece = [0; PIECE];
        let mut left = len;
        while left != 0 {
            let take = left.min(PIECE);
            let Some(part) = piece.get_mut(..take) else {
                return false;
            };
            if !self.read(from, part) {
                return false;
            }
            each(part);
            from += take;
            left -= take;
        }
        true
    }
}

impl Tail for [u8] {
    fn len(&self) -> usize {
        self.len()
    }

    fn read(&self, from: usize, into: &mut [u8]) -> bool {
        let Some(bytes) = self.get(from..from.saturating_add(into.len())) else {
            return false;
        };
        into.copy_from_slice(bytes);
        true
    }

    fn visit(&self, from: usize, len: usize, each: &mut dyn FnMut(&[u8])) -> bool {
        match self.get(from..from.saturating_add(len)) {
            Some(bytes) => each(bytes),
            None => return false,
        }
        true
    }
}

/// A tail in guest memory. Every byte is read when it is asked for: what the guest changes meanwhile spoils its own
/// checksum.
#[derive(Clone, Copy, Debug)]
pub struct GuestTail<'a> {
    memory: &'a GuestMemory,
    segments: &'a [Segment],
    len: usize,
}

impl<'a> GuestTail<'a> {
    /// The bytes of `segments`.
    pub fn new(memory: &'a GuestMemory, segments: &'a [Segment]) -> Self {
        let len = segments.iter().fold(0usize, |len, segment| {
            len.saturating_add(segment.len as usize)
        });
        Self {
            memory,
            segments,
            len,
        }
    }
}

impl Tail for GuestTail<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, from: usize, into: &mut [u8]) -> bool {
        let mut skip = from;
        let mut into = into;
        for segment in self.segments {
            let len = segment.len as usize;
            if skip >= len {
                skip -= len;
                continue;
            }
            if into.is_empty() {
                return true;
            }
            let take = into.len().min(len - skip);
            let Some((part, rest)) = into.split_at_mut_checked(take) else {
                return false;
            };
            let addr = segment.addr.wrapping_add(skip as u64);
            if self.memory.read(addr, part).is_err() {
                return false;
            }
            into = rest;
            skip = 0;
        }
        into.is_empty()
    }
}
