//! Counters of one queue.
//!
//! Rule: one writer (the queue's worker), any number of readers; each queue's counters fill their own cache lines.

metrics::counters! {
    /// What a disk's queues have done since it opened.
    pub struct Metrics,
    /// Counters of one queue.
    #[repr(align(128))]
    pub(crate) struct QueueMetrics of metrics::Counter {
        /// Reads that succeeded.
        reads,
        /// Writes that succeeded.
        writes,
        /// Flushes that succeeded.
        flushes,
        /// Discards that succeeded.
        discards,
        /// Write-zeroes requests that succeeded.
        write_zeroes,
        /// Bytes moved to the guest.
        read_bytes in bytes,
        /// Bytes taken from the guest.
        written_bytes in bytes,
        /// Requests that the image answered with an error.
        io_errors,
        /// Flushes and durable writes that failed because a write-back of the image failed before: none succeeds any more.
        not_durable,
        /// Requests refused because they were malformed, out of bounds or not offered.
        refused,
        /// Descriptor chains without a byte for a status.
        no_status,
    }
}
