//! The split ring (virtio 1.4 sec. 2.7).
//!
//! One rule: the two halves share no state but the ring itself.

mod device;
mod driver;

pub(crate) use device::SplitDevice;
pub(crate) use driver::SplitDriver;
