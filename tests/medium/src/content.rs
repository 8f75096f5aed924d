//! What a sector holds. One rule: every byte of it follows from the sector's number and the version, so that anything else
//! is known for what it is: torn, stale or of another place.

use crate::Random;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// A sector as the medium has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Zeroes: never written, or zeroed.
    Zero,
    /// What was written as this version of it.
    Version(u32),
    /// No version of this sector.
    Torn,
}

/// Version `version` of sector `sector`.
pub fn fill(sector: u32, version: u32) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    let seed = u64::from(sector) << 32 | u64::from(version);
    let mut random = Random(seed);
    for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
        let value = if at == 0 { seed } else { random.draw() };
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// What `bytes` are, found in sector `sector`.
pub fn parse(sector: u32, bytes: &[u8]) -> Content {
    let Some(head) = bytes.first_chunk() else {
        return Content::Torn;
    };
    let version = u64::from_le_bytes(*head) as u32;
    if bytes == fill(sector, version) {
        Content::Version(version)
    } else if bytes.len() == SECTOR && bytes.iter().all(|byte| *byte == 0) {
        Content::Zero
    } else {
        Content::Torn
    }
}
