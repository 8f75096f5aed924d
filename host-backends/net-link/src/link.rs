//! The face of a link.
//!
//! Rule: buffers that a caller lends are used before [`Link::flush`] (or [`Link::receive`]) returns and never after it.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use guest_memory::IoVecs;

use crate::Error;
use crate::Interface;

/// Bytes of the header before each frame: `virtio_net_hdr` with `num_buffers` (virtio 1.4, 5.1.6).
pub const HEADER_BYTES: usize = 12;
/// Most bytes of a frame that any link moves, without the header: a GSO frame of 65 535 bytes of IP behind an
/// Ethernet header with two VLAN tags.
pub const MAX_FRAME: usize = 65_535 + 14 + 8;

/// What the other side of a link does itself; a set of the segmentation and checksum offloads of virtio-net.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Frames may carry a partial checksum (NEEDS_CSUM).
    pub csum: bool,
    /// Frames may be large TCP over IPv4.
    pub tso4: bool,
    /// Frames may be large TCP over IPv6.
    pub tso6: bool,
    /// Large TCP frames may have the ECN bit.
    pub ecn: bool,
    /// Frames may be several UDP datagrams, over IPv4 and IPv6.
    pub uso: bool,
}

impl Offloads {
    /// All of them.
    pub const ALL: Self = Self {
        csum: true,
        tso4: true,
        tso6: true,
        ecn: true,
        uso: true,
    };
    /// None: every frame is complete and no longer than the MTU.
    pub const NONE: Self = Self {
        csum: false,
        tso4: false,
        tso6: false,
        ecn: false,
        uso: false,
    };

    /// What both sets have.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            csum: self.csum && other.csum,
            tso4: self.tso4 && other.tso4,
            tso6: self.tso6 && other.tso6,
            ecn: self.ecn && other.ecn,
            uso: self.uso && other.uso,
        }
    }
}

/// What a link can take, fixed when it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The header travels with the frame. Without it every frame sent must be complete (no offload), its header is
    /// dropped, and frames received get a header of zeros.
    pub vnet_header: bool,
    /// What may be left to the other side in frames that are sent.
    pub offloads: Offloads,
    /// What [`Link::set_offloads`] can turn on in frames that are received.
    pub receive_offloads: Offloads,
    /// Most bytes of a frame, without the header.
    pub max_frame: usize,
    /// Most queue pairs.
    pub max_pairs: u16,
}

/// What became of a frame given to [`Link::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Taken; it is on its way when [`Link::flush`] returns.
    Sent,
    /// No room now. [`Link::ready_fd`] becomes readable when there is (call [`Link::flush`] then).
    Full,
    /// The link refused this frame, or is lost: it is gone and counted by the caller.
    Dropped,
}

/// What [`Link::receive`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A frame, this many bytes including the header. A frame that did not fit is dropped and not
    /// reported.
    Frame(usize),
    /// None waits.
    Empty,
}

/// Is told when the other side of a link goes away and comes back; called from the worker that noticed.
pub trait Watch: Send + Sync {
    /// Nothing gets through any more: passt ended, the interface was removed.
    fn lost(&self);
    /// The link works again.
    fn restored(&self);
}

/// One end of a link for one queue pair; owned by one worker thread at a time.
///
/// Buffers in an [`IoVecs`] belong to a guest memory that the caller holds: for [`Link::send`] until the next
/// [`Link::flush`] returned, for [`Link::receive`] until it returned.
pub trait Link: Send {
    /// What the link can do.
    fn capabilities(&self) -> Capabilities;

    /// Queues one frame. `head` starts with the 12-byte header (`num_buffers` 0) followed by the checked first bytes of
    /// the frame; `rest` are the remaining spans in guest memory. `head` is copied if it is needed after the call.
    ///
    /// # Errors
    /// When the link cannot go on at all; a frame that cannot be sent is [`Sent::Dropped`].
    fn send(&mut self, head: &[u8], rest: &IoVecs) -> Result<Sent, Error>;

    /// Pushes out what was queued. Afterwards no buffer of a caller is in use.
    ///
    /// # Errors
    /// As [`Link::send`].
    fn flush(&mut self) -> Result<(), Error>;

    /// Takes one frame into the spans, 12-byte header first (`num_buffers` as the caller will set it), and what they have
    /// no room for into `behind`.
    ///
    /// # Errors
    /// When the link cannot go on at all.
    fn receive(&mut self, into: &IoVecs, behind: &mut [u8]) -> Result<Received, Error>;

    /// What received frames may leave to the guest: [`Offloads::NONE`] until this is called. What is not in
    /// [`Capabilities::receive_offloads`] is ignored.
    ///
    /// # Errors
    /// When the host refuses.
    fn set_offloads(&mut self, offloads: Offloads) -> Result<(), Error>;

    /// The guest uses this queue pair: frames may be steered to it. The state after opening.
    ///
    /// # Errors
    /// When the host refuses.
    fn attach(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// The guest does not use this queue pair: no frame shall be steered to it, and none waits.
    ///
    /// # Errors
    /// When the host refuses.
    fn detach(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// The interface of the host behind it, if there is one and its name is known.
    fn interface(&self) -> Option<Arc<Interface>> {
        None
    }

    /// Who is to be told that the link is lost or works again.
    fn watch(&mut self, _watch: Arc<dyn Watch>) {}

    /// Readable while frames wait (level), and when a full link has room again or a lost one may be tried. The
    /// descriptor stays the same for the life of the link.
    fn ready_fd(&self) -> BorrowedFd<'_>;
}
