//! The link over a packet socket.
//!
//! Rule: received frames pass through a buffer of ours, where a VLAN tag is put back and a checksum completed that the
//! guest does not accept as it is; frames are sent from guest memory.
#![expect(unsafe_code, reason = "writes come from guest memory directly")]

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use guest_memory::IoVecs;
use nix::errno::Errno;

use crate::Capabilities;
use crate::Error;
use crate::HEADER_BYTES;
use crate::Interface;
use crate::Link;
use crate::MAX_FRAME;
use crate::Offloads;
use crate::Received;
use crate::Sent;
use crate::Watch;
use crate::packet::sys;
use crate::packet::sys::VNET_HEADER;
use crate::ready::Ready;
use crate::spans;
use crate::tap::sys as calls;

const NEEDS_CSUM: u8 = 1;
const ADDRESSES: usize = 12;

/// The link over a packet socket.
pub(crate) struct PacketLink {
    socket: OwnedFd,
    interface: Arc<Interface>,
    ready: Ready,
    lost: bool,
    /// We wait for room.
    full: bool,
    accepts: Offloads,
    frame: Box<[u8]>,
    /// The buffers of one call.
    call: Call,
    /// Large frames were dropped, which was said.
    warned: bool,
    watch: Option<Arc<dyn Watch>>,
}

/// The buffers of one call; kept for its allocation.
#[derive(Default)]
struct Call(Vec<libc::iovec>);

// SAFETY: addresses that only a system call follows, filled and used within one call of the owner.
unsafe impl Send for Call {}

impl PacketLink {
    pub fn new(socket: OwnedFd, interface: Interface) -> Result<Self, Error> {
        let ready = Ready::new()?;
        ready
            .add(socket.as_fd())
            .map_err(Error::system("epoll_ctl"))?;
        Ok(Self {
            socket,
            interface: Arc::new(interface),
            ready,
            lost: false,
            full: false,
            accepts: Offloads::NONE,
            frame: vec![0; MAX_FRAME].into_boxed_slice(),
            call: Call::default(),
            warned: false,
            watch: None,
        })
    }

    /// The interface went down, which passes, or away.
    fn down(&mut self) {
        if self.lost || sys::has_interface(self.socket.as_fd()) {
            return;
        }
        self.lost = true;
        self.ready.remove(self.socket.as_fd());
        let interface = self.interface.name();
        tracing::warn!(interface, "The interface was removed");
        if let Some(watch) = &self.watch {
            watch.lost();
        }
    }

    /// Makes header and frame what the guest accepts; whether that is possible.
    fn fit(&mut self, header: &mut [u8; VNET_HEADER], len: usize) -> bool {
        let [flags, gso_type, ..] = *header;
        let accepted = match gso_type & !0x80 {
            0 => true,
            1 => self.accepts.tso4,
            4 => self.accepts.tso6,
            5 => self.accepts.uso,
            _ => false,
        };
        if !accepted || gso_type & 0x80 != 0 && !self.accepts.ecn {
            if !self.warned {
                self.warned = true;
                let interface = self.interface.name();
                tracing::warn!(
                    interface,
                    "Large frames are dropped that the guest does not accept: turn gro off with ethtool -K"
                );
            }
            return false;
        }
        if self.accepts.csum {
            return true;
        }
        let [.., a, b, c, d] = *header;
        *header = [0; VNET_HEADER];
        let start = usize::from(u16::from_le_bytes([a, b]));
        let offset = usize::from(u16::from_le_bytes([c, d]));
        flags & NEEDS_CSUM == 0 || complete(self.frame.get_mut(..len), start, offset).is_some()
    }
}

/// The places in the header are further back by the tag that is put in before them.
fn shift(header: &mut [u8; VNET_HEADER], by: usize) {
    let [flags, _, a, b, .., c, d, _, _] = header;
    let Ok(by) = u16::try_from(by) else { return };
    let add = |low: &mut u8, high: &mut u8| {
        let place = u16::from_le_bytes([*low, *high]);
        if place != 0 {
            [*low, *high] = place.saturating_add(by).to_le_bytes();
        }
    };
    add(a, b);
    if *flags & NEEDS_CSUM != 0 {
        add(c, d);
    }
}

