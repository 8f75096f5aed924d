//! What the shell may decide about the driver.
//!
//! Rule: every value is an upper limit or a wish; the device's answer is checked against it.
use virtio_spec::block;
use virtio_spec::feature;

/// All features that this driver makes use of.
pub const WANTED_FEATURES: u64 = feature::RING_INDIRECT_DESC
    | feature::RING_EVENT_IDX
    | feature::RING_PACKED
    | feature::RING_RESET
    | feature::NOTIFICATION_DATA
    | feature::IN_ORDER
    | block::feature::SIZE_MAX
    | block::feature::SEG_MAX
    | block::feature::RO
    | block::feature::BLK_SIZE
    | block::feature::FLUSH
    | block::feature::TOPOLOGY
    | block::feature::CONFIG_WCE
    | block::feature::MQ
    | block::feature::DISCARD
    | block::feature::WRITE_ZEROES;

/// Limits and wishes of the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most queues to use; one per processor is useful.
    pub queues: u16,
    /// Most entries per queue.
    pub queue_size: u16,
    /// Most data segments in one request to the device; costs 16 bytes of DMA memory per queue entry and segment.
    pub max_segments: u16,
    /// Features to use if the device has them; those not in [`WANTED_FEATURES`] are ignored.
    pub features: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 1,
            queue_size: 256,
            max_segments: 64,
            features: WANTED_FEATURES,
        }
    }
}
