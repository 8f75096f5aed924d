//! What a virtio device is to the session that serves it: identity, configuration, and queues that start and stop
//! one by one.
//!
//! One rule: a device knows neither sockets nor threads. The session calls [`Device`] from its own thread and owns
//! one worker thread per running queue, which is the only caller of that queue's [`QueueHandler`].

mod counters;
mod device;
mod device_record;
mod error;
mod ground;
mod handler;
mod identity;
mod inflight;
mod inflight_packed;
mod inflight_split;
mod moderator;
mod queue;
mod recorder;
mod starting;

pub use counters::QueueCounters;
pub use counters::QueueStatistics;
pub use device::ConfigNotifier;
pub use device::Device;
pub use device_record::DeviceRecord;
pub use error::Error;
pub use ground::QueueMemory;
pub use handler::Progress;
pub use handler::QueueHandler;
pub use handler::Shelf;
pub use identity::fingerprint;
pub use inflight::InflightRegion;
pub use inflight::NewInflight;
pub use inflight::QueueRecord;
pub use moderator::Moderator;
pub use queue::Queue;
pub use queue::QueueSetup;
pub use queue::RingAddresses;
pub use starting::is_ring_new;

#[cfg(test)]
mod tests;