/// Sums from `start` to the end of the frame and stores the checksum at `offset` from there.
fn complete(frame: Option<&mut [u8]>, start: usize, offset: usize) -> Option<()> {
    let covered = frame?.get_mut(start..)?;
    let mut sum = 0u64;
    for pair in covered.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u64::from(u16::from_be_bytes([*pair.first()?, low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = match !u16::try_from(sum).ok()? {
        0 => 0xffff,
        sum => sum,
    };
    let place = covered.get_mut(offset..offset.checked_add(2)?)?;
    place.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

impl Link for PacketLink {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            vnet_header: true,
            offloads: Offloads::ALL,
            receive_offloads: Offloads::ALL,
            max_frame: MAX_FRAME,
            max_pairs: 1,
        }
    }

    fn send(&mut self, head: &[u8], rest: &IoVecs) -> Result<Sent, Error> {
        let rest = rest.as_slice();
        let (Some(header), Some(frame)) = (head.get(..VNET_HEADER), head.get(HEADER_BYTES..))
        else {
            return Ok(Sent::Dropped);
        };
        if self.lost || rest.len() + 2 > calls::IOV_MAX {
            return Ok(Sent::Dropped);
        }
        let own = |bytes: &[u8]| libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        self.call.0.clear();
        self.call.0.extend([own(header), own(frame)]);
        self.call.0.extend_from_slice(rest);
        // SAFETY: `head` is borrowed across the call and only read; the rest is guest memory that the caller holds.
        match unsafe { calls::sendmsg(self.socket.as_fd(), &self.call.0) } {
            Ok(_) => return Ok(Sent::Sent),
            Err(Errno::EAGAIN) => {
                self.full = self.ready.want_room(self.socket.as_fd()).is_ok();
                return Ok(Sent::Full);
            }
            Err(Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV) => self.down(),
            // ENOBUFS: the interface's queue. EINVAL: the header. EMSGSIZE: the MTU. EFAULT: the guest's memory.
            Err(_) => {}
        }
        Ok(Sent::Dropped)
    }

    fn flush(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.full) {
            let _ = self.ready.has_room(self.socket.as_fd());
        }
        Ok(())
    }

    fn receive(&mut self, into: &IoVecs, behind: &mut [u8]) -> Result<Received, Error> {
        while !self.lost {
            let mut header = [0; VNET_HEADER];
            match sys::receive(self.socket.as_fd(), &mut header, &mut self.frame) {
                Ok(Some(packet)) if self.fit(&mut header, packet.len) => {
                    let tag = packet.tag.unwrap_or_default();
                    let tag = packet.tag.map_or(&[][..], |_| &tag);
                    let frame = self.frame.get(..packet.len).unwrap_or_default();
                    let Some((addresses, rest)) = frame.split_at_checked(ADDRESSES) else {
                        continue;
                    };
                    shift(&mut header, tag.len());
                    let parts = [&header[..], &[0, 0], addresses, tag, rest];
                    if spans::write(into, behind, &parts) {
                        return Ok(Received::Frame(HEADER_BYTES + tag.len() + packet.len));
                    }
                }
                // EINVAL: a kind of large frame that has no name in the header; it is gone.
                Ok(_) | Err(Errno::EINTR | Errno::EINVAL) => {}
                Err(Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV) => self.down(),
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(Error::system("recvmsg")(errno)),
            }
        }
        Ok(Received::Empty)
    }

    fn set_offloads(&mut self, offloads: Offloads) -> Result<(), Error> {
        self.accepts = offloads;
        Ok(())
    }

    fn interface(&self) -> Option<Arc<Interface>> {
        Some(Arc::clone(&self.interface))
    }

    fn watch(&mut self, watch: Arc<dyn Watch>) {
        self.watch = Some(watch);
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.ready.fd()
    }
}
