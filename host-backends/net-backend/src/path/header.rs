//! What a guest says about a frame it sends, checked against the frame and what was negotiated (virtio 1.4 sec. 5.1.6.2).
//!
//! Rule: a header that passes is the device's own copy with every field that means nothing set to 0; whoever gets the
//! frame later may believe it.

use net_link::Offloads;
use virtio_spec::net::ETHERNET_HEADER_SIZE;
use virtio_spec::net::Header;
use virtio_spec::net::feature;
use virtio_spec::net::gso;
use virtio_spec::net::header_flags::NEEDS_CSUM;

use crate::port::MAX_FRAME;
use crate::port::PortState;

/// Least payload of a segment, in bytes, that is cut: what a frame for an MTU of 68 has room for (RFC 791), so that no
/// frame is cut into tens of thousands.
pub(crate) const MIN_GSO_SIZE: u16 = 8;

/// Why a frame was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Shorter than an Ethernet header, or longer than the MTU or any frame.
    Length,
    /// An offload that was not negotiated, or no such offload.
    Offload,
    /// A checksum outside of the frame.
    Checksum,
    /// A segmentation without its checksum or segment size.
    Segmentation,
}

/// What the guest may ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub offloads: Offloads,
    /// Most bytes of a frame that is not to be cut.
    pub max_frame: usize,
}

impl Rules {
    /// What follows from the features the driver accepted.
    pub fn new(state: &PortState) -> Self {
        Self {
            offloads: Offloads {
                csum: state.has(feature::CSUM),
                tso4: state.has(feature::HOST_TSO4),
                tso6: state.has(feature::HOST_TSO6),
                ecn: state.has(feature::HOST_ECN),
                uso: state.has(feature::HOST_USO),
            },
            max_frame: state.max_frame(),
        }
    }

    /// For frames from a link, which does what it says.
    pub fn of_link() -> Self {
        Self {
            offloads: Offloads::ALL,
            max_frame: MAX_FRAME,
        }
    }

    /// Checks the header of a frame of `len` bytes; returns what is true of it.
    #[inline]
    pub fn check(&self, header: &Header, len: usize) -> Result<Header, Lie> {
        let plain = is_plain(header);
        let max = if plain { self.max_frame } else { MAX_FRAME };
        if len < ETHERNET_HEADER_SIZE || len > max {
            return Err(Lie::Length);
        }
        // Other flags belong to received frames, or to features that do not exist here: ignored (sec. 5.1.6.2.2).
        if plain && header.flags & NEEDS_CSUM == 0 {
            return Ok(Header::default());
        }
        self.check_offloads(header, len)
    }

    fn check_offloads(&self, header: &Header, len: usize) -> Result<Header, Lie> {
        let mut checked = Header::default();
        if header.flags & NEEDS_CSUM != 0 {
            if !self.offloads.csum {
                return Err(Lie::Offload);
            }
            let start = usize::from(header.csum_start.get());
            let place = start + usize::from(header.csum_offset.get());
            if start < ETHERNET_HEADER_SIZE || place + 2 > len {
                return Err(Lie::Checksum);
            }
            checked.flags = NEEDS_CSUM;
            checked.csum_start = header.csum_start;
            checked.csum_offset = header.csum_offset;
        }
        if !is_plain(header) {
            self.check_segmentation(header, &checked)?;
            checked.gso_type = header.gso_type;
            checked.gso_size = header.gso_size;
            // A hint only (sec. 5.1.6.2.2), but a TAP refuses one that points past the frame.
            let end = u16::try_from(len).unwrap_or(u16::MAX);
            checked.hdr_len = header.hdr_len.get().min(end).into();
        }
        Ok(checked)
    }

    fn check_segmentation(&self, header: &Header, so_far: &Header) -> Result<(), Lie> {
        if !allows(self.offloads, header.gso_type) {
            return Err(Lie::Offload);
        }
        // The driver has to ask for the checksum too (sec. 5.1.6.2.1).
        let whole = so_far.flags & NEEDS_CSUM != 0 && header.gso_size.get() >= MIN_GSO_SIZE;
        if whole {
            Ok(())
        } else {
            Err(Lie::Segmentation)
        }
    }
}

/// Whether nothing is to be cut; the ECN bit alone says nothing (sec. 5.1.4.1 has "NONE or ECN").
#[inline]
fn is_plain(header: &Header) -> bool {
    header.gso_type & !gso::ECN == gso::NONE
}

/// Whether `offloads` has the kind `gso_type`, which is not "none".
#[inline]
pub(crate) fn allows(offloads: Offloads, gso_type: u8) -> bool {
    let ecn = gso_type & gso::ECN != 0;
    match gso_type & !gso::ECN {
        gso::TCPV4 => offloads.tso4 && (!ecn || offloads.ecn),
        gso::TCPV6 => offloads.tso6 && (!ecn || offloads.ecn),
        gso::UDP_L4 => offloads.uso && !ecn,
        _ => false,
    }
}

/// Whether a receiver with `offloads` can take a frame with this checked header as it is.
#[inline]
pub(crate) fn fits(offloads: Offloads, header: &Header) -> bool {
    if header.flags & NEEDS_CSUM == 0 {
        return true;
    }
    offloads.csum && (header.gso_type == gso::NONE || allows(offloads, header.gso_type))
}
