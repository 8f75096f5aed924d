//! Features, configuration space and the numbers of the queues.
//!
//! Rule: the driver writes `actual` and `poison_val` and nothing else; what stands beside them in one write is ignored,
//! for front-ends send the whole space when a guest writes one field.

use virtio_spec::balloon::CONFIG_ACTUAL_OFFSET;
use virtio_spec::balloon::CONFIG_POISON_OFFSET;
use virtio_spec::balloon::Config;
use virtio_spec::balloon::feature as balloon;
use virtio_spec::balloon::queue;
use virtio_spec::balloon::queue::Role;
use virtio_spec::feature as ring;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;

use crate::BalloonSpec;

/// Every feature bit that a balloon of `spec` offers.
pub(crate) fn features(spec: &BalloonSpec) -> u64 {
    let mut bits =
        ring::VERSION_1 | ring::RING_INDIRECT_DESC | ring::RING_EVENT_IDX | ring::RING_RESET;
    let choices = [
        (spec.must_tell_host, balloon::MUST_TELL_HOST),
        (spec.stats, balloon::STATS_VQ),
        (spec.deflate_on_oom, balloon::DEFLATE_ON_OOM),
        (spec.free_page_hint, balloon::FREE_PAGE_HINT),
        (spec.page_poison, balloon::PAGE_POISON),
        (spec.page_reporting, balloon::PAGE_REPORTING),
        (spec.packed, ring::RING_PACKED),
    ];
    for (offered, bit) in choices {
        if offered {
            bits |= bit;
        }
    }
    bits
}

/// Queues that a driver may number; see [`role`].
pub(crate) fn queue_count(features: u64) -> u16 {
    let highest = [
        (balloon::PAGE_REPORTING, 5),
        (balloon::FREE_PAGE_HINT, 4),
        (balloon::STATS_VQ, 3),
    ];
    let found = highest.iter().find(|(bit, _)| features & bit != 0);
    found.map_or(2, |(_, count)| *count)
}

/// What queue `index` carries for a driver that accepted `features`.
///
/// Sec. 5.5.2 gives each role its own number; Linux before 6.11, and every device made for it, leaves no gaps. The two
/// agree unless a queue is missing in between, and then a number means the same in both, or stands in one only; but
/// without STATS_VQ queue 3 can be hints (with gaps) or reports (without). `second_runs` tells: a driver that leaves
/// gaps has no queue 2 then.
pub(crate) fn role(index: u16, features: u64, second_runs: bool) -> Option<Role> {
    let fixed = match index {
        0 => Some(Role::Inflate),
        1 => Some(Role::Deflate),
        2 if features & balloon::STATS_VQ != 0 => Some(Role::Stats),
        3 if features & balloon::FREE_PAGE_HINT != 0 => Some(Role::FreePage),
        4 if features & balloon::PAGE_REPORTING != 0 => Some(Role::Reporting),
        _ => None,
    };
    let dense = queue::role(index, features);
    match (fixed, dense) {
        (Some(fixed), Some(dense)) if fixed != dense && second_runs => Some(dense),
        (Some(fixed), _) => Some(fixed),
        (None, dense) => dense,
    }
}

/// Copies `out.len()` bytes of `config` from `offset`; bytes past its end read as zero.
pub(crate) fn read(config: &Config, offset: u32, out: &mut [u8]) {
    out.fill(0);
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    for (to, byte) in out.iter_mut().zip(config.as_bytes().iter().skip(from)) {
        *to = *byte;
    }
}

/// What a write leaves of the two fields that a driver may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// `actual`, if it was touched.
    pub actual: Option<u32>,
    /// `poison_val`, if it was touched.
    pub poison: Option<u32>,
}

/// Lays `data` over `config` at `offset`.
pub(crate) fn write(config: &Config, offset: u32, data: &[u8]) -> Written {
    let mut bytes = [0; size_of::<Config>()];
    bytes.copy_from_slice(config.as_bytes());
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let room = bytes.iter_mut().skip(from);
    for (to, byte) in room.zip(data) {
        *to = *byte;
    }
    let end = from.saturating_add(data.len());
    let touched = |field: usize| from < field + 4 && field < end;
    let config = Config::read_from_bytes(&bytes).unwrap_or(*config);
    Written {
        actual: touched(CONFIG_ACTUAL_OFFSET).then(|| config.actual.get()),
        poison: touched(CONFIG_POISON_OFFSET).then(|| config.poison_val.get()),
    }
}
