//! Traditional memory balloon (virtio 1.4 sec. 5.5).
//!
//! One rule: layout and numbers only; which page goes into the balloon and when it comes back is
//! the business of the driver and the backend.

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;
use zerocopy::Unaligned;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

/// Bytes of the page that a PFN and the counts of [`Config`] stand for, whatever the guest's own
/// page size is (sec. 5.5.6).
pub const PAGE_SIZE: u64 = 1 << PFN_SHIFT;
/// A physical address shifted right by this is a PFN (sec. 5.5.6, `VIRTIO_BALLOON_PFN_SHIFT`).
pub const PFN_SHIFT: u32 = 12;
/// Bytes of one PFN in a buffer of the inflate or deflate queue: a little-endian `u32`.
pub const PFN_SIZE: usize = 4;

/// Feature bits, as masks (sec. 5.5.3).
pub mod feature {
    /// The device is told before the driver uses pages of the balloon again.
    pub const MUST_TELL_HOST: u64 = 1 << 0;
    /// The statistics queue exists.
    pub const STATS_VQ: u64 = 1 << 1;
    /// The driver may take pages out of the balloon when the guest runs out of memory.
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    /// The free page queue exists and `free_page_hint_cmd_id` is valid.
    pub const FREE_PAGE_HINT: u64 = 1 << 3;
    /// The driver fills freed pages with `poison_val` and relies on finding it.
    pub const PAGE_POISON: u64 = 1 << 4;
    /// The reporting queue exists.
    pub const PAGE_REPORTING: u64 = 1 << 5;
}

/// Queue indices (sec. 5.5.2).
///
/// The specification gives each queue its own number, also when an earlier one is missing. QEMU, Cloud Hypervisor and the Linux driver
/// up to 6.10 leave no gaps: a queue whose feature was not negotiated takes no number. With every queue present the two agree.
pub mod queue {
    use super::feature;

    /// Pages that go into the balloon.
    pub const INFLATE: u16 = 0;
    /// Pages that leave the balloon.
    pub const DEFLATE: u16 = 1;
    /// Most queues that a balloon can have.
    pub const MAX: u16 = 5;

    /// What a queue carries.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Role {
        /// PFN arrays into the balloon.
        Inflate,
        /// PFN arrays out of the balloon.
        Deflate,
        /// Statistics; with `STATS_VQ`.
        Stats,
        /// Hints of free pages; with `FREE_PAGE_HINT`.
        FreePage,
        /// Reports of free pages; with `PAGE_REPORTING`.
        Reporting,
    }

    /// The order in which roles take numbers, with the feature that each needs.
    pub const ORDER: [(Role, u64); MAX as usize] = [
        (Role::Inflate, 0),
        (Role::Deflate, 0),
        (Role::Stats, feature::STATS_VQ),
        (Role::FreePage, feature::FREE_PAGE_HINT),
        (Role::Reporting, feature::PAGE_REPORTING),
    ];

    /// The number that the specification gives a role.
    pub fn number(role: Role) -> u16 {
        match role {
            Role::Inflate => INFLATE,
            Role::Deflate => DEFLATE,
            Role::Stats => 2,
            Role::FreePage => 3,
            Role::Reporting => 4,
        }
    }

    /// The roles that exist with these negotiated features, in the order of their indices.
    pub fn roles(features: u64) -> impl Iterator<Item = Role> {
        ORDER
            .into_iter()
            .filter(move |(_, needed)| features & needed == *needed)
            .map(|(role, _)| role)
    }

    /// The index of a role without gaps, with these negotiated features, if the queue exists.
    pub fn index(role: Role, features: u64) -> Option<u16> {
        roles(features)
            .zip(0..)
            .find(|(have, _)| *have == role)
            .map(|(_, index)| index)
    }

    /// What the queue of this index carries without gaps, with these negotiated features.
    pub fn role(index: u16, features: u64) -> Option<Role> {
        roles(features).nth(usize::from(index))
    }

    /// Number of queues with these negotiated features.
    pub fn count(features: u64) -> u16 {
        (0..)
            .zip(roles(features))
            .map(|(index, _)| index + 1)
            .last()
            .unwrap_or(0)
    }
}

