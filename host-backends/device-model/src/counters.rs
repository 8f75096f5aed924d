//! Counters of one queue. One rule: only the holder of the queue writes them, so a plain load and store suffices and no
//! cache line is shared between queues.

metrics::counters! {
    /// What a queue has done since the daemon started.
    pub struct QueueStatistics,
    /// Where the holder of a queue counts; read them from anywhere.
    #[repr(align(128))]
    pub struct QueueCounters of metrics::Counter {
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
}
