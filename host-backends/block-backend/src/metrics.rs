//! Counters of one queue.
//!
//! Rule: one writer (the queue's worker), any number of readers; so adding is a load and a store, not a locked
//! instruction, and each queue's counters fill their own cache lines.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use serde::Serialize;

/// A number that its worker adds to.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of one queue.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct QueueMetrics {
    pub reads: Counter,
    pub writes: Counter,
    pub flushes: Counter,
    pub discards: Counter,
    pub write_zeroes: Counter,
    pub read_bytes: Counter,
    pub written_bytes: Counter,
    /// Requests that the image answered with an error.
    pub io_errors: Counter,
    /// Flushes and durable writes that failed because of what was lost before them.
    pub not_durable: Counter,
    /// Requests that were refused before they reached the image.
    pub refused: Counter,
    /// Chains without room for a status.
    pub no_status: Counter,
}

/// What a disk's queues have done since it opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Metrics {
    /// Reads that succeeded.
    pub reads: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Discards that succeeded.
    pub discards: u64,
    /// Write-zeroes requests that succeeded.
    pub write_zeroes: u64,
    /// Bytes moved to the guest.
    pub read_bytes: u64,
    /// Bytes taken from the guest.
    pub written_bytes: u64,
    /// Requests that the image answered with an error.
    pub io_errors: u64,
    /// Of these, the flushes and durable writes since a write-back of the image failed: none succeeds any more.
    pub not_durable: u64,
    /// Requests refused because they were malformed, out of bounds or not offered.
    pub refused: u64,
    /// Descriptor chains without a byte for a status.
    pub no_status: u64,
}

impl QueueMetrics {
    pub fn add_to(&self, sum: &mut Metrics) {
        sum.reads += self.reads.get();
        sum.writes += self.writes.get();
        sum.flushes += self.flushes.get();
        sum.discards += self.discards.get();
        sum.write_zeroes += self.write_zeroes.get();
        sum.read_bytes += self.read_bytes.get();
        sum.written_bytes += self.written_bytes.get();
        sum.io_errors += self.io_errors.get();
        sum.not_durable += self.not_durable.get();
        sum.refused += self.refused.get();
        sum.no_status += self.no_status.get();
    }
}
