//! The virtio block driver (virtio 1.4 sec. 5.2) as a state machine that knows no operating system.
//!
//! Rule: start and complete are separate and neither blocks; nothing that the device says is used before it was checked; every request
//! comes back exactly once, with its buffer.
//!
//! A shell calls [`BlockDriver::start`] once, gives each processor or lock its own [`BlockQueue`], and then
//! - [`BlockQueue::submit`] any number of requests, [`BlockQueue::kick`] once for the batch;
//! - on an interrupt (or while polling) [`BlockQueue::poll`] until it says `None`, then [`BlockQueue::arm`];
//! - on a configuration interrupt [`BlockDriver::config_changed`];
//! - when `poll` reports a broken queue or the shell's own timer expires: [`BlockDriver::begin_reset`], [`BlockDriver::poll_reset`] from
//!   a timer, [`BlockQueue::take_outstanding`] for the requests to issue again, [`BlockDriver::restart`], which uses the proof of the
//!   reset up.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod check;
mod config;
mod counters;
mod driver;
mod error;
mod issue;
mod layout;
mod options;
mod pending;
mod queue;
mod request;
mod segments;

pub use config::DiskInfo;
pub use counters::Counters;
pub use driver::BlockDriver;
pub use driver::ConfigChange;
pub use error::Refusal;
pub use error::RequestError;
pub use options::Options;
pub use options::WANTED_FEATURES;
pub use queue::BlockQueue;
pub use request::Completion;
pub use request::Operation;
pub use request::Rejected;
pub use request::Request;
pub use request::Serial;
pub use request::Success;
pub use virtio_core::CutOff;
pub use virtio_core::Error;
pub use virtio_core::Quiesced;
pub use virtio_core::ResetProgress;
pub use virtio_core::StartFailure;
pub use virtio_core::Stopped;

#[cfg(test)]
mod tests;
