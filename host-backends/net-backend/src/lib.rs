//! The network device (virtio 1.4 sec. 5.1): queues, offloads, control queue, switch.
//!
//! One rule: a guest's header is read once, checked, and only the checked copy travels on.
//!
//! A card is described by a [`NetSpec`] and opened by [`NetDevice::open`]; the session above then serves it as a
//! [`device_model::Device`]. Control requests are described in `control`, the way of frames in `path` and [`switch`].
//!
//! Where it stops short of virtio: no UFO, no offloads in tunnels, no statistics by control request, no hash types with
//! IPv6 extension headers' addresses; the driver's wishes on interrupt coalescing are kept and told, and batches are
//! what comes of them.

mod cable;
pub mod capture;
mod conditions;
mod config;
mod control;
mod counters;
mod device;
mod error;
pub mod filter;
mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod limit;
mod mac;
pub mod offload;
mod path;
pub mod port;
mod presence;
mod published;
mod rarp;
pub mod receive_filter;
pub mod rss;
mod spec;
pub mod switch;

pub use conditions::Condition;
pub use conditions::ConditionKind;
pub use counters::CardState;
pub use counters::ControlStatistics;
pub use counters::Metrics;
pub use device::NetDevice;
pub use error::Error;
pub use frame::HEAD_BYTES;
pub use mac::MacAddress;
pub use path::tally::Received;
pub use path::tally::Totals;
pub use path::tally::Transmitted;
pub use spec::Duplex;
pub use spec::FeatureMask;
pub use spec::LinkChoice;
pub use spec::MAX_MTU;
pub use spec::MAX_PAIRS;
pub use spec::MAX_QUEUE_SIZE;
pub use spec::MIN_MTU;
pub use spec::NetSpec;
pub use spec::SwitchSpec;
pub use spec::check_mtu;
pub use switch::Fabric;

#[cfg(test)]
mod tests;
