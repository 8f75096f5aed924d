//! Where a queue goes on after its backend died. Rule: what the ring or the in-flight record says is checked against
//! the queue size before it is believed, and a queue whose place is unknown is given up, never guessed.

use std::mem::offset_of;
use std::os::unix::fs::FileExt;

use vhost_user_protocol::inflight::PackedRegion;
use vhost_user_protocol::inflight::PackedUsed;
use virtio_spec::ring::PackedDescriptor;
use virtio_spec::ring::used;
use virtqueue::index::PackedPosition;

use super::QueueSetup;
use super::inflight::InflightArea;
use super::memory::Memory;
use crate::Error;
use crate::Result;

/// Base of a packed ring that was never used: both halves at the start.
pub(crate) const PACKED_START: u32 = both(PackedPosition::START);

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
    let index = queue
        .device
        .checked_add(used::IDX as u64)
        .and_then(|address| memory.read_u16(address));
    index
        .map(u32::from)
        .ok_or(Error::Unrecoverable(queue.index))
}

/// The used position of the record for both halves, or what the last backend was told if it recorded nothing.
fn packed_base(memory: &Memory, queue: &QueueSetup, area: &InflightArea) -> Option<u32> {
    let start = area.queue_start(queue.index)?;
    let mut version = [0; 2];
    let at = start.checked_add(offset_of!(PackedRegion, version) as u64)?;
    area.file.read_exact_at(&mut version, at).ok()?;
    if u16::from_ne_bytes(version) == 0 {
        return Some(queue.base.unwrap_or(PACKED_START));
    }
    let mut word = [0; size_of::<PackedUsed>()];
    let at = start.checked_add(offset_of!(PackedRegion, used) as u64)?;
    area.file.read_exact_at(&mut word, at).ok()?;
    let recorded = PackedUsed::from_word(u64::from_ne_bytes(word));
    let position = |slot, wrap: u8| PackedPosition::new(slot, wrap != 0, queue.size);
    let used = position(recorded.used_idx, recorded.used_wrap_counter)?;
    let old = position(recorded.old_used_idx, recorded.old_used_wrap_counter)?;
    // The batch that the crash interrupted counts if the ring shows it.
    let committed = old != used && !old.is_available(flags_at(memory, queue, old)?);
    Some(both(if committed { used } else { old }))
}

/// The flags of the ring's descriptor at `position`.
fn flags_at(memory: &Memory, queue: &QueueSetup, position: PackedPosition) -> Option<u16> {
    let slot = usize::from(position.slot());
    let offset = slot * size_of::<PackedDescriptor>() + offset_of!(PackedDescriptor, flags);
    memory.read_u16(queue.descriptors.checked_add(offset as u64)?)
}

/// The vring base of a packed ring that stands at `position` with nothing in flight.
const fn both(position: PackedPosition) -> u32 {
    let half = position.encode() as u32;
    half | half << 16
}

#[cfg(test)]
#[path = "recover_tests.rs"]
mod tests;
