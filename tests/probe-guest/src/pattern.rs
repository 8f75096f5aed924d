//! What verified sectors contain: 512 bytes that name their sector and their generation.
//!
//! Rule: two different (sector, generation) pairs never give the same bytes.

/// Bytes of a sector.
pub(crate) const SECTOR: usize = 512;

/// A step of `splitmix64`.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A sequence of repeatable random numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // Multiply-shift: no division on the hot path.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

fn word(sector: u64, generation: u32, index: u64) -> u64 {
    match index {
        0 => sector,
        1 => u64::from(generation),
        _ => mix(sector ^ u64::from(generation) << 40)
            .wrapping_add(index.wrapping_mul(0x0123_4567_89ab_cdef)),
    }
}

/// Fills one sector.
pub(crate) fn fill(target: &mut [u8], sector: u64, generation: u32) {
    for (index, bytes) in target.chunks_exact_mut(8).enumerate() {
        bytes.copy_from_slice(&word(sector, generation, index as u64).to_le_bytes());
    }
}

/// Whether a sector is as [`fill`] made it.
pub(crate) fn matches(source: &[u8], sector: u64, generation: u32) -> bool {
    source
        .chunks_exact(8)
        .enumerate()
        .all(|(index, bytes)| bytes == word(sector, generation, index as u64).to_le_bytes())
}

/// Whether a sector is all zero.
pub(crate) fn is_zero(source: &[u8]) -> bool {
    source.iter().all(|&byte| byte == 0)
}

/// A word of the endless stream that a seed stands for.
fn stream_word(seed: u64, index: u64) -> [u8; 8] {
    mix(seed ^ index).to_le_bytes()
}

/// Fills a buffer with the bytes of a stream from offset `at` on.
pub(crate) fn stream_fill(target: &mut [u8], seed: u64, at: u64) {
    stream_walk(target.len(), seed, at, |range, word| {
        if let Some(bytes) = target.get_mut(range) {
            bytes.copy_from_slice(word);
        }
        true
    });
}

/// Whether a buffer holds the bytes of a stream from offset `at` on.
pub(crate) fn stream_matches(source: &[u8], seed: u64, at: u64) -> bool {
    stream_walk(source.len(), seed, at, |range, word| {
        source.get(range) == Some(word)
    })
}

/// Goes over the words of a stream that cover `len` bytes from `at` on, until `each` says no.
#[inline]
fn stream_walk(
    len: usize,
    seed: u64,
    at: u64,
    mut each: impl FnMut(core::ops::Range<usize>, &[u8]) -> bool,
) -> bool {
    let mut done = 0;
    while done < len {
        let offset = at + done as u64;
        let word = stream_word(seed, offset / 8);
        let skip = (offset % 8) as usize;
        let take = (8 - skip).min(len - done);
        if !each(
            done..done + take,
            word.get(skip..skip + take).unwrap_or_default(),
        ) {
            return false;
        }
        done += take;
    }
    true
}
