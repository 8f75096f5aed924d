//! The network device as its configuration space describes it (virtio 1.4 sec. 5.1.4), checked.
//!
//! Rule: a field counts only if its feature was negotiated, and a value that no device can have refuses the device.
use core::mem::offset_of;

use driver_platform::PciFunction;
use virtio_core::Error;
use virtio_pci::Transport;
use virtio_spec::net;
use virtio_spec::net::Config;
use virtio_spec::net::ETHERNET_HEADER_SIZE;
use virtio_spec::net::MAC_SIZE;
use virtio_spec::net::duplex;
use virtio_spec::net::feature;
use virtio_spec::net::rss;
use virtio_spec::net::status;

/// Receive buffers without `MRG_RXBUF`, header excepted (sec. 5.1.6.3.1): for frames of the usual size, and for large ones.
const BUFFER_USUAL: usize = 1526 - net::HEADER_SIZE;
const BUFFER_LARGE: usize = 65601 - net::HEADER_SIZE;
/// Least receive buffer with `MRG_RXBUF`: smaller ones would make the number of buffers of a frame the limit.
const BUFFER_MERGEABLE: usize = 256;

/// How data flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duplex {
    /// One way at a time.
    Half,
    /// Both ways at once.
    Full,
}

/// The link at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Frames can pass.
    pub up: bool,
    /// In units of 1 Mbit/s, if known.
    pub speed: Option<u32>,
    /// If known.
    pub duplex: Option<Duplex>,
}

/// What the device can do with hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RssInfo {
    /// Greatest key in bytes.
    pub key_max: u8,
    /// Most entries of the indirection table; 0 without receive-side scaling.
    pub table_max: u16,
    /// Bits of [`virtio_spec::net::rss::hash_type`].
    pub hash_types: u32,
}

/// What a shell needs to know about the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetInfo {
    /// The address; `None`: the shell chooses a locally administered one.
    pub mac: Option<[u8; MAC_SIZE]>,
    /// Greatest payload of a frame without Ethernet header, if the device says.
    pub mtu: Option<u16>,
    /// The link as it was when last read.
    pub link: Link,
    /// The device asks the driver to announce itself (sec. 5.1.6.5.4).
    pub announce: bool,
    /// Queue pairs that the device has.
    pub pairs_max: u16,
    /// With receive-side scaling or hash reports.
    pub rss: Option<RssInfo>,
    /// Bytes before every frame in its first buffer: 12, or 20 with hash reports.
    pub header_size: usize,
    /// A frame may lie in several receive buffers.
    pub mergeable: bool,
    /// Least bytes of a receive buffer, with the header.
    pub buffer_min: usize,
}

impl NetInfo {
    /// Reads and checks the configuration; the features are negotiated already.
    pub(crate) fn read<F: PciFunction>(transport: &Transport<F>) -> Result<Self, Error> {
        let info = transport.read_consistent(|t| read_fields(t))?;
        let pairs = (1..=net::PAIRS_MAX).contains(&info.pairs_max);
        let mtu = info.mtu.is_none_or(|mtu| mtu >= net::MTU_MIN);
        let rss = info.rss.is_none_or(|rss| {
            usize::from(rss.key_max) >= rss::KEY_SIZE
                && (!transport.has(feature::RSS) || rss.table_max >= rss::INDIRECTION_TABLE_MIN)
        });
        if pairs && mtu && rss {
            Ok(info)
        } else {
            Err(Error::BadConfig)
        }
    }

    /// Whether queues, buffers and headers made for `self` fit a device that says `other`.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.pairs_max == other.pairs_max
            && self.mtu == other.mtu
            && self.header_size == other.header_size
            && self.mergeable == other.mergeable
            && self.buffer_min == other.buffer_min
    }
}

