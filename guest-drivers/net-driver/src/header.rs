//! The header of every frame (virtio 1.4 sec. 5.1.6.2, 5.1.6.4), written and read.
//!
//! Rule: pure functions; a header is copied once and what passes the check fits the frame and the negotiated features.
use virtio_spec::net;
use virtio_spec::net::ETHERNET_HEADER_SIZE;
use virtio_spec::net::HASH_HEADER_SIZE;
use virtio_spec::net::Header;
use virtio_spec::net::feature;
use virtio_spec::net::gso;
use virtio_spec::net::header_flags as flags;
use virtio_spec::net::rss::hash_report;
use zerocopy::FromBytes;

use crate::FRAME_MAX;
use crate::error::Discard;
use crate::error::Refusal;
use crate::frame::Checksum;
use crate::frame::ChecksumAt;
use crate::frame::Coalesced;
use crate::frame::Frame;
use crate::frame::Hash;
use crate::frame::Offload;
use crate::frame::SegmentKind;
use crate::frame::Segmentation;

/// Bytes of a VLAN tag, which count neither to the MTU nor to the Ethernet header.
const VLAN_TAG_SIZE: usize = 4;
/// Ethernet types of VLAN tags, as they are in the frame.
const VLAN_TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
/// Where the Ethernet type is in a frame.
pub(crate) const TYPE_OFFSET: usize = 12;
/// Least bytes of a TCP and of a UDP header, and where their checksum is.
const TCP: (usize, u16) = (20, 16);
const UDP: (usize, u16) = (8, 6);

/// Checks what the shell asks for and puts it into a header. `len` is the frame's.
pub(crate) fn build(
    features: u64,
    mtu: Option<u16>,
    len: u64,
    offload: &Offload,
) -> Result<Header, Refusal> {
    if len < ETHERNET_HEADER_SIZE as u64 {
        return Err(Refusal::TooSmall);
    }
    let most = match mtu {
        Some(mtu) if offload.segmentation.is_none() => {
            usize::from(mtu) + ETHERNET_HEADER_SIZE + VLAN_TAG_SIZE
        }
        _ => FRAME_MAX,
    };
    let len = usize::try_from(len).map_err(|_| Refusal::TooLarge)?;
    if len > most {
        return Err(Refusal::TooLarge);
    }
    let mut header = Header::default();
    if let Some(at) = offload.checksum {
        if features & feature::CSUM == 0 {
            return Err(Refusal::Unsupported);
        }
        if !inside(at, len) {
            return Err(Refusal::BadOffload);
        }
        header.flags = flags::NEEDS_CSUM;
        header.csum_start = at.start.into();
        header.csum_offset = at.offset.into();
    }
    if let Some(segmentation) = offload.segmentation {
        let at = offload.checksum.ok_or(Refusal::BadOffload)?;
        header.gso_type = host_type(features, segmentation)?;
        let transport = transport_of(segmentation.kind);
        let headers = usize::from(offload.header_len);
        let fits = segmentation.size > 0
            && at.offset == transport.1
            && headers >= usize::from(at.start) + transport.0
            && headers <= len;
        if !fits {
            return Err(Refusal::BadOffload);
        }
        header.gso_size = segmentation.size.into();
        header.hdr_len = offload.header_len.into();
    }
    Ok(header)
}

/// Whether a frame of `len` bytes that [`build`] lets pass is within the MTU only if it begins with a VLAN tag.
#[inline]
pub(crate) fn needs_tag(mtu: Option<u16>, len: u64, offload: &Offload) -> bool {
    let most = mtu.map(|mtu| u64::from(mtu) + ETHERNET_HEADER_SIZE as u64);
    offload.segmentation.is_none() && most.is_some_and(|most| len > most)
}

/// Whether this Ethernet type is that of a VLAN tag.
pub(crate) fn is_tag(kind: [u8; 2]) -> bool {
    VLAN_TAGS.contains(&kind)
}

fn host_type(features: u64, segmentation: Segmentation) -> Result<u8, Refusal> {
    let (need, kind) = match segmentation.kind {
        SegmentKind::Tcp4 => (feature::HOST_TSO4, gso::TCPV4),
        SegmentKind::Tcp6 => (feature::HOST_TSO6, gso::TCPV6),
        SegmentKind::Udp if segmentation.ecn => return Err(Refusal::BadOffload),
        SegmentKind::Udp => (feature::HOST_USO, gso::UDP_L4),
    };
    let ecn = match segmentation.ecn {
        true => (feature::HOST_ECN, gso::ECN),
        false => (0, 0),
    };
    let need = need | ecn.0;
    if features & need == need {
        Ok(kind | ecn.1)
    } else {
        Err(Refusal::Unsupported)
    }
}

