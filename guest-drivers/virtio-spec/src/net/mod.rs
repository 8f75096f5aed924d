//! Network device (virtio 1.4 sec. 5.1).
//!
//! One rule: layout and numbers only; what a header means is the business of the driver and the
//! backend. The header has three sizes, by what was negotiated: [`header_size`].

pub mod control;
pub mod feature;
pub mod rss;

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;
use zerocopy::Unaligned;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;

/// Bytes of an Ethernet address.
pub const MAC_SIZE: usize = 6;
/// Bytes of an Ethernet header without a VLAN tag, what `mtu` does not count (sec. 5.1.4.1).
pub const ETHERNET_HEADER_SIZE: usize = 14;
/// Least `mtu` a device may show (sec. 5.1.4.1).
pub const MTU_MIN: u16 = 68;
/// Greatest `max_virtqueue_pairs` (sec. 5.1.4.1).
pub const PAIRS_MAX: u16 = 0x8000;
/// `speed` that is not known (sec. 5.1.4).
pub const SPEED_UNKNOWN: u32 = 0xffff_ffff;
/// Greatest `speed` that means one, in units of 1 Mbit/s (sec. 5.1.4.2).
pub const SPEED_MAX: u32 = 0x7fff_ffff;

/// Index of the receive queue of a pair, counted from 0 (sec. 5.1.2).
pub const fn receive_queue(pair: u16) -> u16 {
    2 * pair
}

/// Index of the transmit queue of a pair, counted from 0 (sec. 5.1.2).
pub const fn transmit_queue(pair: u16) -> u16 {
    2 * pair + 1
}

/// Index of the control queue of a device with `pairs` pairs; `pairs` is 1 without `MQ` and
/// `RSS` (sec. 5.1.2).
pub const fn control_queue(pairs: u16) -> u16 {
    2 * pairs
}

/// Values of `duplex` (sec. 5.1.4). Sec. 5.1.4.1 says 0 for full and 1 for half; the kernel's header,
/// its driver and QEMU have it the other way round, and these are what the world speaks.
pub mod duplex {
    /// Half.
    pub const HALF: u8 = 0;
    /// Full.
    pub const FULL: u8 = 1;
    /// Not known.
    pub const UNKNOWN: u8 = 0xff;
}

/// Bits of `status` (sec. 5.1.4).
pub mod status {
    /// The link is up.
    pub const LINK_UP: u16 = 1;
    /// The driver should announce itself on the network (sec. 5.1.6.5.4).
    pub const ANNOUNCE: u16 = 2;
}

/// Device configuration space, `struct virtio_net_config` (sec. 5.1.4).
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
pub struct Config {
    /// With `MAC`.
    pub mac: [u8; MAC_SIZE],
    /// [`status`]; with `STATUS`.
    pub status: U16,
    /// Most queue pairs; with `MQ` or `RSS`.
    pub max_virtqueue_pairs: U16,
    /// Greatest payload of a frame in bytes, without the Ethernet header; with `MTU`.
    pub mtu: U16,
    /// In units of 1 Mbit/s or [`SPEED_UNKNOWN`]; with `SPEED_DUPLEX`.
    pub speed: U32,
    /// [`duplex`]; with `SPEED_DUPLEX`.
    pub duplex: u8,
    /// Greatest hash key in bytes; with `RSS` or `HASH_REPORT`.
    pub rss_max_key_size: u8,
    /// Most entries of the indirection table; with `RSS`.
    pub rss_max_indirection_table_length: U16,
    /// [`rss::hash_type`]; with `RSS` or `HASH_REPORT`.
    pub supported_hash_types: U32,
    /// [`rss::tunnel_type`]; with `HASH_TUNNEL`.
    pub supported_tunnel_types: U32,
}

/// Size in bytes of [`Config`] without `supported_tunnel_types`: what a device without
/// `HASH_TUNNEL` shows.
pub const CONFIG_SIZE_UNTUNNELED: usize = 24;

