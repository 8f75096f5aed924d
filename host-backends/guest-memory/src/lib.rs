//! Guest memory as the host sees it: regions mapped from descriptors, address translation, scatter lists,
//! dirty log, pages given back to the host, and the guard that keeps the process alive when a peer truncates memory under it.
//!
//! One rule: whatever a peer does to its file, an access through this crate ends in bytes, an error or a
//! poisoned mapping, never in a signal that ends the process.
//!
//! Why not on the crate `vm-memory` (tried with 0.18.0, its region collection and volatile slices under this interface): a
//! frame from guest to guest cost the worker 7 % more (2 to 12 % by size and ring, `cargo bench -p net-backend`), a request
//! on a memory disk 2 % less (10 % less to 6 % more, `cargo bench -p block-backend`). It copies more than eight bytes by a
//! plain copy, which is a data race with a guest that writes meanwhile; [`volatile`] is none, at no cost that those
//! benchmarks show. And what is left of this crate it does not have: a guard against truncation, holes, seals, scatter lists
//! that outlive the call for io_uring, regions in the front-end's addresses.

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
pub mod volatile;

pub use cursor::Cursor;
pub use dirty_log::DirtyLog;
pub use dirty_log::LOG_PAGE;
pub use error::Error;
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