/// Checks what the device says of a frame of `len` bytes. `bytes` begin with the header, of the negotiated size.
pub(crate) fn parse(
    features: u64,
    bytes: &[u8; HASH_HEADER_SIZE],
    len: u32,
) -> Result<Frame, Discard> {
    let (header, _) = Header::read_from_prefix(bytes).map_err(|_| Discard::BadHeader)?;
    let checksum = checksum(features, &header, len as usize)?;
    let coalesced =
        (header.flags & flags::RSC_INFO != 0 && features & feature::RSC_EXT != 0).then(|| {
            Coalesced {
                segments: header.csum_start.get(),
                duplicate_acks: header.csum_offset.get(),
            }
        });
    let segmentation = segmentation(features, &header, &checksum, len as usize)?;
    Ok(Frame {
        len,
        checksum,
        segmentation,
        hash: hash(features, bytes),
        coalesced,
    })
}

/// Flags that were not negotiated mean nothing, except the one that says that the frame is not complete.
fn checksum(features: u64, header: &Header, len: usize) -> Result<Checksum, Discard> {
    let negotiated = features & feature::GUEST_CSUM != 0;
    let coalesced = header.flags & flags::RSC_INFO != 0 && features & feature::RSC_EXT != 0;
    if header.flags & flags::NEEDS_CSUM != 0 && !coalesced {
        let at = ChecksumAt {
            start: header.csum_start.get(),
            offset: header.csum_offset.get(),
        };
        if !negotiated || !inside(at, len) {
            return Err(Discard::BadHeader);
        }
        return Ok(Checksum::Partial(at));
    }
    if header.flags & flags::DATA_VALID != 0 && negotiated {
        return Ok(Checksum::Valid);
    }
    Ok(Checksum::Unknown)
}

fn segmentation(
    features: u64,
    header: &Header,
    checksum: &Checksum,
    len: usize,
) -> Result<Option<Segmentation>, Discard> {
    let ecn = header.gso_type & gso::ECN != 0;
    let (need, kind) = match header.gso_type & !gso::ECN {
        // The bit alone says nothing (sec. 5.1.4.1 names "NONE or ECN" in one breath).
        gso::NONE => return Ok(None),
        gso::TCPV4 => (feature::GUEST_TSO4, SegmentKind::Tcp4),
        gso::TCPV6 => (feature::GUEST_TSO6, SegmentKind::Tcp6),
        gso::UDP_L4 if !ecn => (feature::GUEST_USO4 | feature::GUEST_USO6, SegmentKind::Udp),
        _ => return Err(Discard::BadHeader),
    };
    let size = header.gso_size.get();
    let transport = transport_of(kind);
    let fits = match checksum {
        Checksum::Partial(at) => {
            at.offset == transport.1 && usize::from(at.start) + transport.0 <= len
        }
        Checksum::Valid => true,
        // A large frame that nobody vouches for cannot be cut into good ones.
        Checksum::Unknown => {
            header.flags & flags::RSC_INFO != 0 && features & feature::RSC_EXT != 0
        }
    };
    if features & need == 0 || size == 0 || !fits {
        return Err(Discard::BadHeader);
    }
    Ok(Some(Segmentation { kind, size, ecn }))
}

fn hash(features: u64, bytes: &[u8; HASH_HEADER_SIZE]) -> Option<Hash> {
    if features & feature::HASH_REPORT == 0 {
        return None;
    }
    let (header, _) = net::HashHeader::read_from_prefix(bytes).ok()?;
    let report = header.hash_report.get();
    let known = (hash_report::IPV4..=hash_report::UDPV6_EX).contains(&report);
    known.then(|| Hash {
        value: header.hash_value.get(),
        report,
    })
}

/// Whether a checksum lies behind the Ethernet header and inside a frame of `len` bytes.
fn inside(at: ChecksumAt, len: usize) -> bool {
    let (start, offset) = (usize::from(at.start), usize::from(at.offset));
    start >= ETHERNET_HEADER_SIZE && start + offset + 2 <= len
}

fn transport_of(kind: SegmentKind) -> (usize, u16) {
    match kind {
        SegmentKind::Tcp4 | SegmentKind::Tcp6 => TCP,
        SegmentKind::Udp => UDP,
    }
}
