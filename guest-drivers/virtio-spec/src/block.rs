//! Block device (virtio 1.4 sec. 5.2).
//!
//! One rule: layout and numbers only; what a request means is the business of the driver and the
//! backend.

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;
use zerocopy::Unaligned;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

/// Unit of `capacity`, of a request's `sector` and of a range's `sector`, in bytes (sec. 5.2.4).
pub const SECTOR_SIZE: u64 = 512;
/// Bytes of the string that a `GET_ID` request yields (sec. 5.2.6); shorter ids end with a NUL.
pub const ID_SIZE: usize = 20;

/// Feature bits, as masks (sec. 5.2.3).
pub mod feature {
    /// `size_max` is valid.
    pub const SIZE_MAX: u64 = 1 << 1;
    /// `seg_max` is valid.
    pub const SEG_MAX: u64 = 1 << 2;
    /// `geometry` is valid.
    pub const GEOMETRY: u64 = 1 << 4;
    /// The device is read-only.
    pub const RO: u64 = 1 << 5;
    /// `blk_size` is valid.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// `FLUSH` requests are supported.
    pub const FLUSH: u64 = 1 << 9;
    /// `topology` is valid.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// `writeback` can be switched by the driver.
    pub const CONFIG_WCE: u64 = 1 << 11;
    /// `num_queues` is valid.
    pub const MQ: u64 = 1 << 12;
    /// `DISCARD` requests are supported.
    pub const DISCARD: u64 = 1 << 13;
    /// `WRITE_ZEROES` requests are supported.
    pub const WRITE_ZEROES: u64 = 1 << 14;
    /// `GET_LIFETIME` requests are supported.
    pub const LIFETIME: u64 = 1 << 15;
    /// `SECURE_ERASE` requests are supported.
    pub const SECURE_ERASE: u64 = 1 << 16;
    /// Zoned storage.
    pub const ZONED: u64 = 1 << 17;
}

/// `geometry` of [`Config`] (sec. 5.2.4).
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
pub struct Geometry {
    /// Cylinders.
    pub cylinders: U16,
    /// Heads.
    pub heads: u8,
    /// Sectors per track.
    pub sectors: u8,
}

/// `topology` of [`Config`] (sec. 5.2.4), in logical blocks.
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
pub struct Topology {
    /// Logical blocks per physical block, log2.
    pub physical_block_exp: u8,
    /// Offset of the first aligned logical block.
    pub alignment_offset: u8,
    /// Suggested minimum I/O size.
    pub min_io_size: U16,
    /// Suggested optimal (maximum sustained) I/O size.
    pub opt_io_size: U32,
}

/// `zoned` of [`Config`] (sec. 5.2.4).
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
pub struct Zoned {
    /// Zone size in sectors.
    pub zone_sectors: U32,
    /// Most open zones.
    pub max_open_zones: U32,
    /// Most active zones.
    pub max_active_zones: U32,
    /// Largest zone append in sectors.
    pub max_append_sectors: U32,
    /// Smallest write unit in bytes.
    pub write_granularity: U32,
    /// 0 not zoned, 1 host-managed, 2 host-aware.
    pub model: u8,
    /// Zero.
    pub unused2: [u8; 3],
}

