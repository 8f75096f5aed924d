//! Feature bits of the network device, as masks (virtio 1.4 sec. 5.1.3).
//!
//! One rule: a set of features is a `u64`. The bits from 64 on, the contexts of receive-side
//! scaling and the tunnel, outer-header and IPsec offloads, cannot be offered over vhost-user, whose feature
//! messages have 64 bits, and are named only in [`beyond_64`].

/// The device completes checksums of transmitted frames.
pub const CSUM: u64 = 1 << 0;
/// The driver takes frames with checksums that are not complete.
pub const GUEST_CSUM: u64 = 1 << 1;
/// Receive offloads can be switched by a control command.
pub const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
/// `mtu` is valid.
pub const MTU: u64 = 1 << 3;
/// `mac` is valid.
pub const MAC: u64 = 1 << 5;
/// Legacy: the device takes any kind of segmentation offload (sec. 5.1.3.3).
pub const GSO: u64 = 1 << 6;
/// The driver takes TCP over IPv4 that is larger than a frame.
pub const GUEST_TSO4: u64 = 1 << 7;
/// The driver takes TCP over IPv6 that is larger than a frame.
pub const GUEST_TSO6: u64 = 1 << 8;
/// The driver takes such segments with Explicit Congestion Notification.
pub const GUEST_ECN: u64 = 1 << 9;
/// The driver takes UDP that is to be fragmented.
pub const GUEST_UFO: u64 = 1 << 10;
/// The device cuts TCP over IPv4.
pub const HOST_TSO4: u64 = 1 << 11;
/// The device cuts TCP over IPv6.
pub const HOST_TSO6: u64 = 1 << 12;
/// The device cuts TCP with Explicit Congestion Notification.
pub const HOST_ECN: u64 = 1 << 13;
/// The device fragments UDP.
pub const HOST_UFO: u64 = 1 << 14;
/// A received frame may lie in several buffers.
pub const MRG_RXBUF: u64 = 1 << 15;
/// `status` is valid.
pub const STATUS: u64 = 1 << 16;
/// There is a control queue.
pub const CTRL_VQ: u64 = 1 << 17;
/// Receive modes and the address table can be set.
pub const CTRL_RX: u64 = 1 << 18;
/// There is a filter of VLANs.
pub const CTRL_VLAN: u64 = 1 << 19;
/// Further receive modes can be set.
pub const CTRL_RX_EXTRA: u64 = 1 << 20;
/// The driver can announce itself when told to.
pub const GUEST_ANNOUNCE: u64 = 1 << 21;
/// There are several queue pairs, with automatic steering.
pub const MQ: u64 = 1 << 22;
/// The address can be set by a control command.
pub const CTRL_MAC_ADDR: u64 = 1 << 23;
/// The device's statistics can be read by a control command.
pub const DEVICE_STATS: u64 = 1 << 50;
/// Hashes can cover the inner header of a tunnel.
pub const HASH_TUNNEL: u64 = 1 << 51;
/// Notifications of one queue can be coalesced.
pub const VQ_NOTF_COAL: u64 = 1 << 52;
/// Notifications can be coalesced.
pub const NOTF_COAL: u64 = 1 << 53;
/// The driver takes UDP over IPv4 that is larger than a frame.
pub const GUEST_USO4: u64 = 1 << 54;
/// The driver takes UDP over IPv6 that is larger than a frame.
pub const GUEST_USO6: u64 = 1 << 55;
/// The device cuts UDP into datagrams.
pub const HOST_USO: u64 = 1 << 56;
/// The hash of a received frame stands in its header.
pub const HASH_REPORT: u64 = 1 << 57;
/// The driver puts the exact length of the headers into `hdr_len`.
pub const GUEST_HDRLEN: u64 = 1 << 59;
/// Receive-side scaling.
pub const RSS: u64 = 1 << 60;
/// The device reports how many segments it coalesced.
pub const RSC_EXT: u64 = 1 << 61;
/// The device may stand in for a primary one with the same address.
pub const STANDBY: u64 = 1 << 62;
/// `speed` and `duplex` are valid.
pub const SPEED_DUPLEX: u64 = 1 << 63;

/// Features of the driver's receiving side that `CTRL_GUEST_OFFLOADS` switches (sec. 5.1.6.5.6).
pub const GUEST_OFFLOADS: u64 =
    GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_UFO | GUEST_USO4 | GUEST_USO6;

/// What a feature of the second set needs: one of the first set at least (sec. 5.1.3.1). In this order: what a rule
/// takes away may be needed by a later one. `GUEST_ANNOUNCE` is told by `status`, so it needs `STATUS` too.
const NEEDS: [(u64, u64); 7] = [
    (CTRL_VQ, BY_CONTROL),
    (CTRL_RX, CTRL_RX_EXTRA),
    (STATUS, GUEST_ANNOUNCE),
    (
        GUEST_CSUM,
        GUEST_TSO4 | GUEST_TSO6 | GUEST_UFO | GUEST_USO4 | GUEST_USO6,
    ),
    (GUEST_TSO4 | GUEST_TSO6, GUEST_ECN),
    (CSUM, HOST_TSO4 | HOST_TSO6 | HOST_UFO | HOST_USO),
    (HOST_TSO4 | HOST_TSO6, HOST_ECN | RSC_EXT),
];

/// What goes by the control queue.
const BY_CONTROL: u64 = CTRL_RX
    | CTRL_VLAN
    | CTRL_RX_EXTRA
    | GUEST_ANNOUNCE
    | MQ
    | CTRL_MAC_ADDR
    | CTRL_GUEST_OFFLOADS
    | NOTF_COAL
    | VQ_NOTF_COAL
    | RSS
    | HASH_REPORT;

/// The features of `set` whose own requirements are in it too (sec. 5.1.3.1); others than those of the network device
/// stay as they are.
pub const fn consistent(set: u64) -> u64 {
    let (mut set, mut rule) = (set, 0);
    while rule < NEEDS.len() {
        let (one_of, needy) = NEEDS[rule];
        if set & one_of == 0 {
            set &= !needy;
        }
        rule += 1;
    }
    set
}

/// Bit numbers that do not fit into a `u64` (sec. 5.1.3).
pub mod beyond_64 {
    /// Several contexts of receive-side scaling.
    pub const RSS_CONTEXT: u32 = 64;
    /// The driver takes large TCP and UDP in a UDP tunnel.
    pub const GUEST_UDP_TUNNEL_GSO: u32 = 65;
    /// The same with the outer checksum not complete.
    pub const GUEST_UDP_TUNNEL_GSO_CSUM: u32 = 66;
    /// The device cuts TCP and UDP in a UDP tunnel.
    pub const HOST_UDP_TUNNEL_GSO: u32 = 67;
    /// The same with the outer checksum to be completed.
    pub const HOST_UDP_TUNNEL_GSO_CSUM: u32 = 68;
}
