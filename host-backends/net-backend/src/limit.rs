//! Rate limits: bytes and packets per second with a burst, shared by all workers of a port.
//!
//! Rule: nobody waits in here: a frame is let through or the time is told when the next may come. Time is what the
//! caller says it is.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Parts of a nanosecond that a bucket counts in, so that 64 bytes at 100 Gbit/s still cost a few hundred.
const PARTS: u128 = 64;
const SECOND: u128 = 1_000_000_000 * PARTS;
/// How much may pass at once after a pause, in time at the full rate.
pub const BURST: Duration = Duration::from_millis(20);

/// Limits of one direction; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of frames per second, without the virtio-net header.
    pub bytes: u64,
    /// Frames per second; a large frame counts once per segment.
    pub packets: u64,
}

/// Whether frames may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They may, and are counted.
    Pass,
    /// Not before this much time has gone by; nothing was counted.
    Wait(Duration),
}

/// One limit: the time at which everything that was let through is paid for (generic cell rate algorithm). One number,
/// so several workers need no lock.
#[derive(Debug, Default)]
struct Bucket {
    /// Units per second, 0 for no limit.
    rate: AtomicU64,
    /// In [`PARTS`] of a nanosecond.
    paid_until: AtomicU64,
}

impl Bucket {
    /// Takes `units` if what was taken before is paid for; a single frame may therefore be larger than the burst.
    /// `Ok` is what it cost, `Err` the time to wait.
    fn take(&self, now: u64, units: u64) -> Result<u64, Duration> {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return Ok(0);
        }
        let cost = (u128::from(units) * SECOND).div_ceil(u128::from(rate));
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let floor = now.saturating_sub(parts(BURST));
        let mut seen = self.paid_until.load(Ordering::Relaxed);
        loop {
            let from = seen.max(floor);
            if from > now {
                return Err(Duration::from_nanos((from - now).div_ceil(PARTS as u64)));
            }
            match self.paid_until.compare_exchange_weak(
                seen,
                from.saturating_add(cost),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(cost),
                Err(other) => seen = other,
            }
        }
    }

    fn give_back(&self, cost: u64) {
        let _ = self
            .paid_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| {
                Some(paid.saturating_sub(cost))
            });
    }

    /// A new rate takes effect at once: debts of the old one are forgiven, or a limit that was once too low by mistake
    /// would hold for long after it was raised.
    fn set(&self, rate: u64) {
        if self.rate.swap(rate, Ordering::Relaxed) != rate {
            self.paid_until.store(0, Ordering::Relaxed);
        }
    }
}

/// Time in [`PARTS`]; reaches nine years of a process's life.
fn parts(time: Duration) -> u64 {
    u64::try_from(time.as_nanos() * PARTS).unwrap_or(u64::MAX)
}

/// The limits of one direction of one port.
#[derive(Debug, Default)]
pub struct Limiter {
    bytes: Bucket,
    packets: Bucket,
}

impl Limiter {
    /// Starts with a full burst.
    pub fn new(limits: Limits) -> Self {
        let limiter = Self::default();
        limiter.set(limits);
        limiter
    }

    /// Changes the limits while frames pass.
    pub fn set(&self, limits: Limits) {
        self.bytes.set(limits.bytes);
        self.packets.set(limits.packets);
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        Limits {
            bytes: self.bytes.rate.load(Ordering::Relaxed),
            packets: self.packets.rate.load(Ordering::Relaxed),
        }
    }

    /// Whether there is any limit; without one the caller need not look at the clock.
    #[inline]
    pub fn is_limiting(&self) -> bool {
        self.bytes.rate.load(Ordering::Relaxed) | self.packets.rate.load(Ordering::Relaxed) != 0
    }

    /// Asks for `packets` frames with `bytes` bytes in all at the time `now`, measured from any fixed moment.
    pub fn take(&self, now: Duration, bytes: u64, packets: u64) -> Verdict {
        let now = parts(now);
        let cost = match self.bytes.take(now, bytes) {
            Ok(cost) => cost,
            Err(wait) => return Verdict::Wait(wait),
        };
        match self.packets.take(now, packets) {
            Ok(_) => Verdict::Pass,
            Err(wait) => {
                self.bytes.give_back(cost);
                Verdict::Wait(wait)
            }
        }
    }
}

#[cfg(test)]
mod tests;
