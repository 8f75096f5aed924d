//! Offloads in software, for receivers that do not have what the sender left undone (virtio 1.4, 5.1.6.2, 5.1.6.3).
//!
//! Rule: a frame comes as a head that we own (all headers in it) and a tail that stays where it is; what goes out is a
//! new head and a range of that tail. Nothing here trusts the virtio-net header, not even after it was checked.

mod segment;
mod sum;

use net_link::Offloads;
use virtio_spec::net::Header;
use virtio_spec::net::gso;
use virtio_spec::net::header_flags;

pub use segment::MAX_SEGMENTS;
pub use segment::Segmenter;
pub use sum::GuestTail;
pub(crate) use sum::Sum;
pub use sum::Tail;

use crate::frame::be16;
use crate::frame::put16;

/// Why a frame cannot be finished in software. It is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The checksum is to be stored outside the head, or begins behind the frame's end.
    Checksum,
    /// A kind of segmentation that was not negotiated or makes no sense.
    Kind,
    /// The headers are not those of the kind of segmentation, or not wholly in the head.
    Headers,
    /// Segments of no size, or more of them than a well-meant frame has.
    Size,
    /// The tail is not where it should be.
    Memory,
}

/// What is to be done to a frame before a receiver can have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing: frame and header go as they are.
    None,
    /// [`complete`].
    Checksum,
    /// [`Segmenter`].
    Segment,
}

/// What `header` asks for that a receiver with `accepts` does not do itself.
#[inline]
pub fn work(header: &Header, accepts: Offloads) -> Work {
    let ecn = header.gso_type & gso::ECN == 0 || accepts.ecn;
    let large = match header.gso_type & !gso::ECN {
        gso::NONE => true,
        gso::TCPV4 => accepts.tso4 && ecn,
        gso::TCPV6 => accepts.tso6 && ecn,
        gso::UDP_L4 => accepts.uso,
        _ => false,
    };
    if !large {
        Work::Segment
    } else if header.flags & header_flags::NEEDS_CSUM != 0 && !accepts.csum {
        Work::Checksum
    } else {
        Work::None
    }
}

/// Completes the checksum that `header` left undone: sums from `csum_start` to the end of the frame and stores the
/// result in `head`. Afterwards the header asks for nothing. A header without NEEDS_CSUM is left alone.
///
/// # Errors
/// When header and frame do not fit together; `head` is as it was.
pub fn complete<T: Tail + ?Sized>(
    header: &mut Header,
    head: &mut [u8],
    tail: &T,
) -> Result<(), Refusal> {
    if header.flags & header_flags::NEEDS_CSUM == 0 {
        return Ok(());
    }
    let start = usize::from(header.csum_start.get());
    let at = start + usize::from(header.csum_offset.get());
    let mut sum = Sum::default();
    be16(head, at).ok_or(Refusal::Checksum)?;
    sum.add(head.get(start..).ok_or(Refusal::Checksum)?);
    if !tail.visit(0, tail.len(), &mut |piece| sum.add(piece)) {
        return Err(Refusal::Memory);
    }
    put16(head, at, sum.checksum()).ok_or(Refusal::Checksum)?;
    header.flags &= !header_flags::NEEDS_CSUM;
    header.csum_start = 0.into();
    header.csum_offset = 0.into();
    Ok(())
}

#[cfg(test)]
mod tests;
