//! Guest memory as the host sees it: regions mapped from descriptors, address translation, scatter lists,
//! dirty log, pages given back to the host, and the guard that keeps the process alive when a peer truncates memory under it.
//!
//! One rule: whatever a peer does to its file, an access through this crate ends in bytes, an error or a
//! poisoned mapping, never in a signal that ends the process.

mod backing;
mod cursor;
mod dirty_log;
mod error;
mod iovecs;
mod mapping;
mod memory;
mod region;
mod release;
mod shared;
pub mod sigbus;

pub use cursor::Cursor;
pub use dirty_log::DirtyLog;
pub use dirty_log::LOG_PAGE;
pub use error::Error;
// Until its last user says where it is from.
pub use host_os::EventFd;
pub use iovecs::IoVecs;
pub use mapping::Access;
pub use mapping::Mapping;
pub use memory::GuestMemory;
pub use memory::HostSlice;
pub use region::RegionSpec;
pub use release::HostPage;
pub use release::Released;
pub use shared::SharedMemory;

#[cfg(test)]
mod tests;
