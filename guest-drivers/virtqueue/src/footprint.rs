//! What publishing writes to the ring, for a dirty log.
//!
//! One rule: ranges are byte offsets in the area named, and may be empty.

use core::ops::Range;

use virtio_spec::ring::PackedDescriptor;
use virtio_spec::ring::used;

/// The ring area that a [`Footprint`] lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WrittenArea {
    /// The descriptor area (packed ring).
    Descriptors,
    /// The device area (split ring).
    Device,
}

/// Bytes of the ring that a publish changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Footprint {
    /// Where they are.
    pub area: WrittenArea,
    /// Which they are, as offsets in the area.
    pub ranges: [Range<usize>; 3],
}

impl Footprint {
    pub(crate) fn used_ring(start: u16, count: usize, size: u16) -> Self {
        let [first, second] = around(start, count, size, used::RING, used::ENTRY_SIZE);
        let index = if count == 0 {
            0..0
        } else {
            used::IDX..used::RING
        };
        Self {
            area: WrittenArea::Device,
            ranges: [first, second, index],
        }
    }

    pub(crate) fn packed_ring(start: u16, count: usize, size: u16) -> Self {
        let [first, second] = around(start, count, size, 0, size_of::<PackedDescriptor>());
        Self {
            area: WrittenArea::Descriptors,
            ranges: [first, second, 0..0],
        }
    }
}

/// `count` entries from `start` on round a ring of `size`, as bytes.
fn around(start: u16, count: usize, size: u16, base: usize, entry: usize) -> [Range<usize>; 2] {
    let (start, size) = (usize::from(start), usize::from(size));
    let first = count.min(size - start);
    let bytes = |from: usize, count: usize| base + from * entry..base + (from + count) * entry;
    [bytes(start, first), bytes(0, count - first)]
}
