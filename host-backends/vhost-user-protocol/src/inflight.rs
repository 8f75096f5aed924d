//! Layouts of the in-flight record (the vhost-user document, "Inflight I/O tracking"): one region per queue, which the
//! back-end writes and which a front-end reads to know where a packed ring stands.
//!
//! Rule: layout only; what is stored when, and what of it is believed, is the business of either end.

use std::mem::offset_of;

/// Regions start at multiples of this, in bytes, as in libvhost-user.
pub const REGION_ALIGN: u64 = 64;
/// Value of the version field of an initialised region; 0 is one that nobody wrote yet.
pub const VERSION: u16 = 1;

/// Start of a split queue's region (`QueueRegionSplit`); an entry for each descriptor follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitRegion {
    /// Feature flags; none is defined.
    pub features: u64,
    /// [`VERSION`].
    pub version: u16,
    /// Number of entries.
    pub desc_num: u16,
    /// Head of the list of entries that the last batch made used.
    pub last_batch_head: u16,
    /// The used index.
    pub used_idx: u16,
}

/// What a split queue's region says of one head (`DescStateSplit`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitEntry {
    /// 1 while the chain is in flight.
    pub inflight: u8,
    padding: [u8; 5],
    /// Next head of the last batch.
    pub next: u16,
    /// Rises with each chain taken.
    pub counter: u64,
}

/// Start of a packed queue's region (`QueueRegionPacked`); an entry for each descriptor follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackedRegion {
    /// Feature flags; none is defined.
    pub features: u64,
    /// [`VERSION`].
    pub version: u16,
    /// Number of entries.
    pub desc_num: u16,
    /// Head of the list of free entries.
    pub free_head: u16,
    /// The same before the last batch.
    pub old_free_head: u16,
    /// Where the ring stands, and where it stood before the last batch.
    pub used: PackedUsed,
    padding: [u8; 8],
}

/// `used_idx`, `old_used_idx` and their wrap counters: eight bytes at a multiple of eight, so that one store changes them
/// together and no death of the writer separates a slot from its lap.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackedUsed {
    /// Slot behind the last used descriptor.
    pub used_idx: u16,
    /// The same before the last batch.
    pub old_used_idx: u16,
    /// Wrap counter of `used_idx`.
    pub used_wrap_counter: u8,
    /// Wrap counter of `old_used_idx`.
    pub old_used_wrap_counter: u8,
}

/// What a packed queue's region says of one descriptor (`DescStatePacked`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackedEntry {
    /// 1 in the first entry of a chain in flight.
    pub inflight: u8,
    padding: u8,
    /// Next entry of the chain or of the free list.
    pub next: u16,
    /// Last entry of the chain.
    pub last: u16,
    /// Entries of the chain.
    pub num: u16,
    /// Rises with each chain taken.
    pub counter: u64,
    /// `id` of the ring's descriptor.
    pub id: u16,
    /// `flags` of the ring's descriptor.
    pub flags: u16,
    /// `len` of the ring's descriptor.
    pub len: u32,
    /// `addr` of the ring's descriptor.
    pub addr: u64,
}

const _: () = {
    assert!(size_of::<SplitRegion>() == 16 && size_of::<SplitEntry>() == 16);
    assert!(size_of::<PackedRegion>() == 32 && size_of::<PackedEntry>() == 32);
    assert!(size_of::<PackedUsed>() == size_of::<u64>());
    // Whoever clears the version need not know the format.
    assert!(offset_of!(SplitRegion, version) == offset_of!(PackedRegion, version));
};

/// Offset of the version field in a region of either format.
pub const VERSION_OFFSET: usize = offset_of!(SplitRegion, version);

impl SplitRegion {
    /// Bytes of a region with `entries` entries, up to the next one.
    pub const fn bytes(entries: u16) -> u64 {
        bytes(size_of::<Self>(), size_of::<SplitEntry>(), entries)
    }

    /// Offset of an entry.
    #[inline]
    pub const fn entry(index: u16) -> usize {
        size_of::<Self>() + index as usize * size_of::<SplitEntry>()
    }
}

