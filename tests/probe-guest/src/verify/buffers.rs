//! What is in a request's buffer, against the model.
//!
//! Rule: a sector that is read tells what it holds, and the model learns what it could not know.

use super::DISCARDED;
use super::UNKNOWN;
use super::ZERO;
use crate::machine::Failure;
use crate::pattern;
use crate::pattern::SECTOR;
use crate::platform::Buffer;

/// Writes each sector with its own number.
pub(super) fn fill_buffer(buffer: &Buffer, sector: u64, sectors: u64, generation: u32) {
    let mut bytes = [0; SECTOR];
    for index in 0..sectors {
        pattern::fill(&mut bytes, sector + index, generation);
        buffer.write(index as usize * SECTOR, &bytes);
    }
}

/// Compares what was read with the model, and lets the model learn what it could not know.
pub(super) fn check_buffer(buffer: &Buffer, sector: u64, tags: &mut [u32]) -> Result<(), Failure> {
    let mut bytes = [0; SECTOR];
    for (index, tag) in tags.iter_mut().enumerate() {
        buffer.read(index * SECTOR, &mut bytes);
        let at = sector + index as u64;
        let generation = *tag & !DISCARDED;
        let zero = pattern::is_zero(&bytes);
        let as_written = match generation {
            UNKNOWN => true,
            ZERO => zero,
            generation => pattern::matches(&bytes, at, generation),
        };
        if *tag & DISCARDED != 0 && zero {
            *tag = ZERO;
        } else if as_written {
            *tag = generation;
        } else {
            return Err(Failure::new("Wrong data in sector", at));
        }
    }
    Ok(())
}
