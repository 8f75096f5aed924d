//! A port's state as its receive queue sees it.
//!
//! Rule: what every frame needs is worked out once per change of the state.

use std::sync::Arc;

use net_link::Offloads;
use virtio_spec::net::feature;

use crate::path::tally::ReceiveTally;
use crate::port::MAX_FRAME;
use crate::port::PortState;
use crate::published::Follower;
use crate::published::Published;

/// A port's state as its receive queue sees it, looked up once per change.
#[derive(Debug)]
pub(crate) struct View {
    state: Follower<PortState>,
    header_size: usize,
    mergeable: bool,
    offloads: Offloads,
    /// Most bytes of a frame that is not to be cut.
    max_frame: usize,
    /// Frames need no look.
    open: bool,
    hashes: bool,
}

impl View {
    pub fn new(state: Follower<PortState>) -> Self {
        Self {
            header_size: state.header_size(),
            mergeable: state.has(feature::MRG_RXBUF),
            offloads: state.offloads,
            max_frame: if state.has(feature::MTU) {
                state.max_frame()
            } else {
                MAX_FRAME
            },
            open: state.link_up && state.receive.is_open(),
            hashes: state.has(feature::HASH_REPORT),
            state,
        }
    }

    #[inline]
    pub fn refresh(&mut self, from: &Published<PortState>) {
        if self.state.refresh(from) {
            *self = Self::new(from.follow());
        }
    }

    /// The state.
    pub fn state(&self) -> &Arc<PortState> {
        self.state.get()
    }

    /// Bytes of the header before each frame.
    #[inline]
    pub fn header_size(&self) -> usize {
        self.header_size
    }

    /// Whether a frame may lie in several buffers.
    #[inline]
    pub fn mergeable(&self) -> bool {
        self.mergeable
    }

    /// What frames may leave to the guest.
    #[inline]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Most bytes of a frame that is not to be cut (virtio 1.4 sec. 5.1.4.1).
    #[inline]
    pub fn max_frame(&self) -> usize {
        self.max_frame
    }

    /// Whether a frame's first bytes are needed to deliver it.
    #[inline]
    pub fn looks(&self) -> bool {
        !self.open || self.hashes
    }

    /// `hash_value` and `hash_report` for the frame that begins with `head`.
    #[inline]
    pub fn hash(&self, head: &[u8]) -> (u32, u16) {
        if !self.hashes {
            return (0, 0);
        }
        let hash = self.state.hasher.as_ref().map(|hasher| hasher.frame(head));
        let hash = hash.unwrap_or_default();
        (hash.value, hash.report)
    }

    /// Whether the driver wants the frame that begins with `head`; counts it if not.
    #[inline]
    pub fn admits(&self, head: &[u8], tally: &ReceiveTally) -> bool {
        self.open || self.admits_by_look(head, tally)
    }

    fn admits_by_look(&self, head: &[u8], tally: &ReceiveTally) -> bool {
        if !self.state.link_up {
            tally.link_down.add(1);
            return false;
        }
        let wanted = self.state.receive.admits(head);
        if !wanted {
            tally.filtered.add(1);
        }
        wanted
    }
}
