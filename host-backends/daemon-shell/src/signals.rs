//! Signals as messages to the main thread.
//!
//! Rule: they are blocked before any other thread starts, so no thread but the main one ever sees them, and no handler
//! runs in the middle of anything.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SfdFlags;
use nix::sys::signalfd::SignalFd;

use crate::Error;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM or SIGINT: finish what is in flight and end.
    Stop,
    /// SIGHUP: look again at what may have changed outside (sizes of images).
    Reload,
}

/// The signals that a daemon listens to.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks the signals in this thread and all that it starts from now on.
    ///
    /// # Errors
    /// The kernel has no descriptor left for it.
    pub fn block() -> Result<Self, Error> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block().map_err(Error::Signals)?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC).map_err(Error::Signals)?;
        Ok(Self { fd })
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub fn wait(&mut self) -> Result<Request, Error> {
        loop {
            match self.fd.read_signal() {
                Ok(Some(info)) if info.ssi_signo == Signal::SIGHUP as u32 => {
                    return Ok(Request::Reload);
                }
                Ok(Some(_)) => return Ok(Request::Stop),
                Ok(None) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(Error::Signals(errno)),
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
