//! Device status bits (virtio 1.4 sec. 2.1, "Device Status Field").
//!
//! One rule: these are bits of one byte; 0 is "reset".

/// The guest has found the device.
pub const ACKNOWLEDGE: u8 = 1;
/// The guest knows how to drive the device.
pub const DRIVER: u8 = 2;
/// The driver is set up: the device may use its queues.
pub const DRIVER_OK: u8 = 4;
/// The driver has acknowledged the features it understands.
pub const FEATURES_OK: u8 = 8;
/// The device has met an error from which only a reset recovers.
pub const DEVICE_NEEDS_RESET: u8 = 64;
/// The driver has given up on the device.
pub const FAILED: u8 = 128;
