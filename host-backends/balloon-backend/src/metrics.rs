//! Counters of one balloon.
//!
//! Rule: all are sums since the daemon started and are read from anywhere; queues of a balloon are slow enough to share
//! them.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use serde::Serialize;

macro_rules! counters {
    ($($(#[$meta:meta])* $name:ident,)*) => {
        /// Where queues count.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub $name: Counter,)*
        }

        /// What a balloon has done since it was made.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub struct Metrics {
            $($(#[$meta])* pub $name: u64,)*
        }

        impl Counters {
            pub fn snapshot(&self) -> Metrics {
                Metrics { $($name: self.$name.get(),)* }
            }
        }
    };
}

/// A number that is added to.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, amount: u64) {
        if amount != 0 {
            self.0.fetch_add(amount, Ordering::Relaxed);
        }
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

counters! {
    /// Pages that came into the balloon.
    inflated_pages_total,
    /// Pages that left the balloon.
    deflated_pages_total,
    /// Bytes given back to the host, out of the balloon or reported free.
    released_bytes_total,
    /// Bytes of those that were reported free.
    reported_bytes_total,
    /// Bytes hinted as free.
    hinted_bytes_total,
    /// Calls that gave bytes back; each takes a range.
    release_calls_total,
    /// Bytes that stayed, for the guest gave a part of a larger host page.
    partial_bytes_total,
    /// Bytes that stayed, for the file behind guest memory cannot give them back.
    refused_bytes_total,
    /// Bytes that stayed, for the guest said that free pages hold a value other than zero.
    poisoned_bytes_total,
    /// Bytes that stayed, for releasing was inhibited.
    inhibited_bytes_total,
    /// Bytes of host memory taken before a page was acknowledged out of the balloon.
    repopulated_bytes_total,
    /// Bytes of those that the host did not have.
    repopulate_failed_bytes_total,
    /// Page numbers that are not guest memory.
    foreign_pages_total,
    /// Page number zero, which is never released: it is real memory's least likely page and broken drivers' most likely.
    zero_pages_total,
    /// Page numbers inflated that were in the balloon already, or twice in one message.
    repeated_pages_total,
    /// Page numbers deflated that were not in the balloon.
    unknown_pages_total,
    /// Page numbers in one message beyond what is read of it.
    excess_pages_total,
    /// Messages malformed: odd length, the wrong direction, memory that is none.
    malformed_chains_total,
    /// Statistics received.
    statistics_total,
    /// Times that statistics were due and the driver held on to the buffer.
    statistics_missed_total,
    /// Statistics with an unknown tag, a repeated tag or bytes left over.
    statistics_odd_total,
    /// Hints of rounds that are over.
    stale_hints_total,
    /// Writes of `actual` beyond guest memory.
    absurd_actual_total,
    /// Times that the target changed.
    targets_total,
}
