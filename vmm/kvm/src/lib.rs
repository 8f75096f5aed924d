//! A thin safe layer over KVM: the VM, its vCPUs, memory slots, interrupt routes and doorbells.
//!
//! Its one rule: everything `unsafe` that the VMM needs is here, and nothing here knows a device or a memory map.

mod error;
mod event;
mod memory;

pub use error::Error;
pub use event::EventFd;
pub use memory::SharedMemory;

/// The result of everything in this crate.
pub type Result<T> = core::result::Result<T, Error>;
