//! A timer to sleep on beside other descriptors. One rule: nothing here waits.

use crate::Error;
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::ClockId;
use nix::sys::timerfd::Expiration;
use nix::sys::timerfd::TimerFd;
use nix::sys::timerfd::TimerFlags;
use nix::sys::timerfd::TimerSetTimeFlags;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// A timer whose descriptor is readable once its time has come.
#[derive(Debug)]
pub struct Timer(TimerFd);

impl Timer {
    /// A timer that is not set.
    pub fn new() -> Result<Self, Error> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags);
        timer.map(Self).map_err(Error::nix("timerfd_create"))
    }

    /// Sets it to `after` from now, whatever it was set to before; whether it could be.
    pub fn set(&self, after: Duration) -> bool {
        // Zero would stop it.
        let after = TimeSpec::from_duration(after.max(Duration::from_nanos(1)));
        let once = Expiration::OneShot(after);
        self.0.set(once, TimerSetTimeFlags::empty()).is_ok()
    }

    /// Makes it unreadable until it is set again; whether its time had come.
    pub fn drain(&self) -> bool {
        // Of a descriptor that does not block.
        self.0.wait() != Err(Errno::EAGAIN)
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::PollFd;
    use nix::poll::PollFlags;
    use nix::poll::PollTimeout;
    use std::time::Instant;

    fn rings(timer: &Timer) -> bool {
        let mut fds = [PollFd::new(timer.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, PollTimeout::from(10_000_u16)).unwrap() == 1
    }

    #[test]
    fn it_rings_when_its_time_has_come_and_until_it_is_drained() {
        let timer = Timer::new().unwrap();
        assert!(!timer.drain(), "not set");
        for after in [Duration::ZERO, Duration::from_millis(3)] {
            let start = Instant::now();
            assert!(timer.set(after) && rings(&timer) && rings(&timer));
            assert!(start.elapsed() >= after);
            assert!(timer.drain() && !timer.drain());
        }
        assert!(timer.set(Duration::ZERO) && rings(&timer));
        assert!(timer.set(Duration::from_secs(3600)));
        assert!(!timer.drain(), "set anew");
    }
}
