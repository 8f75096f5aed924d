//! What the fuzz targets share: memory that a hostile peer writes, and a reader of decisions.
//!
//! One rule: every byte of the input means something, so that the fuzzer's changes do too.

use std::ptr::NonNull;

use virtqueue::Format;
use virtqueue::PeerMemory;
use virtqueue::QueueConfig;
use virtqueue::RingMemory;
use virtqueue::Rings;

/// Words of the arena: 64 KiB.
const WORDS: usize = 8192;
/// Bytes of the arena.
pub const BYTES: usize = WORDS * 8;

/// Guest memory of 64 KiB at address 0; the rings lie in its first quarter.
pub struct Arena {
    memory: Box<[u64; WORDS]>,
}

impl Default for Arena {
    fn default() -> Self {
        Self {
            memory: Box::new([0; WORDS]),
        }
    }
}

impl Arena {
    fn all(&self) -> RingMemory {
        let start = NonNull::from(self.memory.as_ref()).cast::<u8>();
        // SAFETY: the box outlives every queue that a target builds, and nothing else touches it.
        unsafe { RingMemory::new(start, BYTES) }
    }

    /// The peer writes `data` at `offset`, wrapping at the end.
    pub fn scribble(&self, offset: usize, data: &[u8]) {
        for (at, byte) in data.iter().enumerate() {
            self.all().write((offset + at) % BYTES, &[*byte]);
        }
    }

    /// The rings of a queue with these parameters, one after another from address 0.
    pub fn rings(&self, config: &QueueConfig) -> Option<Rings> {
        let layout = config.layout();
        let mut at = 0_usize;
        let mut area = |area: &virtqueue::Area| {
            let start = at.next_multiple_of(area.align);
            at = start + area.size;
            self.all().subspan(start, area.size)
        };
        let descriptors = area(&layout.descriptors)?;
        let driver = area(&layout.driver)?;
        let device = area(&layout.device)?;
        Some(Rings {
            descriptors,
            driver,
            device,
        })
    }
}

impl PeerMemory for Arena {
    fn span(&self, addr: u64, len: usize) -> Option<RingMemory> {
        self.all().subspan(usize::try_from(addr).ok()?, len)
    }
}

/// Takes decisions out of the input; zeroes when it is used up.
pub struct Decisions<'a>(pub &'a [u8]);

impl Decisions<'_> {
    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// Two bytes.
    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// The next `len` bytes, or what is left.
    pub fn bytes(&mut self, len: usize) -> &[u8] {
        let (first, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        first
    }

    /// Parameters of a small queue.
    pub fn config(&mut self) -> QueueConfig {
        let bits = self.byte();
        QueueConfig {
            size: 1 << (bits >> 4 & 7),
            format: if bits & 1 == 0 {
                Format::Split
            } else {
                Format::Packed
            },
            event_idx: bits & 2 != 0,
            indirect: bits & 4 != 0,
            in_order: bits & 8 != 0,
        }
    }
}
