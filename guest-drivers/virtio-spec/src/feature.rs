//! Device-independent feature bits, as masks (virtio 1.4 sec. 6, "Reserved Feature Bits").
//!
//! One rule: masks, never bit numbers, so that a set of features is always a `u64`.

/// Bits 0 to 23 and 50 to 127 belong to the device type; 24 to 49 to the ring and transport
/// (sec. 2.2). This is the mask of the latter.
pub const RING_AND_TRANSPORT: u64 = ((1 << 50) - 1) & !((1 << 24) - 1);

/// The legacy bit 24: used-ring notifications even when the ring runs empty (sec. 6.3, legacy).
pub const NOTIFY_ON_EMPTY: u64 = 1 << 24;
/// The legacy bit 27: any descriptor layout is accepted (sec. 6.3, legacy).
pub const ANY_LAYOUT: u64 = 1 << 27;
/// Descriptors may refer to a table of descriptors (sec. 2.7.5.3, 2.8.7).
pub const RING_INDIRECT_DESC: u64 = 1 << 28;
/// Notifications are suppressed by index instead of by flag (sec. 2.7.7, 2.7.10, 2.8.14).
pub const RING_EVENT_IDX: u64 = 1 << 29;
/// vhost-user only: the frontend understands protocol features. A vhost-user bit, not a virtio
/// one: it is never offered to a driver.
pub const VHOST_USER_PROTOCOL_FEATURES: u64 = 1 << 30;
/// The device complies with virtio 1.0 or later.
pub const VERSION_1: u64 = 1 << 32;
/// The device's access to memory is limited or translated by the platform.
pub const ACCESS_PLATFORM: u64 = 1 << 33;
/// The packed ring format (sec. 2.8).
pub const RING_PACKED: u64 = 1 << 34;
/// Buffers are used in the order in which they were made available (sec. 2.7.9, 2.8.8).
pub const IN_ORDER: u64 = 1 << 35;
/// Memory accesses are ordered as the platform prescribes for real hardware.
pub const ORDER_PLATFORM: u64 = 1 << 36;
/// Single-root I/O virtualization.
pub const SR_IOV: u64 = 1 << 37;
/// The driver passes extra data in its notifications (sec. 2.9).
pub const NOTIFICATION_DATA: u64 = 1 << 38;
/// The value written in a notification comes from the device's configuration (sec. 4.1.5.2).
pub const NOTIF_CONFIG_DATA: u64 = 1 << 39;
/// A single queue can be reset (sec. 2.6.1).
pub const RING_RESET: u64 = 1 << 40;
/// The device has an administration virtqueue (sec. 2.13).
pub const ADMIN_VQ: u64 = 1 << 41;
