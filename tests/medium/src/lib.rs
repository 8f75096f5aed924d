//! Disks as they are served, on a medium that notes what reaches it, when, and what was made durable; and that fails when
//! told to. One rule: only the medium's record says what is durable, never a flag or a return value of ours.
//!
//! The medium is one file on a FUSE mount. The kernel's page cache stands in front of it as it does in front of a disk, so
//! what arrives here is what a drive would be told: writes, with or without "force unit access", and syncs.
//!
//! A power cut keeps what was synced, and of the later writes any: each sector has its last durable content, or that of
//! any write to it since. [`Record::verify`] walks through all of these states after each promise.

mod content;
mod disk;
mod machine;
mod medium;
mod random;
mod record;
mod storm;

pub use content::SECTOR;
pub use content::fill;
pub use disk::Disk;
pub use disk::serve;
pub use machine::Done;
pub use machine::Machine;
pub use machine::Request;
pub use medium::Fault;
pub use medium::Kind;
pub use medium::Medium;
pub use random::Random;
pub use record::Ledger;
pub use record::Record;
pub use record::Verified;
pub use storm::Storm;

/// How many writes a test makes where it is not told otherwise: `cargo xtask test --long` asks for more, by this variable.
pub const WRITES: &str = "PARAVANE_TEST_WRITES";

/// Writes of one test, `usual` unless the environment asks for another number.
pub fn writes(usual: u32) -> u32 {
    let asked = std::env::var(WRITES).ok();
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(usual)
}
