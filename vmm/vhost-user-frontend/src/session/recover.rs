//! Where a queue goes on after its backend died. Rule: what the ring or the in-flight record says is checked against
//! the queue size before it is believed, and a queue whose place is unknown is given up, never guessed.

use std::os::unix::fs::FileExt;

use virtio_spec::ring::descriptor_flags;

use super::QueueSetup;
use super::inflight::InflightArea;
use super::memory::Memory;
use crate::Error;
use crate::Result;

/// Base of a packed ring that was never used: index 0 and wrap counter 1, for both halves.
pub(crate) const PACKED_START: u32 = 0x8000_8000;

/// Offsets in a packed queue's part of the in-flight record (the vhost-user document, "Inflight I/O tracking").
mod record {
    pub const VERSION: u64 = 8;
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
        return inflight
            .and_then(|area| packed_base(memory, queue, area))
            .ok_or(Error::Unrecoverable(queue.index));
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

/// The used position of the record for both halves, or what the last backend was told if it recorded nothing.
fn packed_base(memory: &Memory, queue: &QueueSetup, area: &InflightArea) -> Option<u32> {
    let start = area.queue_start(queue.index)?;
    let field = |at: u64| {
        let mut bytes = [0; 2];
        area.file.read_exact_at(&mut bytes, start + at).ok()?;
        Some(u16::from_le_bytes(bytes))
    };
    if field(record::VERSION)? == 0 {
        return Some(queue.base.unwrap_or(PACKED_START));
    }
    let position =
        |slot: u16, wrap: u16| (slot < queue.size).then_some(slot | u16::from(wrap != 0) << 15);
    // Two neighbouring bytes, read as one word.
    const _: () = assert!(record::OLD_USED_WRAP == record::USED_WRAP + 1);
    let wraps = field(record::USED_WRAP)?;
    let used = position(field(record::USED_INDEX)?, wraps & 0xff)?;
    let old = position(field(record::OLD_USED_INDEX)?, wraps >> 8)?;
    // The batch that the crash interrupted counts if the ring shows it.
    let committed = old != used && !is_available(memory, queue, old)?;
    let position = u32::from(if committed { used } else { old });
    Some(position | position << 16)
}

/// Whether the descriptor at `position` still waits for the device in that lap (virtio 1.4, 2.8.1). If not, the device
/// has used it, and the driver may even have made it available again in the next lap.
fn is_available(memory: &Memory, queue: &QueueSetup, position: u16) -> Option<bool> {
    const FLAGS: u64 = 14;
    let slot = u64::from(position & 0x7fff);
    let address = queue.descriptors.checked_add(slot * 16 + FLAGS)?;
    let flags = memory.read_u16(address)?;
    let wrap = position & 1 << 15 != 0;
    let marked = |flag: u16| flags & flag != 0;
    Some(marked(descriptor_flags::AVAIL) == wrap && marked(descriptor_flags::USED) != wrap)
}

#[cfg(test)]
#[path = "recover_tests.rs"]
mod tests;
