//! Eventfds that a peer gave us or that we made. One rule: a descriptor that is not an eventfd is refused, and no call
//! blocks, whatever the peer does to its end.
#![expect(unsafe_code, reason = "preadv2 has no safe wrapper")]

mod signal;

use crate::Error;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::sys::eventfd::EfdFlags;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::sync::OnceLock;

/// An eventfd.
#[derive(Debug)]
pub struct EventFd {
    fd: OwnedFd,
    /// A peer shares it, and may have made it a blocking one.
    theirs: bool,
}

impl EventFd {
    /// A new non-blocking eventfd.
    pub fn new() -> Result<Self, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let fd = nix::sys::eventfd::EventFd::from_value_and_flags(0, flags);
        Ok(Self {
            fd: fd.map_err(Error::nix("eventfd"))?.into(),
            theirs: false,
        })
    }

    /// Takes a descriptor from a peer. Pipes, sockets and files are refused: writing to one could block or do harm.
    pub fn from_peer(fd: OwnedFd) -> Result<Self, Error> {
        // All anonymous-inode files share one inode; of those only an eventfd accepts what we write to it.
        let stat = nix::sys::stat::fstat(&fd).map_err(Error::nix("fstat"))?;
        if (stat.st_dev, stat.st_ino) == anonymous_inode()? {
            Ok(Self { fd, theirs: true })
        } else {
            Err(Error::NotEventFd)
        }
    }

    /// A second descriptor for the same eventfd.
    pub fn try_clone(&self) -> Result<Self, Error> {
        let fd = self.fd.try_clone().map_err(|source| Error::System {
            call: "dup",
            source,
        })?;
        let theirs = self.theirs;
        Ok(Self { fd, theirs })
    }

    /// Adds one to the counter; one that is full stays so. `false` means that the peer's descriptor is useless; nobody
    /// can be helped by it.
    #[inline]
    pub fn notify(&self) -> bool {
        if self.theirs {
            return signal::signal(self.fd.as_fd());
        }
        nix::unistd::write(&self.fd, &1_u64.to_ne_bytes()).is_ok()
    }

    /// Resets the counter without ever blocking; whether it was non-zero.
    #[inline]
    pub fn drain(&self) -> bool {
        self.drain_count() != 0
    }

    /// As [`Self::drain`]; what the counter was.
    #[inline]
    pub fn drain_count(&self) -> u64 {
        let mut count = [0_u8; 8];
        let iov = libc::iovec {
            iov_base: count.as_mut_ptr().cast(),
            iov_len: count.len(),
        };
        // SAFETY: one iovec over a live buffer of eight bytes; RWF_NOWAIT makes an empty eventfd answer EAGAIN
        // even if the peer made it a blocking one.
        let got =
            unsafe { libc::preadv2(self.fd.as_raw_fd(), &raw const iov, 1, -1, libc::RWF_NOWAIT) };
        if got == 8 {
            u64::from_ne_bytes(count)
        } else {
            0
        }
    }

    /// Whether the counter is non-zero. It stays as it is.
    pub fn is_pending(&self) -> bool {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<EventFd> for OwnedFd {
    fn from(event: EventFd) -> Self {
        event.fd
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_add_up_and_are_drained_once() {
        let event = EventFd::new().unwrap();
        assert!(!event.is_pending());
        event.notify();
        event.try_clone().unwrap().notify();
        assert!(event.is_pending());
        assert_eq!(event.drain_count(), 2);
        assert_eq!(event.drain_count(), 0);
        assert!(!event.drain());
    }

    #[test]
    fn only_eventfds_pass_for_eventfds() {
        let (pipe, writer) = nix::unistd::pipe().unwrap();
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        for fd in [
            pipe,
            writer,
            socket.into(),
            crate::memfd::create("test", 8).unwrap(),
        ] {
            assert!(matches!(EventFd::from_peer(fd), Err(Error::NotEventFd)));
        }
        let mine = EventFd::new().unwrap();
        let theirs = EventFd::from_peer(mine.try_clone().unwrap().into()).unwrap();
        assert!(!theirs.drain());
        assert!(mine.notify());
        assert!(theirs.drain());
        assert!(!theirs.drain());
    }

    #[test]
    fn draining_a_blocking_eventfd_does_not_block() {
        let flags = EfdFlags::EFD_CLOEXEC;
        let fd: OwnedFd = nix::sys::eventfd::EventFd::from_value_and_flags(0, flags)
            .unwrap()
            .into();
        let event = EventFd::from_peer(fd).unwrap();
        assert!(!event.drain());
        event.notify();
        assert!(event.drain());
    }
}
