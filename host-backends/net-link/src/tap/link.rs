//! One queue of a TAP interface.
//!
//! Rule: an interface that is down loses frames, one that was removed ends the link; neither ends the process.
//!
//! One system call per frame, because batches gain nothing: the driver of the interface has no call for several frames,
//! and the way into the kernel is a small part of what a frame costs there. CPU time of the thread, in proportion to a
//! loop of plain writev or readv (`cargo bench -p net-link`, Linux 6.18; the plain loop: 380 ns for 64 bytes sent):
//!
//! | | this link | io_uring, 64 frames per call |
//! |---|---|---|
//! | send 64 bytes | 1.06 | 1.02 |
//! | send 1514 bytes | 1.05 | 1.03 |
//! | send 64 KiB to be cut | 1.02 | 0.99 |
//! | receive 64 bytes | 1.04 | |
//! | receive 1514 bytes | 1.03 | |
#![expect(unsafe_code, reason = "reads and writes go to guest memory directly")]

use std::fs::File;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
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
use crate::ready::Ready;
use crate::tap::MAX_QUEUES;
use crate::tap::sys;

/// How the queue stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Frames flow.
    Attached,
    /// The kernel steers nothing here, and takes nothing.
    Detached,
    /// The interface is gone.
    Lost,
}

/// One queue of a TAP interface.
pub(crate) struct TapLink {
    file: File,
    ready: Ready,
    state: State,
    multi_queue: bool,
    /// We wait for room.
    full: bool,
    /// What the kernel can leave undone in frames that we read.
    receive_offloads: Offloads,
    /// The buffers of one call.
    spans: Spans,
    interface: Option<Arc<Interface>>,
    watch: Option<Arc<dyn Watch>>,
}

/// The buffers of one call; kept for its allocation, empty between calls.
#[derive(Default)]
struct Spans(Vec<libc::iovec>);

// SAFETY: addresses that only a system call follows, filled and used within one call of the owner.
unsafe impl Send for Spans {}

impl TapLink {
    pub fn new(
        file: File,
        multi_queue: bool,
        interface: Option<Arc<Interface>>,
    ) -> Result<Self, Error> {
        let receive_offloads = probe_offloads(&file)?;
        let ready = Ready::new()?;
        ready
            .add(file.as_fd())
            .map_err(Error::system("epoll_ctl"))?;
        Ok(Self {
            file,
            ready,
            state: State::Attached,
            multi_queue,
            full: false,
            receive_offloads,
            spans: Spans::default(),
            interface,
            watch: None,
        })
    }

    /// The interface is gone, or this queue was detached behind our back.
    fn lose(&mut self) {
        if self.state == State::Attached {
            self.state = State::Lost;
            self.ready.remove(self.file.as_fd());
            tracing::warn!("The TAP interface was removed");
            if let Some(watch) = &self.watch {
                watch.lost();
            }
        }
    }

    /// What became of a frame that the kernel did not take.
    fn not_sent(&mut self, errno: Errno) -> Sent {
        match errno {
            Errno::EAGAIN => {
                self.full = self.ready.want_room(self.file.as_fd()).is_ok();
                return Sent::Full;
            }
            Errno::EBADFD => self.lose(),
            // EIO: the interface is down. EINVAL: the header. EFAULT: the guest's memory. ENOMEM: the host's.
            _ => {}
        }
        Sent::Dropped
    }
}

/// What the kernel takes in TUNSETOFFLOAD, leaving everything off.
fn probe_offloads(file: &File) -> Result<Offloads, Error> {
    let without_uso = Offloads {
        uso: false,
        ..Offloads::ALL
    };
    let without_ecn = Offloads {
        ecn: false,
        ..without_uso
    };
    let fits = [Offloads::ALL, without_uso, without_ecn]
        .into_iter()
        .find(|offloads| sys::set_offload(file, tun_flags(*offloads)).is_ok())
        .unwrap_or(Offloads::NONE);
    sys::set_offload(file, 0).map_err(Error::system("TUNSETOFFLOAD"))?;
    Ok(fits)
}

