//! What a signal asks of a daemon.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

use nix::sys::signal::Signal;

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
pub struct Signals(host_os::signals::Signals);

impl Signals {
    /// Blocks the signals in this thread and all that it starts from now on.
    ///
    /// # Errors
    /// The kernel has no descriptor left for it.
    pub fn block() -> Result<Self, Error> {
        let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
        let signals = host_os::signals::Signals::block(&signals);
        signals.map(Self).map_err(Error::Signals)
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub fn wait(&self) -> Result<Request, Error> {
        match self.0.wait().map_err(Error::Signals)? {
            Signal::SIGHUP => Ok(Request::Reload),
            _ => Ok(Request::Stop),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
