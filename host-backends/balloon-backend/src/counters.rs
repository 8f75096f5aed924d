//! Counters of one balloon.
//!
//! Rule: all are sums since the daemon started and are read from anywhere; queues of a balloon are slow enough to share
//! them.

metrics::counters! {
    /// What a balloon has done since it was made.
    pub struct Metrics,
    /// Where queues count.
    pub(crate) struct Counters of metrics::SharedCounter {
        /// Pages that came into the balloon.
        inflated_pages,
        /// Pages that left the balloon.
        deflated_pages,
        /// Bytes given back to the host, out of the balloon or reported free.
        released_bytes in bytes,
        /// Bytes of those that were reported free.
        reported_bytes in bytes,
        /// Bytes hinted as free.
        hinted_bytes in bytes,
        /// Calls that gave bytes back; each takes a range.
        release_calls,
        /// Bytes that stayed, for the guest gave a part of a larger host page.
        partial_bytes in bytes,
        /// Bytes that stayed, for the file behind guest memory cannot give them back.
        refused_bytes in bytes,
        /// Bytes that stayed, for the guest said that free pages hold a value other than zero.
        poisoned_bytes in bytes,
        /// Bytes that stayed, for releasing was inhibited.
        inhibited_bytes in bytes,
        /// Bytes of host memory taken before a page was acknowledged out of the balloon.
        repopulated_bytes in bytes,
        /// Bytes of those that the host did not have.
        repopulate_failed_bytes in bytes,
        /// Page numbers that are not guest memory.
        foreign_pages,
        /// Page number zero, which is never released: it is real memory's least likely page and broken drivers' most likely.
        zero_pages,
        /// Page numbers inflated that were in the balloon already, or twice in one message.
        repeated_pages,
        /// Page numbers deflated that were not in the balloon.
        unknown_pages,
        /// Page numbers in one message beyond what is read of it.
        excess_pages,
        /// Messages malformed: odd length, the wrong direction, memory that is none.
        malformed_chains,
        /// Statistics received.
        statistics,
        /// Times that statistics were due and the driver held on to the buffer.
        statistics_missed,
        /// Statistics with an unknown tag, a repeated tag or bytes left over.
        statistics_odd,
        /// Hints of rounds that are over.
        stale_hints,
        /// Writes of `actual` beyond guest memory.
        absurd_actual,
        /// Times that the target changed.
        targets,
    }
}
