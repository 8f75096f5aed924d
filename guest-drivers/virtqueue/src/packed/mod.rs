//! The packed ring (virtio 1.4 sec. 2.8).
//!
//! One rule: the two halves share no state but the ring itself.

mod device;
mod driver;
pub(crate) mod ring;

pub(crate) use device::PackedDevice;
pub(crate) use driver::PackedDriver;