/// Device configuration space, `struct virtio_blk_config` (sec. 5.2.4).
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
pub struct Config {
    /// Size of the disk in 512-byte sectors.
    pub capacity: U64,
    /// Largest segment in bytes; with `SIZE_MAX`.
    pub size_max: U32,
    /// Most segments in a request; with `SEG_MAX`.
    pub seg_max: U32,
    /// With `GEOMETRY`.
    pub geometry: Geometry,
    /// Logical block size in bytes; with `BLK_SIZE`.
    pub blk_size: U32,
    /// With `TOPOLOGY`.
    pub topology: Topology,
    /// 0 write-through, 1 write-back; with `CONFIG_WCE`.
    pub writeback: u8,
    /// Zero.
    pub unused0: u8,
    /// Number of request queues; with `MQ`.
    pub num_queues: U16,
    /// Largest discard range in sectors; with `DISCARD`.
    pub max_discard_sectors: U32,
    /// Most ranges in one discard request.
    pub max_discard_seg: U32,
    /// Alignment of discard ranges in sectors.
    pub discard_sector_alignment: U32,
    /// Largest write-zeroes range in sectors; with `WRITE_ZEROES`.
    pub max_write_zeroes_sectors: U32,
    /// Most ranges in one write-zeroes request.
    pub max_write_zeroes_seg: U32,
    /// 1 when a write-zeroes request may unmap.
    pub write_zeroes_may_unmap: u8,
    /// Zero.
    pub unused1: [u8; 3],
    /// Largest secure-erase range in sectors; with `SECURE_ERASE`.
    pub max_secure_erase_sectors: U32,
    /// Most ranges in one secure-erase request.
    pub max_secure_erase_seg: U32,
    /// Alignment of secure-erase ranges in sectors.
    pub secure_erase_sector_alignment: U32,
    /// With `ZONED`.
    pub zoned: Zoned,
}

/// Offset in bytes of `writeback` in [`Config`], the only field a driver may write.
pub const CONFIG_WRITEBACK_OFFSET: usize = 32;
/// Size in bytes of [`Config`] without `zoned`: what a device without `ZONED` shows.
pub const CONFIG_SIZE_UNZONED: usize = 72;

/// The device-readable head of every request (sec. 5.2.6).
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
pub struct RequestHeader {
    /// [`request_type`].
    pub request_type: U32,
    /// Zero (was the I/O priority).
    pub reserved: U32,
    /// First sector, in units of 512 bytes.
    pub sector: U64,
}

/// Request types (sec. 5.2.6).
pub mod request_type {
    /// Read (`VIRTIO_BLK_T_IN`).
    pub const IN: u32 = 0;
    /// Write (`VIRTIO_BLK_T_OUT`).
    pub const OUT: u32 = 1;
    /// Flush.
    pub const FLUSH: u32 = 4;
    /// Get the id string.
    pub const GET_ID: u32 = 8;
    /// Get wear information.
    pub const GET_LIFETIME: u32 = 10;
    /// Discard ranges.
    pub const DISCARD: u32 = 11;
    /// Write zeroes to ranges.
    pub const WRITE_ZEROES: u32 = 13;
    /// Erase ranges so that they cannot be recovered.
    pub const SECURE_ERASE: u32 = 14;
}

/// The device-writable last byte of every request (sec. 5.2.6).
pub mod status {
    /// Done.
    pub const OK: u8 = 0;
    /// Failed.
    pub const IOERR: u8 = 1;
    /// Not supported.
    pub const UNSUPP: u8 = 2;
}

/// One range of a discard, write-zeroes or secure-erase request (sec. 5.2.6).
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
pub struct DiscardWriteZeroes {
    /// First sector, in units of 512 bytes.
    pub sector: U64,
    /// Number of sectors, in units of 512 bytes.
    pub num_sectors: U32,
    /// [`RANGE_FLAG_UNMAP`]; the other bits are reserved.
    pub flags: U32,
}

/// `flags` of [`DiscardWriteZeroes`]: the zeroed range may be unmapped.
pub const RANGE_FLAG_UNMAP: u32 = 1;

/// The answer to `GET_LIFETIME`, `struct virtio_blk_lifetime` (sec. 5.2.6).
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
pub struct Lifetime {
    /// 0 undefined, 1 normal, 2 warning (80 % of reserved blocks used), 3 urgent (90 %).
    pub pre_eol_info: U16,
    /// Wear of SLC cells in steps of 10 %, 0 undefined, 11 exceeded.
    pub device_lifetime_est_typ_a: U16,
    /// Wear of MLC cells in steps of 10 %, 0 undefined, 11 exceeded.
    pub device_lifetime_est_typ_b: U16,
}
