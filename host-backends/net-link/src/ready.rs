//! The descriptor that a worker waits for, which outlives what is behind it.
//!
//! Rule: what can fail for good (a removed interface, a closed socket) is taken out, or it would be ready for ever.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::epoll::Epoll;
use nix::sys::epoll::EpollCreateFlags;
use nix::sys::epoll::EpollEvent;
use nix::sys::epoll::EpollFlags;

use crate::Error;

/// An epoll set, which is itself readable while a member is ready.
pub(crate) struct Ready {
    epoll: Epoll,
}

impl Ready {
    pub fn new() -> Result<Self, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(Error::system("epoll"))?;
        Ok(Self { epoll })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Ready while `fd` can be read.
    pub fn add(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0))
    }

    /// Ready also while `fd` can be written.
    pub fn want_room(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
        self.epoll.modify(fd, &mut EpollEvent::new(flags, 0))
    }

    /// Ready only while `fd` can be read.
    pub fn has_room(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.epoll
            .modify(fd, &mut EpollEvent::new(EpollFlags::EPOLLIN, 0))
    }

    /// `fd` no longer counts.
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        let _ = self.epoll.delete(fd);
    }
}
