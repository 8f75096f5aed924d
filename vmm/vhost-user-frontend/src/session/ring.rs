//! The three areas of a ring in guest memory. Rule: a backend is never told an address that is not wholly inside one
//! region and aligned, so a guest cannot make it refuse.

use vhost_user_protocol::VringAddress;
use vhost_user_protocol::vring_flags;
use virtio_spec::feature;

use super::Memory;
use super::QueueSetup;
use crate::Error;
use crate::Result;

/// Checks a queue and translates its addresses to the user addresses that the protocol wants.
pub(crate) fn address(
    memory: &Memory,
    queue: &QueueSetup,
    features: u64,
    log: bool,
) -> Result<VringAddress> {
    let index = queue.index;
    let bad = |what| Error::Queue { index, what };
    let packed = features & feature::RING_PACKED != 0;
    let size_is_good = if packed {
        (1..=32768).contains(&queue.size)
    } else {
        queue.size.is_power_of_two()
    };
    if !size_is_good {
        return Err(bad("its size is not allowed"));
    }
    // Virtio 1.4, 2.7 and 2.8.10: bytes and alignment of each area. Room for the event index always exists in
    // what a driver allocates only when it was negotiated.
    let size = u64::from(queue.size);
    let event = if features & feature::RING_EVENT_IDX != 0 {
        2
    } else {
        0
    };
    let (driver_len, device_len) = if packed {
        (4, 4)
    } else {
        (4 + event + 2 * size, 4 + event + 8 * size)
    };
    let (driver_align, device_align) = if packed { (4, 4) } else { (2, 4) };
    let find = |address: u64, len: u64, align: u64, what: &'static str| {
        let found = memory.user_addr(address, len);
        found
            .filter(|_| address.is_multiple_of(align))
            .ok_or(bad(what))
    };
    Ok(VringAddress {
        index: index.into(),
        flags: if log { vring_flags::LOG } else { 0 },
        descriptor: find(
            queue.descriptors,
            16 * size,
            16,
            "its descriptor area is not in guest memory",
        )?,
        available: find(
            queue.driver,
            driver_len,
            driver_align,
            "its driver area is not in guest memory",
        )?,
        used: find(
            queue.device,
            device_len,
            device_align,
            "its device area is not in guest memory",
        )?,
        log: queue.device,
    })
}
