//! Signals as messages to one thread.
//!
//! Rule: they are blocked before any other thread starts, so no thread but the one that waits ever sees them, and no
//! handler runs in the middle of anything. What ends a process by default and comes unawaited is in [`crate::fatal`].

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SfdFlags;
use nix::sys::signalfd::SignalFd;

use crate::Error;

/// The signals that a program waits for.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks `signals` in this thread and all that it starts from now on.
    ///
    /// # Errors
    /// The kernel has no descriptor left for it.
    pub fn block(signals: &[Signal]) -> Result<Self, Error> {
        let set: SigSet = signals.iter().copied().collect();
        set.thread_block().map_err(Error::nix("pthread_sigmask"))?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC);
        let fd = fd.map_err(Error::nix("signalfd"))?;
        Ok(Self { fd })
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub fn wait(&self) -> Result<Signal, Error> {
        loop {
            match self.fd.read_signal() {
                Ok(Some(info)) => {
                    let number = i32::try_from(info.ssi_signo).unwrap_or(0);
                    return Signal::try_from(number).map_err(Error::nix("signalfd"));
                }
                Ok(None) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(Error::nix("read of a signalfd")(errno)),
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_waited_for_and_no_handler_runs() {
        let signals = Signals::block(&[Signal::SIGHUP, Signal::SIGTERM]).unwrap();
        for signal in [Signal::SIGTERM, Signal::SIGHUP] {
            // To this thread alone: others of the test do not block it.
            nix::sys::signal::raise(signal).unwrap();
            assert_eq!(signals.wait().unwrap(), signal);
        }
    }
}
