//! Ring layouts: split (virtio 1.4 sec. 2.7) and packed (sec. 2.8) virtqueues.
//!
//! One rule: layout only; who may write what and when is the business of the `virtqueue` crate.

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;
use zerocopy::Unaligned;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

/// The greatest queue size, in entries, of both formats (sec. 2.7, 2.8).
pub const SIZE_MAX: u16 = 32768;

/// A descriptor of a split ring (sec. 2.7.5), also the element of a split indirect table.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
pub struct Descriptor {
    /// Guest-physical (device) address.
    pub addr: U64,
    /// Length in bytes.
    pub len: U32,
    /// [`descriptor_flags`].
    pub flags: U16,
    /// Index of the next descriptor when `NEXT` is set.
    pub next: U16,
}

/// A descriptor of a packed ring (sec. 2.8.10.1, "Structure Size and Alignment"), also the
/// element of a packed indirect table.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
pub struct PackedDescriptor {
    /// Guest-physical (device) address.
    pub addr: U64,
    /// Length in bytes.
    pub len: U32,
    /// Buffer id; meaningful in the last descriptor of a list.
    pub id: U16,
    /// [`descriptor_flags`].
    pub flags: U16,
}

/// Flags of a descriptor (sec. 2.7.5, 2.8.1).
pub mod descriptor_flags {
    /// The buffer goes on in another descriptor.
    pub const NEXT: u16 = 1;
    /// The device writes this buffer; otherwise it reads it.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;
    /// Packed ring: available, relative to the driver's wrap counter.
    pub const AVAIL: u16 = 1 << 7;
    /// Packed ring: used, relative to the device's wrap counter.
    pub const USED: u16 = 1 << 15;
}

/// An element of the used ring (sec. 2.7.8).
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
pub struct UsedElement {
    /// Head index of the used chain.
    pub id: U32,
    /// Bytes written to the device-writable part of the chain.
    pub len: U32,
}

/// Offsets in the split ring's driver area ("available ring", sec. 2.7.6), in bytes.
pub mod avail {
    /// `flags`, 16 bits.
    pub const FLAGS: usize = 0;
    /// `idx`, 16 bits.
    pub const IDX: usize = 2;
    /// `ring[]`, 16 bits each.
    pub const RING: usize = 4;
    /// Size of one ring entry.
    pub const ENTRY_SIZE: usize = 2;
    /// `flags`: the driver asks for no interrupts; only without `RING_EVENT_IDX` (sec. 2.7.7).
    pub const NO_INTERRUPT: u16 = 1;

    /// Offset of `used_event` (sec. 2.7.6) in a ring of `size` entries.
    pub const fn used_event(size: u16) -> usize {
        RING + ENTRY_SIZE * size as usize
    }
}

/// Offsets in the split ring's device area ("used ring", sec. 2.7.8), in bytes.
pub mod used {
    /// `flags`, 16 bits.
    pub const FLAGS: usize = 0;
    /// `idx`, 16 bits.
    pub const IDX: usize = 2;
    /// `ring[]`, [`UsedElement`](super::UsedElement) each.
    pub const RING: usize = 4;
    /// Size of one ring entry.
    pub const ENTRY_SIZE: usize = size_of::<super::UsedElement>();
    /// `flags`: the device asks for no notifications; only without `RING_EVENT_IDX`
    /// (sec. 2.7.10).
    pub const NO_NOTIFY: u16 = 1;

    /// Offset of `avail_event` (sec. 2.7.8) in a ring of `size` entries.
    pub const fn avail_event(size: u16) -> usize {
        RING + ENTRY_SIZE * size as usize
    }
}

/// Event suppression structure of the packed ring (sec. 2.8.10): the driver area and the device
/// area hold one each.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
pub struct EventSuppression {
    /// Descriptor offset in bits 0 to 14, wrap counter in bit 15.
    pub offset_wrap: U16,
    /// [`event_flags`] in bits 0 and 1, the rest reserved.
    pub flags: U16,
}

/// Values of the two flag bits of [`EventSuppression`] (sec. 2.8.10).
pub mod event_flags {
    /// Notifications are wanted.
    pub const ENABLE: u16 = 0;
    /// Notifications are not wanted.
    pub const DISABLE: u16 = 1;
    /// A notification is wanted for one descriptor; only with `RING_EVENT_IDX`.
    pub const DESC: u16 = 2;
    /// The bits that hold the value.
    pub const MASK: u16 = 3;
}

/// Alignment of the areas in bytes, split ring (sec. 2.7).
pub mod split_alignment {
    /// Descriptor table.
    pub const DESCRIPTORS: usize = 16;
    /// Available ring.
    pub const DRIVER: usize = 2;
    /// Used ring.
    pub const DEVICE: usize = 4;
}

/// Alignment of the areas in bytes, packed ring (sec. 2.8.10.1).
pub mod packed_alignment {
    /// Descriptor ring.
    pub const DESCRIPTORS: usize = 16;
    /// Driver event suppression.
    pub const DRIVER: usize = 4;
    /// Device event suppression.
    pub const DEVICE: usize = 4;
}
