//! What the shell may decide about the driver.
//!
//! Rule: every value is an upper limit or a wish; the device's answer is checked against it.
use virtio_spec::feature;
use virtio_spec::net::feature::*;

/// All features that this driver makes use of.
pub const WANTED_FEATURES: u64 = feature::RING_INDIRECT_DESC
    | feature::RING_EVENT_IDX
    | feature::RING_PACKED
    | feature::RING_RESET
    | feature::NOTIFICATION_DATA
    | feature::IN_ORDER
    | CSUM
    | GUEST_CSUM
    | CTRL_GUEST_OFFLOADS
    | MTU
    | MAC
    | GUEST_TSO4
    | GUEST_TSO6
    | GUEST_ECN
    | HOST_TSO4
    | HOST_TSO6
    | HOST_ECN
    | MRG_RXBUF
    | STATUS
    | CTRL_VQ
    | CTRL_RX
    | CTRL_VLAN
    | CTRL_RX_EXTRA
    | GUEST_ANNOUNCE
    | MQ
    | CTRL_MAC_ADDR
    | VQ_NOTF_COAL
    | NOTF_COAL
    | GUEST_USO4
    | GUEST_USO6
    | HOST_USO
    | HASH_REPORT
    | GUEST_HDRLEN
    | RSS
    | RSC_EXT
    | STANDBY
    | SPEED_DUPLEX;

/// What a shell gets that asks for nothing special: not the VLAN filter, which drops all tagged frames until told otherwise, not the
/// longer header with hashes, and neither coalescing reports nor standby, which need a shell that knows what to do with them.
pub const DEFAULT_FEATURES: u64 = WANTED_FEATURES & !(CTRL_VLAN | HASH_REPORT | RSC_EXT | STANDBY);

/// Limits and wishes of the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most queue pairs to set up; one per processor is useful.
    pub pairs: u16,
    /// Most entries of a receive queue.
    pub receive_size: u16,
    /// Most entries of a transmit queue.
    pub transmit_size: u16,
    /// Most pieces of a receive buffer; costs 16 bytes of DMA memory per queue entry and piece when greater than 1.
    pub receive_segments: u16,
    /// Most pieces of a transmitted frame; costs 16 bytes of DMA memory per queue entry and piece.
    pub transmit_segments: u16,
    /// Features to use if the device has them; those not in [`WANTED_FEATURES`] are ignored.
    pub features: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pairs: 1,
            receive_size: 256,
            transmit_size: 256,
            receive_segments: 20,
            transmit_segments: 32,
            features: DEFAULT_FEATURES,
        }
    }
}
