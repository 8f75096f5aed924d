//! A virtio-pci device whose queues a vhost-user backend serves.
//!
//! Two halves: [`session`] is the vhost-user front-end (also usable without a VM), [`pci`] the virtio-pci transport
//! on top of it. One rule: no request passes through here. The guest's doorbells and interrupts are event descriptors
//! that the backend holds; this crate only sets them up, and sets them up again when the backend dies.
#![forbid(unsafe_code)]

mod error;
pub mod pci;
pub mod session;

pub use error::Error;
pub use error::Result;

#[cfg(test)]
mod tests;
