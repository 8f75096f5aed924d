//! Payload layouts (the vhost-user document, "Payload"). One rule: layout asserts stand beside each struct.

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;

/// Bits of [`VringAddress::flags`].
pub mod vring_flags {
    /// `VHOST_VRING_F_LOG`: writes to the used ring are logged.
    pub const LOG: u32 = 1;
}

/// Bits of [`ConfigSpace::flags`].
pub mod config_flags {
    /// Only fields that the driver may write.
    pub const WRITABLE: u32 = 1;
    /// The write restores state after migration; read-only fields may change.
    pub const LIVE_MIGRATION: u32 = 2;
}

/// "A vring state description".
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct VringState {
    /// Ring index; 32 bits wide on the wire, so never cut it before checking it.
    pub index: u32,
    /// The number: size, base, or enable flag.
    pub num: u32,
}
const _: () = assert!(size_of::<VringState>() == 8);

/// "A vring address description": front-end user addresses of the three areas.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct VringAddress {
    /// Ring index.
    pub index: u32,
    /// See [`vring_flags`].
    pub flags: u32,
    /// Descriptor area.
    pub descriptor: u64,
    /// Used ring; packed: device event suppression.
    pub used: u64,
    /// Available ring; packed: driver event suppression.
    pub available: u64,
    /// Guest-physical address to which used-ring writes are logged.
    pub log: u64,
}
const _: () = assert!(size_of::<VringAddress>() == 40);

/// "A memory region description".
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct MemoryRegion {
    /// Guest-physical address.
    pub guest_addr: u64,
    /// Bytes.
    pub size: u64,
    /// Address in the front-end's process.
    pub user_addr: u64,
    /// Offset of the region in its file.
    pub mmap_offset: u64,
}
const _: () = assert!(size_of::<MemoryRegion>() == 32);

/// "Log description" of `SET_LOG_BASE`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct LogBase {
    /// Bytes of the log.
    pub size: u64,
    /// Offset of the log in its file.
    pub offset: u64,
}
const _: () = assert!(size_of::<LogBase>() == 16);

/// "Inflight description".
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Inflight {
    /// Bytes of the shared area.
    pub mmap_size: u64,
    /// Offset of the area in its file.
    pub mmap_offset: u64,
    /// Queues tracked.
    pub num_queues: u16,
    /// Size of each queue.
    pub queue_size: u16,
    /// C's tail padding; always sent, not always received.
    pub padding: [u8; 4],
}
const _: () = assert!(size_of::<Inflight>() == 24);

/// Payload of the kick, call and err messages: ring index in bits 0-7, "no descriptor" in bit 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VringFd(pub u64);

impl VringFd {
    /// Bit 8: no descriptor comes with the message.
    pub const NO_FD: u64 = 1 << 8;

    /// For ring `index`, with or without a descriptor.
    pub fn new(index: u8, has_fd: bool) -> Self {
        Self(u64::from(index) | if has_fd { 0 } else { Self::NO_FD })
    }

    /// The ring index.
    pub fn index(self) -> u32 {
        (self.0 & 0xff) as u32
    }

    /// Whether a descriptor comes with the message.
    pub fn has_fd(self) -> bool {
        self.0 & Self::NO_FD == 0
    }
}

/// "Virtio device config space".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigSpace {
    /// First byte in the device configuration; some front-ends add 0x100, see the server.
    pub offset: u32,
    /// Bytes asked for; equals `data.len()` except in an error reply.
    pub size: u32,
    /// See [`config_flags`].
    pub flags: u32,
    /// The bytes; in a `GET_CONFIG` request their content means nothing.
    pub data: Vec<u8>,
}

/// Which way device state moves (`SET_DEVICE_STATE_FD`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferDirection {
    /// From the back-end into the descriptor.
    Save,
    /// From the descriptor into the back-end.
    Load,
}

/// When device state moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceStatePhase {
    /// All rings are stopped; the only phase defined.
    Stopped,
}

/// Payload of `SET_DEVICE_STATE_FD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceStateTransfer {
    /// Save or load.
    pub direction: TransferDirection,
    /// The migration phase.
    pub phase: DeviceStatePhase,
}
