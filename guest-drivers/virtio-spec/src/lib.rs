//! Virtio 1.4 on the wire: ids, feature bits, status bits, register and structure layouts.
//!
//! One rule: this crate holds what the specification says and does nothing. Every item cites its
//! section of virtio 1.4 (v1.4-cs01). Multi-byte fields are little-endian types, so that a value
//! cannot be used without naming its byte order.
#![no_std]
#![forbid(unsafe_code)]

pub mod balloon;
pub mod block;
pub mod device_id;
pub mod feature;
pub mod net;
pub mod pci;
pub mod ring;
pub mod status;

#[cfg(test)]
mod balloon_tests;
#[cfg(test)]
mod tests;
