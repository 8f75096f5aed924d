//! Event descriptors: the one thing that doorbells, interrupt lines and backends exchange.
//!
//! One rule: never blocking; a full counter counts as signalled.
#![expect(
    unsafe_code,
    reason = "borrowing the descriptor of a vmm-sys-util EventFd"
)]

use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::IntoRawFd;
use std::os::fd::OwnedFd;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;

/// A non-blocking eventfd.
#[derive(Debug)]
pub struct EventFd(vmm_sys_util::eventfd::EventFd);

impl EventFd {
    /// Makes a new one with a zero counter, closed on exec.
    pub fn new() -> io::Result<Self> {
        let flags = libc::EFD_NONBLOCK | libc::EFD_CLOEXEC;
        vmm_sys_util::eventfd::EventFd::new(flags).map(Self)
    }

    /// Signals it. A counter at its limit is signalled already.
    pub fn signal(&self) {
        let _ = self.0.write(1);
    }

    /// Takes all signals since the last call; 0 if there were none.
    pub fn take(&self) -> u64 {
        self.0.read().unwrap_or(0)
    }

    /// True if a signal waits. Takes nothing.
    pub fn is_pending(&self) -> bool {
        let mut polled = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// A second descriptor of the same event.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// The type that kvm-ioctls wants.
    pub(crate) fn inner(&self) -> &vmm_sys_util::eventfd::EventFd {
        &self.0
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as self, whose lifetime the borrow has.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// Takes over an eventfd made elsewhere, which must be non-blocking.
impl From<OwnedFd> for EventFd {
    fn from(fd: OwnedFd) -> Self {
        // SAFETY: the descriptor is open, and nobody else owns it.
        Self(unsafe { vmm_sys_util::eventfd::EventFd::from_raw_fd(fd.into_raw_fd()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_add_up_and_are_taken_once() {
        let event = EventFd::new().unwrap();
        assert!(!event.is_pending());
        event.signal();
        event.try_clone().unwrap().signal();
        assert!(event.is_pending());
        assert_eq!(event.take(), 2);
        assert_eq!(event.take(), 0);
    }
}
