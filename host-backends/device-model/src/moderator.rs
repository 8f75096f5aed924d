//! Interrupts that are held back until enough of them, or enough time, has come together (virtio 1.4 sec. 5.1.6.5.7). One
//! rule: what is held back is sent in the end, by whoever publishes next or by the queue's worker, which sleeps on the
//! timer; it may be early, never left out.
//!
//! The user of a queue only sets the timer, so that no thread beside the workers is needed, and senders that use
//! another's queue wait for nothing.

use crate::Error;
use host_os::Timer;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// When the driver of one queue wants to be interrupted; may be set while the queue runs.
#[derive(Debug)]
pub struct Moderator {
    /// `max_usecs` in the upper half, `max_packets` in the lower.
    limits: AtomicU64,
    /// Buffers since the first interrupt that is held back, that one's included; 0 if none is.
    held: AtomicU32,
    /// When it is due, in nanoseconds since `start`.
    due: AtomicU64,
    start: Instant,
    timer: Timer,
}

impl Moderator {
    /// Holds nothing back.
    ///
    /// # Errors
    /// When there is no timer to be had.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            limits: AtomicU64::new(0),
            held: AtomicU32::new(0),
            due: AtomicU64::new(0),
            start: Instant::now(),
            timer: Timer::new()?,
        })
    }

    /// From now on an interrupt waits for `max_packets` used buffers, but no longer than `max_usecs` microseconds. No
    /// packets means any number of them; no time that nothing is held back, as otherwise the last ones would wait for
    /// ever.
    pub fn set(&self, max_packets: u32, max_usecs: u32) {
        let limits = u64::from(max_usecs) << 32 | u64::from(max_packets);
        self.limits.store(limits, Ordering::Release);
    }

    /// What [`Self::set`] set: packets, microseconds.
    pub fn limits(&self) -> (u32, u32) {
        let limits = self.limits.load(Ordering::Acquire);
        (limits as u32, (limits >> 32) as u32)
    }

    /// After `count` buffers were published, of which the driver wanted to hear or not: what is to be done now.
    #[inline]
    pub(crate) fn judge(&self, wanted: bool, count: usize) -> Verdict {
        let limits = self.limits.load(Ordering::Acquire);
        let held = self.held.load(Ordering::Acquire) != 0;
        match (limits >> 32 == 0, wanted, held) {
            (true, true, false) => Verdict::Interrupt,
            (_, false, false) => Verdict::Nothing,
            _ => self.hold(limits, count),
        }
    }

    fn hold(&self, limits: u64, count: usize) -> Verdict {
        let (packets, time) = (limits as u32, limits >> 32);
        let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        let before = self.held.load(Ordering::Acquire);
        let total = before.saturating_add(count);
        let many = packets != 0 && total >= packets;
        if time == 0 || many || (before != 0 && self.is_late()) {
            self.held.store(0, Ordering::Release);
            // What was held back was counted when it was.
            return if before == 0 {
                Verdict::Interrupt
            } else {
                Verdict::InterruptHeld
            };
        }
        if before != 0 {
            // Unless the worker has just sent it.
            let same =
                self.held
                    .compare_exchange(before, total, Ordering::AcqRel, Ordering::Acquire);
            if same.is_ok() {
                return Verdict::Nothing;
            }
        }
        let time = Duration::from_micros(time);
        let due = self.start.elapsed().saturating_add(time).as_nanos();
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        self.due.store(due, Ordering::Release);
        self.held.store(count, Ordering::Release);
        if self.timer.set(time) {
            return Verdict::Hold;
        }
        self.held.store(0, Ordering::Release);
        Verdict::Interrupt
    }

    fn is_late(&self) -> bool {
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        now >= self.due.load(Ordering::Acquire)
    }

    /// Whether an interrupt that was held back is due; the caller sends it.
    #[inline]
    pub fn take_late(&self) -> bool {
        self.held.load(Ordering::Acquire) != 0 && self.is_late() && self.take()
    }

    /// Whether any interrupt is held back; the caller sends it.
    pub fn take(&self) -> bool {
        self.held.swap(0, Ordering::AcqRel) != 0
    }

    /// To be called when the descriptor is readable, before [`Self::take_late`].
    pub fn rang(&self) {
        self.timer.drain();
    }
}

impl AsFd for Moderator {
    /// Readable when [`Self::take_late`] is to be asked.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

/// What [`Moderator::judge`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The driver need not hear of it, or will in time.
    Nothing,
    /// It will in time; this is the first that it is to hear of.
    Hold,
    /// It is to hear of it now.
    Interrupt,
    /// It is to hear now of what was held back.
    InterruptHeld,
}

#[cfg(test)]
#[path = "moderator_tests.rs"]
mod tests;
