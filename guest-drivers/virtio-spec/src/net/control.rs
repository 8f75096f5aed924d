//! The control queue: classes, commands, payloads (virtio 1.4 sec. 5.1.6.5).
//!
//! One rule: a command is device-readable ([`CommandHeader`], payload), its answer device-writable:
//! one byte of [`ack`], then the result, if the command has one.

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;
use zerocopy::Unaligned;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

/// The head of every command, `struct virtio_net_ctrl` (sec. 5.1.6.5).
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
pub struct CommandHeader {
    /// [`class`].
    pub class: u8,
    /// A command of the class.
    pub command: u8,
}

/// The first device-writable byte (sec. 5.1.6.5).
pub mod ack {
    /// Done.
    pub const OK: u8 = 0;
    /// Refused or failed.
    pub const ERR: u8 = 1;
}

/// Classes of commands (sec. 5.1.6.5).
pub mod class {
    /// Receive modes: [`rx`](super::rx).
    pub const RX: u8 = 0;
    /// Address filter: [`mac`](super::mac).
    pub const MAC: u8 = 1;
    /// VLAN filter: [`vlan`](super::vlan).
    pub const VLAN: u8 = 2;
    /// Announcement: [`announce`](super::announce).
    pub const ANNOUNCE: u8 = 3;
    /// Queue pairs and receive-side scaling: [`mq`](super::mq).
    pub const MQ: u8 = 4;
    /// Receive offloads: [`guest_offloads`](super::guest_offloads).
    pub const GUEST_OFFLOADS: u8 = 5;
    /// Notification coalescing: [`coalescing`](super::coalescing).
    pub const NOTF_COAL: u8 = 6;
    /// Hashes of tunnels: [`hash_tunnel`](super::hash_tunnel).
    pub const HASH_TUNNEL: u8 = 7;
    /// Statistics: [`stats`](super::stats).
    pub const STATS: u8 = 8;
}

/// Commands of class `RX`; the payload is one byte, 0 off, 1 on (sec. 5.1.6.5.1).
pub mod rx {
    /// Everything is received.
    pub const PROMISC: u8 = 0;
    /// All multicast is received.
    pub const ALLMULTI: u8 = 1;
    /// All unicast is received; with `CTRL_RX_EXTRA`, as all that follow.
    pub const ALLUNI: u8 = 2;
    /// No multicast is received.
    pub const NOMULTI: u8 = 3;
    /// No unicast is received.
    pub const NOUNI: u8 = 4;
    /// No broadcast is received.
    pub const NOBCAST: u8 = 5;
}

/// Commands of class `MAC` (sec. 5.1.6.5.2).
pub mod mac {
    /// Two tables, each [`TableHeader`](super::TableHeader) and addresses: unicast, then multicast.
    pub const TABLE_SET: u8 = 0;
    /// The payload is an address; with `CTRL_MAC_ADDR`.
    pub const ADDR_SET: u8 = 1;
}

/// Commands of class `VLAN`; the payload is a VLAN id, 16 bits (sec. 5.1.6.5.3).
pub mod vlan {
    /// Frames of the VLAN are received.
    pub const ADD: u8 = 0;
    /// Frames of the VLAN are not received any more.
    pub const DEL: u8 = 1;
}

/// Number of VLAN ids; greater ones do not exist.
pub const VLANS: u16 = 4096;

/// Commands of class `ANNOUNCE` (sec. 5.1.6.5.4).
pub mod announce {
    /// The driver saw [`status::ANNOUNCE`](crate::net::status::ANNOUNCE); no payload.
    pub const ACK: u8 = 0;
}

/// Commands of class `MQ` (sec. 5.1.6.5.5).
pub mod mq {
    /// The payload is the number of pairs in use, 16 bits; with `MQ`.
    pub const VQ_PAIRS_SET: u8 = 0;
    /// The payload is a configuration of receive-side scaling (see [`rss`](crate::net::rss)); with `RSS`.
    pub const RSS_CONFIG: u8 = 1;
    /// The payload is a configuration of hashes (see [`rss`](crate::net::rss)); with `HASH_REPORT`.
    pub const HASH_CONFIG: u8 = 2;
}

/// Commands of class `GUEST_OFFLOADS` (sec. 5.1.6.5.6).
pub mod guest_offloads {
    /// The payload is a set of [`GUEST_OFFLOADS`](crate::net::feature::GUEST_OFFLOADS), 64 bits.
    pub const SET: u8 = 0;
}

/// Commands of class `NOTF_COAL` (sec. 5.1.6.5.7).
pub mod coalescing {
    /// [`Coalescing`](super::Coalescing) of all transmit queues; with `NOTF_COAL`.
    pub const TX_SET: u8 = 0;
    /// [`Coalescing`](super::Coalescing) of all receive queues; with `NOTF_COAL`.
    pub const RX_SET: u8 = 1;
    /// [`QueueCoalescing`](super::QueueCoalescing); with `VQ_NOTF_COAL`.
    pub const VQ_SET: u8 = 2;
    /// The payload is [`QueueCoalescing`](super::QueueCoalescing), device-readable up to
    /// `reserved`, device-writable the rest; with `VQ_NOTF_COAL`.
    pub const VQ_GET: u8 = 3;
}

/// Commands of class `HASH_TUNNEL` (sec. 5.1.6.4.5).
pub mod hash_tunnel {
    /// The payload is a set of [`tunnel_type`](crate::net::rss::tunnel_type), 32 bits.
    pub const SET: u8 = 0;
}

/// Commands of class `STATS` (sec. 5.1.6.5.8).
pub mod stats {
    /// The answer is [`StatsCapabilities`](super::StatsCapabilities).
    pub const QUERY: u8 = 0;
    /// The payload is a list of what is wanted, the answer the counters.
    pub const GET: u8 = 1;
}

/// The head of a table of addresses, `struct virtio_net_ctrl_mac` (sec. 5.1.6.5.2).
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
pub struct TableHeader {
    /// Number of addresses that follow.
    pub entries: U32,
}

/// `struct virtio_net_ctrl_coal` (sec. 5.1.6.5.7).
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
pub struct Coalescing {
    /// Most frames before a notification.
    pub max_packets: U32,
    /// Most microseconds from a frame to its notification.
    pub max_usecs: U32,
}

/// `struct virtio_net_ctrl_coal_vq` (sec. 5.1.6.5.7).
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
pub struct QueueCoalescing {
    /// Index of a receive or transmit queue.
    pub vq_index: U16,
    /// Zero.
    pub reserved: U16,
    /// What is set or read.
    pub coalescing: Coalescing,
}

/// The answer to a query of statistics, `struct virtio_net_stats_capabilities` (sec. 5.1.6.5.8).
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
pub struct StatsCapabilities {
    /// Kinds of statistics that the device keeps.
    pub supported_stats_types: U64,
}
