//! A link that always has a frame, for measuring what lies above links.
//!
//! Rule: takes everything, as the link to nowhere does; gives the same frame for ever.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

use guest_memory::IoVecs;
use host_os::EventFd;

use crate::Capabilities;
use crate::Error;
use crate::HEADER_BYTES;
use crate::Link;
use crate::Offloads;
use crate::Received;
use crate::Sent;
use crate::null;
use crate::spans;

/// Always has a frame.
pub(crate) struct SourceLink {
    /// Always readable.
    ready: EventFd,
    /// One frame, behind a header of zeros.
    frame: Vec<u8>,
}

impl SourceLink {
    /// Gives frames of `bytes` bytes, broadcast, of the type for local experiments (IEEE 802).
    pub fn new(bytes: u16) -> Result<Self, Error> {
        let mut frame = vec![0; HEADER_BYTES + usize::from(bytes)];
        let head = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5,
        ];
        for (place, byte) in frame.iter_mut().skip(HEADER_BYTES).zip(head) {
            *place = byte;
        }
        let ready = EventFd::new().map_err(|source| Error::Open {
            link: format!("source:{bytes}"),
            source: std::io::Error::other(source),
        })?;
        ready.notify();
        Ok(Self { ready, frame })
    }
}

impl Link for SourceLink {
    fn capabilities(&self) -> Capabilities {
        null::CAPABILITIES
    }

    fn send(&mut self, _head: &[u8], _rest: &IoVecs) -> Result<Sent, Error> {
        Ok(Sent::Sent)
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn receive(&mut self, into: &IoVecs, behind: &mut [u8]) -> Result<Received, Error> {
        let taken = spans::write(into, behind, &[&self.frame]);
        Ok(if taken {
            Received::Frame(self.frame.len())
        } else {
            Received::Empty
        })
    }

    fn set_offloads(&mut self, _offloads: Offloads) -> Result<(), Error> {
        Ok(())
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}