/// The set as TUNSETOFFLOAD wants it: what depends on checksums goes without them too.
fn tun_flags(offloads: Offloads) -> u32 {
    if !offloads.csum {
        return 0;
    }
    let large = offloads.tso4 || offloads.tso6;
    [
        (true, libc::TUN_F_CSUM),
        (offloads.tso4, libc::TUN_F_TSO4),
        (offloads.tso6, libc::TUN_F_TSO6),
        (offloads.ecn && large, libc::TUN_F_TSO_ECN),
        (offloads.uso, libc::TUN_F_USO4 | libc::TUN_F_USO6),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .fold(0, |flags, (_, flag)| flags | flag)
}

impl Link for TapLink {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            vnet_header: true,
            offloads: Offloads::ALL,
            receive_offloads: self.receive_offloads,
            max_frame: MAX_FRAME,
            max_pairs: if self.multi_queue { MAX_QUEUES } else { 1 },
        }
    }

    fn send(&mut self, head: &[u8], rest: &IoVecs) -> Result<Sent, Error> {
        let rest = rest.as_slice();
        let fits = head.len() >= HEADER_BYTES && rest.len() < sys::IOV_MAX;
        if self.state != State::Attached || !fits {
            return Ok(Sent::Dropped);
        }
        if rest.is_empty() {
            return Ok(match sys::write(self.file.as_fd(), head) {
                Ok(_) => Sent::Sent,
                Err(errno) => self.not_sent(errno),
            });
        }
        let head = libc::iovec {
            iov_base: head.as_ptr().cast_mut().cast(),
            iov_len: head.len(),
        };
        self.spans.0.clear();
        self.spans.0.push(head);
        self.spans.0.extend_from_slice(rest);
        // SAFETY: `head` is borrowed across the call and only read; the rest is guest memory that the caller holds.
        match unsafe { sys::writev(self.file.as_fd(), &self.spans.0) } {
            Ok(_) => Ok(Sent::Sent),
            Err(errno) => Ok(self.not_sent(errno)),
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.full) {
            let _ = self.ready.has_room(self.file.as_fd());
        }
        Ok(())
    }

    fn receive(&mut self, into: &IoVecs, behind: &mut [u8]) -> Result<Received, Error> {
        let spans = into.as_slice();
        let spans = spans.get(..sys::IOV_MAX - 2).unwrap_or(spans);
        let room = spans.iter().map(|span| span.iov_len).sum::<usize>() + behind.len();
        // One byte more than the caller has shows frames that do not fit: the kernel cuts them silently.
        let mut beyond = [0_u8];
        let beyond = beyond.get_mut(usize::from(room >= HEADER_BYTES + MAX_FRAME)..);
        self.spans.0.clear();
        self.spans.0.extend_from_slice(spans);
        for more in [behind, beyond.unwrap_or_default()] {
            if !more.is_empty() {
                self.spans.0.push(libc::iovec {
                    iov_base: more.as_mut_ptr().cast(),
                    iov_len: more.len(),
                });
            }
        }
        loop {
            if self.state != State::Attached {
                return Ok(Received::Empty);
            }
            // SAFETY: the spans are guest memory that the caller holds, what he lends, and a byte of this call.
            match unsafe { sys::readv(self.file.as_fd(), &self.spans.0) } {
                Ok(bytes) if bytes <= room => return Ok(Received::Frame(bytes)),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Received::Empty),
                Err(Errno::EBADFD | Errno::EIO) => self.lose(),
                Err(Errno::EFAULT) => return Ok(Received::Empty),
                Err(errno) => return Err(Error::system("readv")(errno)),
            }
        }
    }

    fn set_offloads(&mut self, offloads: Offloads) -> Result<(), Error> {
        if self.state != State::Attached {
            return Ok(());
        }
        let flags = tun_flags(offloads.and(self.receive_offloads));
        match sys::set_offload(&self.file, flags) {
            Err(Errno::EBADFD) => {
                self.lose();
                Ok(())
            }
            other => other.map_err(Error::system("TUNSETOFFLOAD")),
        }
    }

    fn attach(&mut self) -> Result<(), Error> {
        if self.state != State::Detached {
            return Ok(());
        }
        match sys::set_queue(&self.file, libc::IFF_ATTACH_QUEUE) {
            Ok(()) => {
                self.state = State::Attached;
                self.ready
                    .add(self.file.as_fd())
                    .map_err(Error::system("epoll_ctl"))
            }
            Err(errno) => {
                tracing::warn!(%errno, "A queue of the TAP interface does not come back");
                self.state = State::Attached;
                self.lose();
                Ok(())
            }
        }
    }

    fn detach(&mut self) -> Result<(), Error> {
        if self.state != State::Attached || !self.multi_queue {
            return Ok(());
        }
        match sys::set_queue(&self.file, libc::IFF_DETACH_QUEUE) {
            Ok(()) => {
                self.ready.remove(self.file.as_fd());
                self.state = State::Detached;
            }
            Err(_) => self.lose(),
        }
        Ok(())
    }

    fn interface(&self) -> Option<Arc<Interface>> {
        self.interface.clone()
    }

    fn watch(&mut self, watch: Arc<dyn Watch>) {
        self.watch = Some(watch);
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.ready.fd()
    }
}
