//! Where a ring stands when a queue starts on it. One rule: front-ends say it in several dialects, and a place that a
//! ring can stand at is never taken for another one.

use crate::Error;
use crate::RingAddresses;
use crate::queue::find_rings;
use guest_memory::GuestMemory;
use std::mem::offset_of;
use virtio_spec::ring::PackedDescriptor;
use virtio_spec::ring::descriptor_flags;
use virtio_spec::ring::used;
use virtqueue::Format;
use virtqueue::QueueConfig;
use virtqueue::QueueState;
use virtqueue::RingMemory;
use virtqueue::Rings;

/// Offset of `flags` in a packed descriptor.
const RING_FLAGS: usize = offset_of!(PackedDescriptor, flags);

/// Where the ring stands. The used side is always what the driver sees; requests between the two that nobody recorded
/// are taken again, as QEMU does after a back-end was lost.
pub(crate) fn starting_state(
    config: &QueueConfig,
    rings: &Rings,
    base: u32,
) -> Result<QueueState, Error> {
    match config.format {
        Format::Split => {
            let index = rings.device.load_u16(used::IDX);
            let index = index.ok_or(Error::RingArea("device"))?;
            if u32::from(index) != base {
                tracing::debug!(base, index, "the vring base is not the ring's used index");
            }
            Ok(QueueState {
                avail: index,
                used: index,
            })
        }
        Format::Packed => {
            let (avail, used) = (base as u16, (base >> 16) as u16);
            // Front-ends that know only 16 bits of the base send the available half. A queue that was drained has
            // both halves equal, and one that was not has a record.
            let place = u32::from(if used == 0 { avail } else { used });
            // Front-ends made for split rings send zero for "never started", which is also a place: the start of a
            // second lap.
            if base == 0 && !was_used(config, rings)? {
                return Ok(QueueState::fresh(Format::Packed));
            }
            Ok(QueueState::decode(config, place | place << 16)?)
        }
    }
}

/// Whether the driver has set the ring up anew, as after its reset, since a device failed at the position `failed`. The
/// new base alone does not tell: positions come round to the first one. A packed ring that failed exactly at the end of
/// an even lap looks like a new one.
///
/// # Errors
/// When the ring does not lie in memory.
pub fn is_ring_new(
    config: &QueueConfig,
    addresses: &RingAddresses,
    (failed, base): (u32, u32),
    memory: &GuestMemory,
) -> Result<bool, Error> {
    let fresh = QueueState::fresh(config.format).encode(config.format);
    if base != fresh && base != 0 {
        return Ok(false);
    }
    // A driver may leave old entries in the used ring that it takes up again, so they are asked only where nothing else tells.
    Ok(base != failed || !was_used(config, &find_rings(config, addresses, memory)?)?)
}

/// Whether a device has used anything of a ring, as far as its memory tells.
fn was_used(config: &QueueConfig, rings: &Rings) -> Result<bool, Error> {
    match config.format {
        Format::Split => was_split_used(&rings.device, config.size),
        Format::Packed => was_packed_used(&rings.descriptors, config.size),
    }
}

/// A device that came round to index 0 has left entries in the used ring.
fn was_split_used(device: &RingMemory, size: u16) -> Result<bool, Error> {
    let word = |offset| device.load_u16(offset).ok_or(Error::RingArea("device"));
    if word(used::IDX)? != 0 {
        return Ok(true);
    }
    let end = used::RING + usize::from(size) * used::ENTRY_SIZE;
    for offset in (used::RING..end).step_by(size_of::<u16>()) {
        if word(offset)? != 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// At the start of a second lap it shows: the last chain used ends at the ring's end, so it began in that lap, and there
/// the flag stands; if the driver has taken the place since, it marked it for the second lap, by the same flag. A driver
/// that waits for its first answer has set it nowhere. The first descriptor alone tells nothing: it may be the tail of a
/// chain that began a lap before, where only the head was marked.
fn was_packed_used(descriptors: &RingMemory, size: u16) -> Result<bool, Error> {
    for slot in 0..usize::from(size) {
        let flags = descriptors.load_u16(slot * size_of::<PackedDescriptor>() + RING_FLAGS);
        let flags = flags.ok_or(Error::RingArea("descriptor"))?;
        if flags & descriptor_flags::USED != 0 {
            return Ok(true);
        }
    }
    Ok(false)
}
