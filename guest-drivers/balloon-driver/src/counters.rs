//! Counters of the balloon.
//!
//! Rule: they only grow, and nothing in the driver depends on them.

/// What the balloon has done, for diagnosis and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Pages that went into the balloon.
    pub inflated_pages: u64,
    /// Pages that came out of it by the device's acknowledgement or by use before it.
    pub deflated_pages: u64,
    /// Of these, pages that the guest took out because it ran out of memory.
    pub relieved_pages: u64,
    /// Messages with pages to the device.
    pub batches: u64,
    /// Targets that the device set.
    pub targets: u64,
    /// Times that the guest had fewer pages to spare than were wanted.
    pub short: u64,
    /// Statistics that the device took.
    pub statistics: u64,
    /// Runs of hints.
    pub hint_runs: u64,
    /// Blocks hinted.
    pub hint_blocks: u64,
    /// Blocks reported and acknowledged.
    pub report_blocks: u64,
    /// Bytes of these.
    pub report_bytes: u64,
}
