//! What every program on the host, daemon or VMM, owes its operating system.
//!
//! One rule: a program's own words never end it, and what ends it says why.

pub mod fatal;
pub mod filter;
pub mod output;
pub mod panics;
