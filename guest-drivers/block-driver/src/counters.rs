//! Counters of a queue.
//!
//! Rule: they only grow, and nothing in the driver depends on them.

/// What a queue has done, for diagnosis and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Chains made available.
    pub chains: u64,
    /// Batches published.
    pub batches: u64,
    /// Doorbells rung.
    pub doorbells: u64,
    /// Requests returned to the shell.
    pub completions: u64,
    /// Unknown or missing status bytes.
    pub bad_status: u64,
}
