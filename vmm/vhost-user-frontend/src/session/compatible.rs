//! Whether a backend that came back is still the device that the running guest knows. Rule: a guest with a started
//! device never sees a feature, a queue or a fixed configuration field go away under it.

use std::mem::offset_of;
use std::ops::Range;

use virtio_spec::balloon;
use virtio_spec::block;
use virtio_spec::device_id;
use virtio_spec::net;

use super::State;
use super::establish::Link;
use crate::Error;
use crate::Result;

/// Checks features, queues and configuration of a new connection against the started device.
pub(crate) fn check(
    state: &State,
    link: &Link,
    device: u32,
    old_config: &[u8],
    config: &[u8],
) -> Result<()> {
    let Some(features) = state.started else {
        return Ok(());
    };
    let gone = features & !link.visible();
    if gone != 0 {
        let what = format!("features {gone:#x} are gone");
        return Err(Error::Incompatible(what));
    }
    if let Some((last, _)) = state.queues.last_key_value()
        && *last >= link.queue_count
    {
        let what = format!(
            "it has {} queues, and queue {last} is in use",
            link.queue_count
        );
        return Err(Error::Incompatible(what));
    }
    match first_fixed_difference(device, old_config, config) {
        None => Ok(()),
        Some(at) => {
            let what = format!("configuration byte {at} differs");
            Err(Error::Incompatible(what))
        }
    }
}

/// The bytes from one field up to, and without, another.
macro_rules! fields {
    ($config:ty: $first:ident..$after:ident) => {
        offset_of!($config, $first)..offset_of!($config, $after)
    };
}

/// All four fields are live (virtio 1.4, 5.5.4).
const ALL_OF_BALLOON: Range<usize> = 0..size_of::<balloon::Config>();

/// Fields that may change while the driver runs; everything else is fixed. `None`: nothing is known of the device.
fn changeable(device: u32) -> Option<&'static [Range<usize>]> {
    match device {
        // A resize, and the cache (virtio 1.4, 5.2.4).
        device_id::BLOCK => Some(&[
            fields!(block::Config: capacity..size_max),
            fields!(block::Config: writeback..unused0),
        ]),
        // Status, and MTU, speed and duplex (virtio 1.4, 5.1.4).
        device_id::NET => Some(&[
            fields!(net::Config: status..max_virtqueue_pairs),
            fields!(net::Config: mtu..rss_max_key_size),
        ]),
        device_id::BALLOON => Some(std::slice::from_ref(&ALL_OF_BALLOON)),
        _ => None,
    }
}

fn first_fixed_difference(device: u32, old: &[u8], new: &[u8]) -> Option<usize> {
    let changeable = changeable(device)?;
    let fixed = |at: &usize| !changeable.iter().any(|range| range.contains(at));
    (0..old.len().max(new.len()))
        .filter(fixed)
        .find(|at| old.get(*at) != new.get(*at))
}
