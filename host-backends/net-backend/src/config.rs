//! The configuration space and the feature bits of a network device (virtio 1.4 sec. 5.1.3, 5.1.4).
//!
//! Rule: a driver writes nothing here; what changes by itself is the status, and the address that the driver set.

use virtio_spec::feature as ring;
use virtio_spec::net::Config;
use virtio_spec::net::SPEED_UNKNOWN;
use virtio_spec::net::duplex;
use virtio_spec::net::feature as net;
use virtio_spec::net::status;
use zerocopy::IntoBytes;

use crate::Duplex;
use crate::NetSpec;
use crate::rss::KEY_BYTES;
use crate::rss::SUPPORTED_TYPES;
use crate::rss::TABLE_ENTRIES;

/// Every feature bit that a device of `spec` offers. What a link cannot do is done in software, so the link changes none.
pub(crate) fn features(spec: &NetSpec) -> u64 {
    let mut bits = ring::VERSION_1
        | ring::RING_INDIRECT_DESC
        | ring::RING_EVENT_IDX
        | ring::RING_RESET
        | net::MAC
        | net::MTU
        | net::STATUS
        | net::SPEED_DUPLEX;
    let control = spec.control_queue;
    let large = spec.csum && (spec.tso || spec.uso);
    let groups = [
        (spec.packed, ring::RING_PACKED),
        (spec.in_order, ring::IN_ORDER),
        (spec.mergeable, net::MRG_RXBUF),
        (spec.csum, net::CSUM | net::GUEST_CSUM),
        (spec.csum && spec.tso, TSO),
        (
            spec.csum && spec.tso && spec.ecn,
            net::GUEST_ECN | net::HOST_ECN,
        ),
        (spec.csum && spec.uso, USO),
        (control, CONTROL),
        (control && (spec.csum || large), net::CTRL_GUEST_OFFLOADS),
        (control && spec.queue_pairs > 1, net::MQ),
        (control && spec.rss, net::RSS | net::HASH_REPORT),
    ];
    for (offered, group) in groups {
        if offered {
            bits |= group;
        }
    }
    if let Some(mask) = spec.feature_mask {
        bits &= mask.0 | ring::VERSION_1;
    }
    // A mask may have taken away what others need.
    net::consistent(bits)
}

const TSO: u64 = net::GUEST_TSO4 | net::GUEST_TSO6 | net::HOST_TSO4 | net::HOST_TSO6;
const USO: u64 = net::GUEST_USO4 | net::GUEST_USO6 | net::HOST_USO;
const CONTROL: u64 = net::CTRL_VQ
    | net::CTRL_RX
    | net::CTRL_RX_EXTRA
    | net::CTRL_VLAN
    | net::CTRL_MAC_ADDR
    | net::GUEST_ANNOUNCE
    | net::NOTF_COAL
    | net::VQ_NOTF_COAL;

/// What the configuration space shows beside what the specification says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub mac: [u8; 6],
    pub mtu: u16,
    pub link_up: bool,
    pub announce: bool,
}

/// The configuration space.
pub(crate) fn space(spec: &NetSpec, shown: Shown) -> Config {
    let offers = features(spec);
    let hashing = offers & (net::RSS | net::HASH_REPORT) != 0;
    let when = |condition: bool, value: u16| if condition { value } else { 0 };
    let flags = when(shown.link_up, status::LINK_UP) | when(shown.announce, status::ANNOUNCE);
    let duplex = match (spec.speed, spec.duplex) {
        (None, _) => duplex::UNKNOWN,
        (Some(_), Duplex::Full) => duplex::FULL,
        (Some(_), Duplex::Half) => duplex::HALF,
    };
    let table = u16::try_from(TABLE_ENTRIES).unwrap_or(u16::MAX);
    Config {
        mac: shown.mac,
        status: flags.into(),
        max_virtqueue_pairs: spec.queue_pairs.into(),
        mtu: shown.mtu.into(),
        speed: spec.speed.unwrap_or(SPEED_UNKNOWN).into(),
        duplex,
        rss_max_key_size: if hashing {
            u8::try_from(KEY_BYTES).unwrap_or(u8::MAX)
        } else {
            0
        },
        rss_max_indirection_table_length: when(hashing, table).into(),
        supported_hash_types: if hashing { SUPPORTED_TYPES } else { 0 }.into(),
        supported_tunnel_types: 0.into(),
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