/// What precedes every frame, `struct virtio_net_hdr` (sec. 5.1.6), 12 bytes.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
pub struct Header {
    /// [`header_flags`].
    pub flags: u8,
    /// [`gso`].
    pub gso_type: u8,
    /// Length of all headers of the frame in bytes; a hint (sec. 5.1.6.2).
    pub hdr_len: U16,
    /// Greatest payload of a segment in bytes; with a `gso_type`.
    pub gso_size: U16,
    /// Where the checksum begins, in bytes from the Ethernet header; with `NEEDS_CSUM`. With
    /// `RSC_INFO`: number of coalesced segments.
    pub csum_start: U16,
    /// Where the checksum is stored, in bytes from `csum_start`; with `NEEDS_CSUM`. With
    /// `RSC_INFO`: number of duplicate acknowledgements.
    pub csum_offset: U16,
    /// Receive: number of buffers that hold the frame, with `MRG_RXBUF`, otherwise 1. Transmit: 0.
    pub num_buffers: U16,
}

/// [`Header`] with `HASH_REPORT`, 20 bytes (sec. 5.1.6, 5.1.6.4.4).
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
pub struct HashHeader {
    /// What every header has.
    pub header: Header,
    /// The hash of the received frame.
    pub hash_value: U32,
    /// [`rss::hash_report`].
    pub hash_report: U16,
    /// Zero.
    pub padding: U16,
}

/// Size of [`Header`] in bytes.
pub const HEADER_SIZE: usize = size_of::<Header>();
/// Size of [`HashHeader`] in bytes.
pub const HASH_HEADER_SIZE: usize = size_of::<HashHeader>();

/// Size in bytes of [`Header`] without `num_buffers`, its last field: the header of a legacy driver
/// that does not merge receive buffers (sec. 5.1.6.1).
pub const LEGACY_HEADER_SIZE: usize = 10;

/// Bytes of the header of every frame, in both directions, by the negotiated features (sec. 5.1.6,
/// and sec. 5.1.6.1 for a driver that did not accept `VERSION_1`).
pub const fn header_size(features: u64) -> usize {
    if features & feature::HASH_REPORT != 0 {
        HASH_HEADER_SIZE
    } else if features & (crate::feature::VERSION_1 | feature::MRG_RXBUF) != 0 {
        HEADER_SIZE
    } else {
        LEGACY_HEADER_SIZE
    }
}

/// Bits of `flags` (sec. 5.1.6).
pub mod header_flags {
    /// The checksum at `csum_start` and `csum_offset` is to be completed.
    pub const NEEDS_CSUM: u8 = 1;
    /// The checksum was checked and is right; receive only.
    pub const DATA_VALID: u8 = 2;
    /// `csum_start` and `csum_offset` report coalescing; receive only, with `RSC_EXT`.
    pub const RSC_INFO: u8 = 4;
    /// The outer UDP checksum of a tunnelled frame is to be completed; with
    /// `HOST_UDP_TUNNEL_GSO_CSUM` or `GUEST_UDP_TUNNEL_GSO_CSUM`.
    pub const UDP_TUNNEL_CSUM: u8 = 8;
}

/// Values and bits of `gso_type` (sec. 5.1.6).
pub mod gso {
    /// One frame as it is.
    pub const NONE: u8 = 0;
    /// TCP over IPv4 to be cut into segments.
    pub const TCPV4: u8 = 1;
    /// UDP to be cut into IP fragments (deprecated).
    pub const UDP: u8 = 3;
    /// TCP over IPv6 to be cut into segments.
    pub const TCPV6: u8 = 4;
    /// UDP to be cut into datagrams.
    pub const UDP_L4: u8 = 5;
    /// Bit: the packet is in a UDP tunnel over IPv4.
    pub const UDP_TUNNEL_IPV4: u8 = 0x20;
    /// Bit: the packet is in a UDP tunnel over IPv6.
    pub const UDP_TUNNEL_IPV6: u8 = 0x40;
    /// Bit: the TCP segment has Explicit Congestion Notification set.
    pub const ECN: u8 = 0x80;
}
