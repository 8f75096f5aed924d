//! The traditional memory balloon driver (virtio 1.4 sec. 5.5) as a state machine that knows no operating system.
//!
//! Rule: nothing blocks and nothing is allocated after the start; nothing that the device says is used before it was checked; a page is
//! with the guest, in the balloon or on its way, never two of them, and none is lost.
//!
//! A shell implements [`Pages`] over its page allocator, calls [`BalloonDriver::start`] once, and then
//! - [`BalloonDriver::work`] on an interrupt, after a configuration change and when it has pages again: it takes back what the device is
//!   done with and sends the next batches towards the target, a bounded amount at a time; then [`BalloonDriver::arm`];
//! - on a configuration interrupt [`BalloonDriver::config_changed`], which notes the target and the hint command;
//! - [`BalloonDriver::report`] when free pages have piled up, and [`BalloonDriver::relieve`] when the guest runs out of memory;
//! - when `work` reports a broken ring or the shell's own timer expires: [`BalloonDriver::begin_reset`], [`BalloonDriver::poll_reset`]
//!   from a timer, [`BalloonDriver::drain`] until it is done, which empties the balloon, and [`BalloonDriver::restart`],
//!   which uses the proof of the reset up.
//!
//! Addresses that the device sees in PFNs, hints and reports are guest-physical ones: the balloon cannot stand behind an IOMMU.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod amount;
mod config;
mod counters;
mod driver;
mod hints;
mod lane;
mod message;
mod options;
mod pages;
mod recovery;
mod reports;
mod statistics;
mod work;

pub use counters::Counters;
pub use driver::BalloonDriver;
pub use options::Options;
pub use options::WANTED_FEATURES;
pub use pages::Block;
pub use pages::Pages;
pub use statistics::Statistics;
pub use virtio_core::CutOff;
pub use virtio_core::Error;
pub use virtio_core::Quiesced;
pub use virtio_core::ResetProgress;
pub use virtio_core::StartFailure;
pub use virtio_core::Stopped;
pub use work::ConfigChange;
pub use work::Progress;

#[cfg(test)]
mod tests;
