//! Guest memory as the host sees it: regions mapped from descriptors, address translation, scatter lists,
//! dirty log, pages given back to the host, and the guard that keeps the process alive when a peer truncates memory under it.
//!
//! One rule: whatever a peer does to its file, an access through this crate ends in bytes, an error or a
//! poisoned mapping, never in a signal that ends the process.
//!
//! This is also the home of the few descriptor helpers that need `unsafe` ([`EventFd`], [`socket`]), so that the
//! session above can forbid it, of the way sizes are written ([`ByteSize`]) and of the files that devices write
//! ([`output`]), which the devices above share.

mod backing;
mod cursor;
mod dirty_log;
mod error;
mod event_fd;
mod iovecs;
mod mapping;
mod memory;
pub mod output;
mod region;
mod release;
mod shared;
pub mod sigbus;
mod signal;
mod size;
pub mod socket;
mod timer;

pub use cursor::Cursor;
pub use dirty_log::DirtyLog;
pub use dirty_log::LOG_PAGE;
pub use error::Error;
pub use event_fd::EventFd;
pub use iovecs::IoVecs;
pub use mapping::Access;
pub use mapping::Mapping;
pub use memory::GuestMemory;
pub use memory::HostSlice;
pub use region::RegionSpec;
pub use release::HostPage;
pub use release::Released;
pub use shared::SharedMemory;
pub use size::ByteSize;
pub use timer::Timer;

#[cfg(test)]
mod tests;