/// Device configuration space, `struct virtio_balloon_config` (sec. 5.5.4).
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
    /// Pages of 4 KiB that the device wants in the balloon. Read-only for the driver.
    pub num_pages: U32,
    /// Pages of 4 KiB that are in the balloon. Written by the driver.
    pub actual: U32,
    /// [`hint_command`]; with `FREE_PAGE_HINT`. Read-only for the driver.
    pub free_page_hint_cmd_id: U32,
    /// The pattern of freed pages; with `PAGE_POISON`. Written by the driver before `DRIVER_OK`.
    pub poison_val: U32,
}

/// Offset in bytes of `num_pages` in [`Config`].
pub const CONFIG_NUM_PAGES_OFFSET: usize = 0;
/// Offset in bytes of `actual` in [`Config`].
pub const CONFIG_ACTUAL_OFFSET: usize = 4;
/// Offset in bytes of `free_page_hint_cmd_id` in [`Config`].
pub const CONFIG_HINT_COMMAND_OFFSET: usize = 8;
/// Offset in bytes of `poison_val` in [`Config`].
pub const CONFIG_POISON_OFFSET: usize = 12;

/// Command ids of free page hinting (sec. 5.5.6.4).
pub mod hint_command {
    /// No hints are wanted; as the driver's message: it has no more.
    pub const STOP: u32 = 0;
    /// The device needs the hinted pages no longer: they may all be released.
    pub const DONE: u32 = 1;
    /// Ids from here on start a run of hints.
    pub const FIRST: u32 = 2;
}

/// Bytes of a message of the driver in the free page queue: one command id (sec. 5.5.6.4).
pub const HINT_COMMAND_SIZE: usize = 4;

/// One statistic of a buffer in the statistics queue, `struct virtio_balloon_stat` (sec. 5.5.6.3).
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
pub struct Stat {
    /// [`stat`].
    pub tag: U16,
    /// Bytes or a count, as the tag says.
    pub value: U64,
}

/// Tags of statistics (sec. 5.5.6.3).
pub mod stat {
    /// Bytes swapped in.
    pub const SWAP_IN: u16 = 0;
    /// Bytes swapped out.
    pub const SWAP_OUT: u16 = 1;
    /// Major page faults.
    pub const MAJFLT: u16 = 2;
    /// Minor page faults.
    pub const MINFLT: u16 = 3;
    /// Bytes not used for any purpose.
    pub const MEMFREE: u16 = 4;
    /// Bytes available to the guest in total.
    pub const MEMTOT: u16 = 5;
    /// Bytes that programs could get without swapping.
    pub const AVAIL: u16 = 6;
    /// Bytes that could be reclaimed quickly without input or output.
    pub const CACHES: u16 = 7;
    /// Successful allocations of huge pages.
    pub const HTLB_PGALLOC: u16 = 8;
    /// Failed allocations of huge pages.
    pub const HTLB_PGFAIL: u16 = 9;
    /// Invocations of the out-of-memory killer.
    pub const OOM_KILL: u16 = 10;
    /// Allocations that had to wait for memory.
    pub const ALLOC_STALL: u16 = 11;
    /// Pages scanned asynchronously.
    pub const ASYNC_SCAN: u16 = 12;
    /// Pages scanned directly.
    pub const DIRECT_SCAN: u16 = 13;
    /// Pages reclaimed asynchronously.
    pub const ASYNC_RECLAIM: u16 = 14;
    /// Pages reclaimed directly.
    pub const DIRECT_RECLAIM: u16 = 15;
    /// Number of tags; they run from 0 without gaps.
    pub const COUNT: usize = 16;

    /// The names of the tags, in the order of their numbers.
    pub const NAMES: [&str; COUNT] = [
        "swap_in",
        "swap_out",
        "major_faults",
        "minor_faults",
        "free_memory",
        "total_memory",
        "available_memory",
        "disk_caches",
        "hugetlb_allocations",
        "hugetlb_failures",
        "oom_kills",
        "alloc_stalls",
        "async_scans",
        "direct_scans",
        "async_reclaims",
        "direct_reclaims",
    ];
}
