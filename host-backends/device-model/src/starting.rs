//! Where a ring stands when a queue starts on it. One rule: front-ends say it in several dialects, and a place that a
//! ring can stand at is never taken for another one.

use crate::Error;
use virtio_spec::ring::PackedDescriptor;
use virtio_spec::ring::descriptor_flags;
use virtqueue::Format;
use virtqueue::QueueConfig;
use virtqueue::QueueState;
use virtqueue::RingMemory;
use virtqueue::Rings;

/// Offset of `flags` in a packed descriptor.
const RING_FLAGS: usize = 14;

/// Where the ring stands. The used side is always what the driver sees; requests between the two that nobody recorded
/// are taken again, as QEMU does after a back-end was lost.
pub(crate) fn starting_state(
    config: &QueueConfig,
    rings: &Rings,
    base: u32,
) -> Result<QueueState, Error> {
    let rewound = |used: u16| QueueState { avail: used, used };
    match config.format {
        Format::Split => {
            let used = rings.device.load_u16(virtio_spec::ring::used::IDX);
            let used = used.ok_or(Error::RingArea("device"))?;
            if u32::from(used) != base {
                tracing::debug!(base, used, "the vring base is not the ring's used index");
            }
            Ok(rewound(used))
        }
        Format::Packed => {
            let (avail, used) = (base as u16, (base >> 16) as u16);
            // Front-ends that know only 16 bits of the base send the available half. A queue that was drained has
            // both halves equal, and one that was not has a record.
            let state = if used == 0 {
                rewound(avail)
            } else {
                rewound(used)
            };
            // Front-ends made for split rings send zero for "never started", which is also a place: the start of a
            // second lap.
            let state = if base == 0 && !was_used(&rings.descriptors, config.size)? {
                QueueState::fresh(Format::Packed)
            } else {
                state
            };
            state.outstanding(config)?;
            Ok(state)
        }
    }
}

/// Whether a device has used anything of a packed ring, as far as its descriptors tell. At the start of a second lap it
/// shows: the last chain used ends at the ring's end, so it began in that lap, and there the flag stands; if the driver
/// has taken the place since, it marked it for the second lap, by the same flag. A driver that waits for its first
/// answer has set it nowhere. The first descriptor alone tells nothing: it may be the tail of a chain that began a lap
/// before, where only the head was marked.
fn was_used(descriptors: &RingMemory, size: u16) -> Result<bool, Error> {
    for slot in 0..usize::from(size) {
        let flags = descriptors.load_u16(slot * size_of::<PackedDescriptor>() + RING_FLAGS);
        let flags = flags.ok_or(Error::RingArea("descriptor"))?;
        if flags & descriptor_flags::USED != 0 {
            return Ok(true);
        }
    }
    Ok(false)
}
