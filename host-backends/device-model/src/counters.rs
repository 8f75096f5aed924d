//! Counters of one queue. One rule: only the holder of the queue writes them, so a plain load and store suffices and no
//! cache line is shared between queues.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

macro_rules! counters {
    ($($(#[$meta:meta])* $name:ident,)*) => {
        /// Counters of one queue, since the daemon started; read them from anywhere.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct QueueCounters {
            $($name: AtomicU64,)*
        }

        /// The values of [`QueueCounters`] at one moment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct QueueStatistics {
            $($(#[$meta])* pub $name: u64,)*
        }

        impl QueueCounters {
            /// The values now.
            pub fn snapshot(&self) -> QueueStatistics {
                QueueStatistics { $($name: self.$name.load(Ordering::Relaxed),)* }
            }

            $(
                $(#[$meta])*
                #[inline]
                pub fn $name(&self, amount: u64) {
                    let now = self.$name.load(Ordering::Relaxed);
                    self.$name.store(now.wrapping_add(amount), Ordering::Relaxed);
                }
            )*
        }
    };
}

counters! {
    /// Chains taken.
    taken,
    /// Chains given back to the ring unused, to be taken again.
    given_back,
    /// Chains completed.
    completed,
    /// Batches made visible to the driver.
    published,
    /// Interrupts sent.
    interrupts,
    /// Times the worker woke from sleep.
    wakeups,
    /// Polling rounds that found nothing.
    empty_polls,
    /// Chains submitted again from the in-flight record.
    replayed,
    /// Times a malformed ring stopped the queue.
    ring_errors,
    /// Times the device's own trouble stopped the queue.
    device_errors,
    /// Times the handler panicked; the queue stopped.
    panics,
}
