//! What every program on the host, daemon, VMM or tool, does with its operating system: descriptors and memory files,
//! signals, sandbox, privileges, output and exit codes.
//!
//! Rule: what a peer or the operator does never makes a call here wait or ends the process, and what does end it says why.

mod byte_size;
mod error;
mod event_fd;
pub mod exit;
pub mod fatal;
pub mod file_access;
pub mod filter;
pub mod memfd;
pub mod output;
pub mod output_file;
pub mod panics;
pub mod privileges;
pub mod signals;
pub mod socket;
pub mod sync;
mod timer;

pub use byte_size::ByteSize;
pub use error::Error;
pub use error::error_chain;
pub use event_fd::EventFd;
pub use timer::Timer;
