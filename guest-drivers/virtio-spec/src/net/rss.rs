//! Receive-side scaling and hash reports (virtio 1.4 sec. 5.1.6.4.3 to 5.1.6.4.5, 5.1.6.5.5).
//!
//! One rule: the configurations end in tables of variable length; only their fixed parts are
//! structures.

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;
use zerocopy::Unaligned;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;

/// Least `rss_max_key_size` of a device, and the size of the usual key, in bytes (sec. 5.1.4.1).
pub const KEY_SIZE: usize = 40;
/// Least `rss_max_indirection_table_length` of a device (sec. 5.1.4.1).
pub const INDIRECTION_TABLE_MIN: u16 = 128;
/// An entry of the indirection table is the number of a pair: bits 1 to 15 of the index of its
/// receive queue; the highest bit is reserved (`struct rss_rq_id`).
pub const QUEUE_ID_MASK: u16 = 0x7fff;

/// Kinds of frames that are hashed, `supported_hash_types` and `hash_types` (sec. 5.1.6.4.3.1).
pub mod hash_type {
    /// IPv4.
    pub const IPV4: u32 = 1 << 0;
    /// TCP over IPv4.
    pub const TCPV4: u32 = 1 << 1;
    /// UDP over IPv4.
    pub const UDPV4: u32 = 1 << 2;
    /// IPv6.
    pub const IPV6: u32 = 1 << 3;
    /// TCP over IPv6.
    pub const TCPV6: u32 = 1 << 4;
    /// UDP over IPv6.
    pub const UDPV6: u32 = 1 << 5;
    /// IPv6 with the addresses of its extension headers.
    pub const IP_EX: u32 = 1 << 6;
    /// TCP over such IPv6.
    pub const TCP_EX: u32 = 1 << 7;
    /// UDP over such IPv6.
    pub const UDP_EX: u32 = 1 << 8;
    /// All of them.
    pub const ALL: u32 = (1 << 9) - 1;
}

/// `hash_report` of [`HashHeader`](super::HashHeader) (sec. 5.1.6.4.4).
pub mod hash_report {
    /// There is no hash.
    pub const NONE: u16 = 0;
    /// IPv4.
    pub const IPV4: u16 = 1;
    /// TCP over IPv4.
    pub const TCPV4: u16 = 2;
    /// UDP over IPv4.
    pub const UDPV4: u16 = 3;
    /// IPv6.
    pub const IPV6: u16 = 4;
    /// TCP over IPv6.
    pub const TCPV6: u16 = 5;
    /// UDP over IPv6.
    pub const UDPV6: u16 = 6;
    /// IPv6 with the addresses of its extension headers.
    pub const IPV6_EX: u16 = 7;
    /// TCP over such IPv6.
    pub const TCPV6_EX: u16 = 8;
    /// UDP over such IPv6.
    pub const UDPV6_EX: u16 = 9;
}

/// Tunnels whose inner header can be hashed, `supported_tunnel_types` (sec. 5.1.6.4.5).
pub mod tunnel_type {
    /// GRE of RFC 2784.
    pub const GRE_2784: u32 = 1 << 0;
    /// GRE of RFC 2890.
    pub const GRE_2890: u32 = 1 << 1;
    /// GRE of RFC 7676.
    pub const GRE_7676: u32 = 1 << 2;
    /// GRE in UDP.
    pub const GRE_UDP: u32 = 1 << 3;
    /// VXLAN.
    pub const VXLAN: u32 = 1 << 4;
    /// VXLAN-GPE.
    pub const VXLAN_GPE: u32 = 1 << 5;
    /// Geneve.
    pub const GENEVE: u32 = 1 << 6;
    /// IP in IP.
    pub const IPIP: u32 = 1 << 7;
    /// NVGRE.
    pub const NVGRE: u32 = 1 << 8;
}

/// The head of `struct virtio_net_rss_config` (sec. 5.1.6.5.5); the indirection table, 16 bits an
/// entry, follows, then [`RssTail`].
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
pub struct RssHead {
    /// [`hash_type`].
    pub hash_types: U32,
    /// Number of entries of the table minus 1; the number is a power of two.
    pub indirection_table_mask: U16,
    /// Pair for frames without a hash.
    pub unclassified_queue: U16,
}

/// What follows the indirection table (sec. 5.1.6.5.5); the key follows.
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
pub struct RssTail {
    /// Number of transmit queues in use.
    pub max_tx_vq: U16,
    /// Bytes of the key.
    pub hash_key_length: u8,
}

/// The head of `struct virtio_net_hash_config` (sec. 5.1.6.5.5); the key follows.
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
pub struct HashHead {
    /// [`hash_type`].
    pub hash_types: U32,
    /// Zero.
    pub reserved: [U16; 4],
    /// Bytes of the key.
    pub hash_key_length: u8,
}
