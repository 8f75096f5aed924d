//! Virtio over PCI (virtio 1.4 sec. 4.1).
//!
//! One rule: modern layout only; legacy registers are not described.

/// PCI vendor id (sec. 4.1.2).
pub const VENDOR_ID: u16 = 0x1af4;
/// PCI device id of a modern device is this plus the virtio device id (sec. 4.1.2).
pub const DEVICE_ID_BASE: u16 = 0x1040;
/// PCI device ids of transitional devices, which have the legacy registers besides the modern ones, each with the virtio
/// device id that it stands for (sec. 4.1.2).
pub const TRANSITIONAL_DEVICE_IDS: [(u16, u16); 7] = [
    (0x1000, 1),
    (0x1001, 2),
    (0x1002, 5),
    (0x1003, 3),
    (0x1004, 8),
    (0x1005, 4),
    (0x1009, 9),
];
/// Lowest PCI revision id of a non-transitional device (sec. 4.1.2.1).
pub const REVISION_ID: u8 = 1;
/// "No MSI-X vector" (sec. 4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;
/// PCI capability id of a vendor-specific capability (sec. 4.1.4).
pub const CAPABILITY_ID: u8 = 0x09;

/// Offsets in `struct virtio_pci_cap`, in configuration space (sec. 4.1.4), in bytes.
pub mod cap {
    /// `cap_vndr`, 8 bits: [`CAPABILITY_ID`](super::CAPABILITY_ID).
    pub const VENDOR: usize = 0;
    /// `cap_next`, 8 bits.
    pub const NEXT: usize = 1;
    /// `cap_len`, 8 bits.
    pub const LENGTH: usize = 2;
    /// `cfg_type`, 8 bits: [`cap_type`](super::cap_type).
    pub const TYPE: usize = 3;
    /// `bar`, 8 bits.
    pub const BAR: usize = 4;
    /// `id`, 8 bits.
    pub const ID: usize = 5;
    /// `offset`, 32 bits, in the BAR.
    pub const OFFSET: usize = 8;
    /// `length`, 32 bits, of the structure.
    pub const STRUCTURE_LENGTH: usize = 12;
    /// Size of the capability.
    pub const SIZE: usize = 16;
    /// `notify_off_multiplier`, 32 bits, of a `NOTIFY` capability (sec. 4.1.4.4).
    pub const NOTIFY_OFF_MULTIPLIER: usize = 16;
    /// Size of a `NOTIFY` capability.
    pub const NOTIFY_SIZE: usize = 20;
    /// `pci_cfg_data`, 4 bytes, of a `PCI` capability (sec. 4.1.4.9).
    pub const PCI_CFG_DATA: usize = 16;
    /// Size of a `PCI` capability.
    pub const PCI_CFG_SIZE: usize = 20;
}

/// Values of `cfg_type` (sec. 4.1.4).
pub mod cap_type {
    /// Common configuration.
    pub const COMMON: u8 = 1;
    /// Notifications.
    pub const NOTIFY: u8 = 2;
    /// ISR status.
    pub const ISR: u8 = 3;
    /// Device-specific configuration.
    pub const DEVICE: u8 = 4;
    /// Access through PCI configuration space.
    pub const PCI: u8 = 5;
    /// Shared memory region.
    pub const SHARED_MEMORY: u8 = 8;
    /// Vendor-specific data.
    pub const VENDOR: u8 = 9;
}

/// Offsets in `struct virtio_pci_common_cfg` (sec. 4.1.4.3), in bytes.
pub mod common {
    /// `device_feature_select`, 32 bits.
    pub const DEVICE_FEATURE_SELECT: usize = 0x00;
    /// `device_feature`, 32 bits, read-only.
    pub const DEVICE_FEATURE: usize = 0x04;
    /// `driver_feature_select`, 32 bits.
    pub const DRIVER_FEATURE_SELECT: usize = 0x08;
    /// `driver_feature`, 32 bits.
    pub const DRIVER_FEATURE: usize = 0x0c;
    /// `config_msix_vector`, 16 bits.
    pub const CONFIG_MSIX_VECTOR: usize = 0x10;
    /// `num_queues`, 16 bits, read-only.
    pub const NUM_QUEUES: usize = 0x12;
    /// `device_status`, 8 bits.
    pub const DEVICE_STATUS: usize = 0x14;
    /// `config_generation`, 8 bits, read-only.
    pub const CONFIG_GENERATION: usize = 0x15;
    /// `queue_select`, 16 bits.
    pub const QUEUE_SELECT: usize = 0x16;
    /// `queue_size`, 16 bits.
    pub const QUEUE_SIZE: usize = 0x18;
    /// `queue_msix_vector`, 16 bits.
    pub const QUEUE_MSIX_VECTOR: usize = 0x1a;
    /// `queue_enable`, 16 bits.
    pub const QUEUE_ENABLE: usize = 0x1c;
    /// `queue_notify_off`, 16 bits, read-only.
    pub const QUEUE_NOTIFY_OFF: usize = 0x1e;
    /// `queue_desc`, 64 bits.
    pub const QUEUE_DESC: usize = 0x20;
    /// `queue_driver`, 64 bits.
    pub const QUEUE_DRIVER: usize = 0x28;
    /// `queue_device`, 64 bits.
    pub const QUEUE_DEVICE: usize = 0x30;
    /// `queue_notif_config_data`, 16 bits, read-only; with `NOTIF_CONFIG_DATA`.
    pub const QUEUE_NOTIF_CONFIG_DATA: usize = 0x38;
    /// `queue_reset`, 16 bits; with `RING_RESET`.
    pub const QUEUE_RESET: usize = 0x3a;
    /// `admin_queue_index`, 16 bits, read-only; with `ADMIN_VQ`.
    pub const ADMIN_QUEUE_INDEX: usize = 0x3c;
    /// `admin_queue_num`, 16 bits, read-only; with `ADMIN_VQ`.
    pub const ADMIN_QUEUE_NUM: usize = 0x3e;
    /// Size of the structure.
    pub const SIZE: usize = 0x40;
}

/// Bits of the ISR status byte (sec. 4.1.4.5).
pub mod isr {
    /// A queue has used buffers.
    pub const QUEUE: u8 = 1;
    /// The device configuration changed.
    pub const CONFIG: u8 = 2;
}

/// Fields of a notification written with `NOTIFICATION_DATA` (sec. 2.9, 4.1.5.2).
///
/// A split ring's `next` is the 16-bit available index; a packed ring's is the offset of the next
/// descriptor in bits 0 to 14 and the wrap counter in bit 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotificationData {
    /// Queue index (`vq_index`).
    pub queue: u16,
    /// `next_off` and `next_wrap`.
    pub next: u16,
}

impl NotificationData {
    /// The value the driver writes.
    pub const fn encode(self) -> u32 {
        self.queue as u32 | (self.next as u32) << 16
    }

    /// The fields of a value the driver wrote; nothing is checked.
    pub const fn decode(value: u32) -> Self {
        Self {
            queue: value as u16,
            next: (value >> 16) as u16,
        }
    }
}
