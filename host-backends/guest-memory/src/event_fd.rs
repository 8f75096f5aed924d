//! Eventfds that a peer gave us or that we made. One rule: a descriptor that is not an eventfd is refused, and no
//! call blocks except `notify` on a blocking eventfd whose counter the peer filled on purpose; `drain` from any
//! other thread frees that one.
#![expect(unsafe_code, reason = "preadv2 has no safe wrapper")]

use crate::Error;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::sys::eventfd::EfdFlags;
use nix::sys::time::TimeSpec;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::time::Duration;

/// An eventfd.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new non-blocking eventfd.
    pub fn new() -> Result<Self, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let fd = nix::sys::eventfd::EventFd::from_value_and_flags(0, flags);
        Ok(Self(fd.map_err(Error::nix("eventfd"))?.into()))
    }

    /// Takes a descriptor from a peer. Pipes, sockets and files are refused: writing to one could block or do harm.
    pub fn from_peer(fd: OwnedFd) -> Result<Self, Error> {
        // All anonymous-inode files share one inode; of those only an eventfd accepts what we write to it.
        let stat = nix::sys::stat::fstat(&fd).map_err(Error::nix("fstat"))?;
        if (stat.st_dev, stat.st_ino) == anonymous_inode()? {
            Ok(Self(fd))
        } else {
            Err(Error::NotEventFd)
        }
    }

    /// A second descriptor for the same eventfd.
    pub fn try_clone(&self) -> Result<Self, Error> {
        self.0
            .try_clone()
            .map(Self)
            .map_err(|source| Error::System {
                call: "dup",
                source,
            })
    }

    /// Adds one to the counter. An error means that the peer's descriptor is useless; nobody can be helped by it.
    #[inline]
    pub fn notify(&self) -> bool {
        nix::unistd::write(&self.0, &1_u64.to_ne_bytes()).is_ok()
    }

    /// As `notify`, unless the counter is full: then whoever waits was told already, and the write would block for as
    /// long as the peer likes. Costs a system call more.
    pub fn notify_unless_full(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
        let now = TimeSpec::from_duration(Duration::ZERO);
        let ready = nix::poll::ppoll(&mut fds, Some(now), None);
        ready == Ok(1) && self.notify()
    }

    /// Resets the counter without ever blocking; whether it was non-zero.
    #[inline]
    pub fn drain(&self) -> bool {
        let mut count = [0_u8; 8];
        let iov = libc::iovec {
            iov_base: count.as_mut_ptr().cast(),
            iov_len: count.len(),
        };
        // SAFETY: one iovec over a live buffer of eight bytes; RWF_NOWAIT makes an empty eventfd answer EAGAIN
        // even if the peer made it a blocking one.
        let got =
            unsafe { libc::preadv2(self.0.as_raw_fd(), &raw const iov, 1, -1, libc::RWF_NOWAIT) };
        got == 8
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<EventFd> for OwnedFd {
    fn from(event: EventFd) -> Self {
        event.0
    }
}

fn anonymous_inode() -> Result<(libc::dev_t, libc::ino_t), Error> {
    static INODE: OnceLock<(libc::dev_t, libc::ino_t)> = OnceLock::new();
    if let Some(known) = INODE.get() {
        return Ok(*known);
    }
    let own = EventFd::new()?;
    let stat = nix::sys::stat::fstat(&own).map_err(Error::nix("fstat"))?;
    Ok(*INODE.get_or_init(|| (stat.st_dev, stat.st_ino)))
}