fn read_fields<F: PciFunction>(t: &Transport<F>) -> Result<NetInfo, virtio_pci::Error> {
    let mtu = match t.has(feature::MTU) {
        true => Some(field_u16(t, offset_of!(Config, mtu))?),
        false => None,
    };
    let status = match t.has(feature::STATUS) {
        true => field_u16(t, offset_of!(Config, status))?,
        false => status::LINK_UP,
    };
    let pairs_max = match t.has(feature::MQ) || t.has(feature::RSS) {
        true => field_u16(t, offset_of!(Config, max_virtqueue_pairs))?,
        false => 1,
    };
    let header_size = net::header_size(t.features());
    let mergeable = t.has(feature::MRG_RXBUF);
    let (speed, duplex) = speed(t)?;
    Ok(NetInfo {
        mac: mac(t)?,
        mtu,
        link: Link {
            up: status & status::LINK_UP != 0,
            speed,
            duplex,
        },
        announce: t.has(feature::GUEST_ANNOUNCE) && status & status::ANNOUNCE != 0,
        pairs_max,
        rss: rss_info(t)?,
        header_size,
        mergeable,
        buffer_min: header_size + frame_room(t, mtu, mergeable),
    })
}

/// Bytes of a frame that a receive buffer must hold.
fn frame_room<F: PciFunction>(t: &Transport<F>, mtu: Option<u16>, mergeable: bool) -> usize {
    let large = [
        feature::GUEST_TSO4,
        feature::GUEST_TSO6,
        feature::GUEST_USO4,
        feature::GUEST_USO6,
    ];
    let with_mtu = mtu.map_or(0, |mtu| usize::from(mtu) + ETHERNET_HEADER_SIZE + 4);
    if mergeable {
        BUFFER_MERGEABLE
    } else if large.into_iter().any(|mask| t.has(mask)) {
        BUFFER_LARGE
    } else {
        BUFFER_USUAL.max(with_mtu)
    }
}

/// An address of zeroes or of a group is none.
fn mac<F: PciFunction>(t: &Transport<F>) -> Result<Option<[u8; MAC_SIZE]>, virtio_pci::Error> {
    if !t.has(feature::MAC) {
        return Ok(None);
    }
    let mac = t.read_field::<MAC_SIZE>(offset_of!(Config, mac))?;
    let usable = mac[0] & 1 == 0 && mac != [0; MAC_SIZE];
    Ok(usable.then_some(mac))
}

fn speed<F: PciFunction>(
    t: &Transport<F>,
) -> Result<(Option<u32>, Option<Duplex>), virtio_pci::Error> {
    if !t.has(feature::SPEED_DUPLEX) {
        return Ok((None, None));
    }
    let speed = u32::from_le_bytes(t.read_field(offset_of!(Config, speed))?);
    let [value] = t.read_field::<1>(offset_of!(Config, duplex))?;
    let duplex = match value {
        duplex::HALF => Some(Duplex::Half),
        duplex::FULL => Some(Duplex::Full),
        _ => None,
    };
    Ok(((speed <= net::SPEED_MAX).then_some(speed), duplex))
}

fn rss_info<F: PciFunction>(t: &Transport<F>) -> Result<Option<RssInfo>, virtio_pci::Error> {
    if !t.has(feature::RSS) && !t.has(feature::HASH_REPORT) {
        return Ok(None);
    }
    let [key_max] = t.read_field::<1>(offset_of!(Config, rss_max_key_size))?;
    let table_max = match t.has(feature::RSS) {
        true => field_u16(t, offset_of!(Config, rss_max_indirection_table_length))?,
        false => 0,
    };
    let types = t.read_field(offset_of!(Config, supported_hash_types))?;
    Ok(Some(RssInfo {
        key_max,
        table_max,
        hash_types: u32::from_le_bytes(types),
    }))
}

fn field_u16<F: PciFunction>(t: &Transport<F>, at: usize) -> Result<u16, virtio_pci::Error> {
    t.read_field(at).map(u16::from_le_bytes)
}
