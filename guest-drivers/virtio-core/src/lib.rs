//! What every virtio driver core does alike: it brings a device up, runs queues whose chains stand in slots, and resets.
//!
//! Rule: a buffer leaves this crate only when its chain came back, or against a [`Stopped`] that covers its queue: a proof of one device
//! and one epoch, that is of the time from a start or restart to the next. Everything is allocated before DRIVER_OK.
//!
//! A driver core is made of
//! - [`bring_up()`], which takes a function from the bus to DRIVER_OK and tells the driver when to agree on features and make its queues;
//! - one [`SlotQueue`] for each queue: [`SlotQueue::claim`] a [`Slot`], put the [`Chain`] together, [`SlotQueue::add`] it with whatever is
//!   to come back, [`SlotQueue::publish`]; then [`SlotQueue::pop`];
//! - [`Device`], the control half, with the resets: [`Device::begin_reset`], [`Device::poll_reset`] for the proof,
//!   [`SlotQueue::abandon`] for what was in flight, [`Device::restart`], which uses the proof up.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bring_up;
mod chain;
mod device;
mod error;
mod memory;
mod proof;
mod queue;
mod slot;
mod vectors;

pub use bring_up::QueueSet;
pub use bring_up::Shape;
pub use bring_up::StartFailure;
pub use bring_up::Starting;
pub use bring_up::Up;
pub use bring_up::bring_up;
pub use chain::Chain;
pub use device::Device;
pub use device::Enabling;
pub use error::Error;
pub use error::Refusal;
pub use memory::QueueMemory;
pub use proof::CutOff;
pub use proof::Quiesced;
pub use proof::ResetProgress;
pub use proof::Stopped;
pub use queue::Placement;
pub use queue::Returned;
pub use queue::SlotQueue;
pub use slot::Slot;
pub use vectors::Vectors;
