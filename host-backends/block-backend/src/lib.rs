//! The block device (virtio 1.4 sec. 5.2): requests from a ring, bytes in an image.
//!
//! One rule: whatever a guest puts into its ring, the answer is a status byte, and nothing outside its own disk and its
//! own memory is touched.
//!
//! A disk is described by a [`BlockSpec`] and opened by [`BlockDevice::open`]; the session above then serves it as a
//! [`device_model::Device`]. Cache modes are described at [`CacheMode`], engines and what they cost in `engine`.
//!
//! Where it stops short of virtio: no ZONED, no SECURE_ERASE (a file cannot promise it), no LIFETIME (a file has none).

mod config;
mod counters;
mod device;
mod durability;
mod engine;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handler;
mod image;
mod lock;
mod request;
mod spec;
mod write_cache;

pub use counters::Metrics;
pub use device::BlockDevice;
pub use error::Error;
pub use host_os::ByteSize;
pub use spec::BlockSpec;
pub use spec::CacheMode;
pub use spec::EngineChoice;
pub use spec::LockChoice;
pub use spec::MAX_QUEUE_SIZE;
pub use spec::MAX_QUEUES;
pub use spec::SERIAL_BYTES;

#[cfg(test)]
mod tests;
