//! A link to nowhere, for a network card without a cable and for measuring what lies above links.
//!
//! Rule: takes everything, gives nothing.

use std::os::fd::BorrowedFd;

use guest_memory::IoVecs;

use crate::Capabilities;
use crate::Error;
use crate::Link;
use crate::MAX_FRAME;
use crate::Offloads;
use crate::Received;
use crate::Sent;
use crate::ready::Ready;

/// What a link without another side can take.
pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    vnet_header: true,
    offloads: Offloads::ALL,
    receive_offloads: Offloads::ALL,
    max_frame: MAX_FRAME,
    max_pairs: u16::MAX,
};

/// Takes everything, gives nothing.
pub(crate) struct NullLink {
    ready: Ready,
}

impl NullLink {
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            ready: Ready::new()?,
        })
    }
}

impl Link for NullLink {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn send(&mut self, _head: &[u8], _rest: &IoVecs) -> Result<Sent, Error> {
        Ok(Sent::Sent)
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn receive(&mut self, _into: &IoVecs, _behind: &mut [u8]) -> Result<Received, Error> {
        Ok(Received::Empty)
    }

    fn set_offloads(&mut self, _offloads: Offloads) -> Result<(), Error> {
        Ok(())
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.ready.fd()
    }
}
