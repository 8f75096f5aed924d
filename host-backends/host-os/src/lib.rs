//! What every program on the host, daemon or VMM, owes its operating system.
//!
//! One rule: a program's own words never end it, and what ends it says why.

mod error;
pub mod fatal;
pub mod filter;
pub mod output;
pub mod panics;
pub mod privileges;

pub use error::Error;
