//! Heap memory that may be refused: in a kernel an allocation that fails is an error to return, not the end of the machine.
//!
//! Rule: nothing here, and nothing in a crate that allocates through here only, calls an allocation that cannot say no. The
//! workspace check builds those crates with `--cfg no_global_oom_handling`, where such calls do not exist. When the standard library's
//! own forms (`Vec::push_within_capacity`, `Arc::try_new`) are stable, they replace this crate.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod list;
mod shared;

pub use list::FallibleVec;
pub use list::OutOfMemory;
pub use shared::Shared;

#[cfg(test)]
mod tests;
