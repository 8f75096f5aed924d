//! Split and packed virtqueues (virtio 1.4 sec. 2.7, 2.8): the driver half and the device half.
//!
//! One rule: memory the peer can write is read once into an owned value, checked, and only then
//! used; no content of a ring makes this crate panic, loop without bound or touch memory outside
//! the spans it was given.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod chain;
mod config;
mod descriptor;
mod device;
mod driver;
mod error;
mod footprint;
mod handshake;
mod in_flight;
pub mod index;
mod lent;
mod memory;
mod packed;
mod split;

pub use chain::Chain;
pub use chain::ChainBatch;
pub use chain::Segment;
pub use chain::Token;
pub use config::Area;
pub use config::Format;
pub use config::Layout;
pub use config::QueueConfig;
pub use config::QueueState;
pub use device::DeviceQueue;
pub use device::Replay;
pub use driver::DriverQueue;
pub use driver::Used;
pub use error::AddError;
pub use error::ConfigError;
pub use error::RingError;
pub use footprint::Footprint;
pub use footprint::WrittenArea;
pub use memory::PeerMemory;
pub use memory::RingMemory;
pub use memory::Rings;

// The model checker's fence works inside a model only, see `loom_model`.
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
