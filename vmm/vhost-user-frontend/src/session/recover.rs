//! Where a queue goes on after its backend died. Rule: what the ring or the in-flight record says is checked against
//! the queue size before it is believed, and a queue whose place is unknown is given up, never guessed.

use std::os::unix::fs::FileExt;

use super::QueueSetup;
use super::inflight::InflightArea;
use super::memory::Memory;
use crate::Error;
use crate::Result;

/// Base of a packed ring that was never used: index 0 and wrap counter 1, for both halves.
pub(crate) const PACKED_START: u32 = 0x8000_8000;

/// Offsets in a packed queue's part of the in-flight record (the vhost-user document, "Inflight I/O tracking").
mod record {
    pub const USED_INDEX: u64 = 16;
    pub const OLD_USED_INDEX: u64 = 18;
    pub const USED_WRAP: u64 = 20;
    pub const OLD_USED_WRAP: u64 = 21;
}

/// Base from which the next backend is to serve the queue.
///
/// Split: the used index, as the guest sees it. With an in-flight record the backend adds what the record holds;
/// without one every request that was not completed in order is served again (that is all there is to know).
/// Packed: the used position of the record, for both halves; the ring alone does not tell.
pub(crate) fn base(
    memory: &Memory,
    queue: &QueueSetup,
    packed: bool,
    inflight: Option<&InflightArea>,
) -> Result<u32> {
    if packed {
        let position = inflight
            .and_then(|area| packed_position(memory, queue, area))
            .ok_or(Error::Unrecoverable(queue.index))?;
        return Ok(u32::from(position) | u32::from(position) << 16);
    }
    // `struct virtq_used`: flags, then idx (virtio 1.4, 2.7.8).
    let index = queue
        .device
        .checked_add(2)
        .and_then(|address| memory.read_u16(address));
    index
        .map(u32::from)
        .ok_or(Error::Unrecoverable(queue.index))
}

/// The used position with its wrap counter in bit 15.
fn packed_position(memory: &Memory, queue: &QueueSetup, area: &InflightArea) -> Option<u16> {
    let start = area.queue_start(queue.index)?;
    let field = |at: u64| {
        let mut bytes = [0; 2];
        area.file.read_exact_at(&mut bytes, start + at).ok()?;
        Some(u16::from_le_bytes(bytes))
    };
    let position = |index: u16, wrap: u16| (index < queue.size).then_some(index | (wrap & 1) << 15);
    let wraps = field(record::USED_WRAP)?;
    // Two neighbouring bytes, read as one word.
    let (used_wrap, old_wrap) = (wraps & 0xff, wraps >> 8);
    const _: () = assert!(record::OLD_USED_WRAP == record::USED_WRAP + 1);
    let used = position(field(record::USED_INDEX)?, used_wrap)?;
    let old = position(field(record::OLD_USED_INDEX)?, old_wrap)?;
    if never_used(&field, used, old)? {
        return Some(1 << 15);
    }
    // The record's last batch counts only if the ring shows it as used.
    let committed = old != used && is_used(memory, queue, old)?;
    Some(if committed { used } else { old })
}

/// Whether the backend has not even initialised the record: all zero, version included.
fn never_used(field: &impl Fn(u64) -> Option<u16>, used: u16, old: u16) -> Option<bool> {
    const VERSION: u64 = 8;
    Some(field(VERSION)? == 0 && used == 0 && old == 0)
}

/// Whether the descriptor at `position` carries the used mark of that wrap (virtio 1.4, 2.8.1).
fn is_used(memory: &Memory, queue: &QueueSetup, position: u16) -> Option<bool> {
    const FLAGS: u64 = 14;
    const AVAIL: u16 = 1 << 7;
    const USED: u16 = 1 << 15;
    let index = u64::from(position & 0x7fff);
    let address = queue.descriptors.checked_add(index * 16 + FLAGS)?;
    let flags = memory.read_u16(address)?;
    let wrap = position & (1 << 15) != 0;
    Some((flags & AVAIL != 0) == wrap && (flags & USED != 0) == wrap)
}

#[cfg(test)]
#[path = "recover_tests.rs"]
mod tests;