impl PackedRegion {
    /// Bytes of a region with `entries` entries, up to the next one.
    pub const fn bytes(entries: u16) -> u64 {
        bytes(size_of::<Self>(), size_of::<PackedEntry>(), entries)
    }

    /// Offset of an entry.
    #[inline]
    pub const fn entry(index: u16) -> usize {
        size_of::<Self>() + index as usize * size_of::<PackedEntry>()
    }
}

const fn bytes(header: usize, entry: usize, entries: u16) -> u64 {
    (header as u64 + entries as u64 * entry as u64).next_multiple_of(REGION_ALIGN)
}

impl PackedUsed {
    /// As one word of memory.
    #[inline]
    pub const fn to_word(self) -> u64 {
        let [u0, u1] = self.used_idx.to_ne_bytes();
        let [o0, o1] = self.old_used_idx.to_ne_bytes();
        let wraps = [self.used_wrap_counter, self.old_used_wrap_counter];
        u64::from_ne_bytes([u0, u1, o0, o1, wraps[0], wraps[1], 0, 0])
    }

    /// From one word of memory.
    #[inline]
    pub const fn from_word(word: u64) -> Self {
        let [u0, u1, o0, o1, wrap, old_wrap, _, _] = word.to_ne_bytes();
        Self {
            used_idx: u16::from_ne_bytes([u0, u1]),
            old_used_idx: u16::from_ne_bytes([o0, o1]),
            used_wrap_counter: wrap,
            old_used_wrap_counter: old_wrap,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_document_puts_them() {
        assert_eq!(VERSION_OFFSET, 8);
        let split = [
            offset_of!(SplitRegion, desc_num),
            offset_of!(SplitRegion, last_batch_head),
            offset_of!(SplitRegion, used_idx),
            offset_of!(SplitEntry, inflight),
            offset_of!(SplitEntry, next),
            offset_of!(SplitEntry, counter),
        ];
        assert_eq!(split, [10, 12, 14, 0, 6, 8]);
        let packed = [
            offset_of!(PackedRegion, desc_num),
            offset_of!(PackedRegion, free_head),
            offset_of!(PackedRegion, old_free_head),
            offset_of!(PackedRegion, used),
            offset_of!(PackedUsed, old_used_idx),
            offset_of!(PackedUsed, used_wrap_counter),
            offset_of!(PackedUsed, old_used_wrap_counter),
        ];
        assert_eq!(packed, [10, 12, 14, 16, 2, 4, 5]);
        let entry = [
            offset_of!(PackedEntry, inflight),
            offset_of!(PackedEntry, next),
            offset_of!(PackedEntry, last),
            offset_of!(PackedEntry, num),
            offset_of!(PackedEntry, counter),
            offset_of!(PackedEntry, id),
            offset_of!(PackedEntry, flags),
            offset_of!(PackedEntry, len),
            offset_of!(PackedEntry, addr),
        ];
        assert_eq!(entry, [0, 2, 4, 6, 8, 16, 18, 20, 24]);
    }

    #[test]
    fn regions_start_at_multiples_of_their_alignment() {
        assert_eq!(SplitRegion::bytes(256), 16 + 256 * 16 + 48);
        assert_eq!(PackedRegion::bytes(128), 32 + 128 * 32 + 32);
        assert_eq!(PackedRegion::bytes(u16::MAX) % REGION_ALIGN, 0);
        assert_eq!(
            (SplitRegion::entry(2), PackedRegion::entry(2)),
            (16 + 32, 32 + 64)
        );
    }

    #[test]
    fn used_positions_are_one_word() {
        let used = PackedUsed {
            used_idx: 5,
            old_used_idx: 0x1234,
            used_wrap_counter: 0,
            old_used_wrap_counter: 1,
        };
        assert_eq!(PackedUsed::from_word(used.to_word()), used);
        let bytes = used.to_word().to_ne_bytes();
        assert_eq!(bytes[4..], [0, 1, 0, 0]);
        assert_eq!(u16::from_ne_bytes([bytes[2], bytes[3]]), 0x1234);
    }
}
