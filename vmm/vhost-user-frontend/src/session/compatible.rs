//! Whether a backend that came back is still the device that the running guest knows. Rule: a guest with a started
//! device never sees a feature, a queue or a fixed configuration field go away under it.

use std::ops::Range;

use virtio_spec::device_id;

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

/// Fields that may change while the driver runs; everything else is fixed. `None`: nothing is known of the device.
fn changeable(device: u32) -> Option<&'static [Range<usize>]> {
    match device {
        // `capacity` (a resize) and `writeback` (virtio 1.4, 5.2.4).
        device_id::BLOCK => Some(&[0..8, 32..33]),
        // `status`, `mtu`, `speed` and `duplex` (virtio 1.4, 5.1.4).
        device_id::NET => Some(&[6..8, 10..17]),
        // All four fields are live (virtio 1.4, 5.5.4).
        device_id::BALLOON => Some(&[0..8, 8..16]),
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
