//! What the shell may decide about the driver.
//!
//! Rule: every value is an upper limit or a wish; the device's answer is checked against it.
use virtio_spec::balloon;
use virtio_spec::balloon::queue;
use virtio_spec::feature;

/// All features that this driver makes use of.
pub const WANTED_FEATURES: u64 = feature::RING_EVENT_IDX
    | feature::RING_PACKED
    | feature::NOTIFICATION_DATA
    | feature::IN_ORDER
    | balloon::feature::MUST_TELL_HOST
    | balloon::feature::STATS_VQ
    | balloon::feature::DEFLATE_ON_OOM
    | balloon::feature::FREE_PAGE_HINT
    | balloon::feature::PAGE_POISON
    | balloon::feature::PAGE_REPORTING;

/// Limits and wishes of the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most entries per queue.
    pub queue_size: u16,
    /// Most pages of 4 KiB in one message. 256 is what every device known takes; Firecracker takes no more.
    pub batch_pages: u16,
    /// Most messages on their way in each direction.
    pub batches: u16,
    /// Most blocks in one report of free memory.
    pub report_blocks: u16,
    /// Pages of 4 KiB in the guest's own page: targets are rounded up to multiples of it.
    pub unit_pages: u16,
    /// The value that the guest's allocator fills freed pages with and relies on, if it does.
    pub poison: Option<u32>,
    /// Features to use if the device has them; those not in [`WANTED_FEATURES`] are ignored.
    pub features: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_size: 128,
            batch_pages: 256,
            batches: 8,
            report_blocks: 32,
            unit_pages: 1,
            poison: None,
            features: WANTED_FEATURES,
        }
    }
}

impl Options {
    /// What to ask for of what a device offers.
    ///
    /// A device that numbers its queues without gaps does so by the features that it offers, a driver by those that were negotiated: so
    /// that both come to the same numbers, no queue is used whose predecessor in the list was refused.
    pub(crate) fn choose(&self, offered: u64) -> u64 {
        let mut wanted = self.features & WANTED_FEATURES;
        if self.poison.is_none() {
            wanted &= !balloon::feature::PAGE_POISON;
        } else if offered & wanted & balloon::feature::PAGE_POISON == 0 {
            // The guest expects its free pages to keep what is in them (sec. 5.5.3.1).
            wanted &= !balloon::feature::PAGE_REPORTING;
        }
        let mut refused = false;
        for needed in queue::ORDER.map(|(_, feature)| feature) {
            if refused {
                wanted &= !needed;
            }
            refused |= offered & needed & !wanted != 0;
        }
        wanted
    }

    pub(crate) fn batch(&self) -> usize {
        let unit = usize::from(self.unit_pages.max(1));
        (usize::from(self.batch_pages) / unit).max(1) * unit
    }
}

/// The queues with their indices, on a device with `count` queues: without gaps (QEMU) unless the device has more than that takes, and
/// enough for the numbers of the specification.
pub(crate) fn numbers(features: u64, count: u16) -> impl Iterator<Item = (queue::Role, u16)> {
    let last = queue::roles(features).map(queue::number).max();
    let gaps = count > queue::count(features) && last.is_some_and(|last| last < count);
    queue::roles(features).zip(0..).map(move |(role, dense)| {
        let number = if gaps { queue::number(role) } else { dense };
        (role, number)
    })
}
