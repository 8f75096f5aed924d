//! The virtio network driver (virtio 1.4 sec. 5.1) as a state machine that knows no operating system.
//!
//! Rule: start and complete are separate and neither blocks; nothing that the device says is used before it was checked; every buffer
//! comes back exactly once.
//!
//! A shell calls [`NetDriver::start`] once, gives each queue to the processor or lock that uses it, and then
//! - [`ReceiveQueue::post`] buffers and [`ReceiveQueue::kick`] once for the batch; on an interrupt (or while polling)
//!   [`ReceiveQueue::poll`] until it says `None`, then [`ReceiveQueue::arm`];
//! - [`TransmitQueue::submit`] frames, [`TransmitQueue::kick`] once for the batch, [`TransmitQueue::poll`] to get them back;
//! - [`ControlQueue::submit`] a [`Command`], [`ControlQueue::poll`] for its answer;
//! - on a configuration interrupt [`NetDriver::config_changed`];
//! - when a queue reports that it is broken or the shell's own timer expires: [`NetDriver::begin_reset`], [`NetDriver::poll_reset`] from
//!   a timer, the `take_outstanding` of every queue, [`NetDriver::restart`], which uses the proof of the reset up. A device that was reset has
//!   forgotten every command.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod command;
mod config;
mod control;
mod counters;
mod driver;
mod error;
mod frame;
mod header;
mod options;
mod receive;
mod recovery;
mod start;
mod transmit;

pub use command::Coalescing;
pub use command::Command;
pub use command::HashConfig;
pub use command::ReceiveMode;
pub use command::RssConfig;
pub use config::Duplex;
pub use config::Link;
pub use config::NetInfo;
pub use config::RssInfo;
pub use control::Answer;
pub use control::ControlQueue;
pub use counters::ControlCounters;
pub use counters::ReceiveCounters;
pub use counters::TransmitCounters;
pub use driver::ConfigChange;
pub use driver::NetDriver;
pub use error::CommandError;
pub use error::Discard;
pub use error::Refusal;
pub use frame::Checksum;
pub use frame::ChecksumAt;
pub use frame::Coalesced;
pub use frame::Frame;
pub use frame::Hash;
pub use frame::Offload;
pub use frame::SegmentKind;
pub use frame::Segmentation;
pub use options::DEFAULT_FEATURES;
pub use options::Options;
pub use options::WANTED_FEATURES;
pub use receive::ReceiveQueue;
pub use receive::Received;
pub use receive::ReceivedBuffer;
pub use recovery::Queues;
pub use start::Started;
pub use transmit::Rejected;
pub use transmit::Transmit;
pub use transmit::TransmitQueue;
pub use transmit::Transmitted;
pub use virtio_core::CutOff;
pub use virtio_core::Error;
pub use virtio_core::Quiesced;
pub use virtio_core::ResetProgress;
pub use virtio_core::StartFailure;
pub use virtio_core::Stopped;

/// Most bytes of a frame without its virtio header: an IPv6 packet of the greatest size, an Ethernet header and two VLAN tags.
pub const FRAME_MAX: usize = 65535 + 40 + 14 + 8;

#[cfg(test)]
mod tests;
