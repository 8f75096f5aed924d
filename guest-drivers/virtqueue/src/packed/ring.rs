//! Access to a packed ring, the same for both halves.
//!
//! One rule: the second word of a descriptor holds its length, id and flags and is always read and
//! written at once, so a half never sees flags without what they announce.

use core::sync::atomic::Ordering;

use virtio_spec::ring::descriptor_flags;
use virtio_spec::ring::event_flags;

use crate::config::QueueConfig;
use crate::handshake;
use crate::index::PackedPosition;
use crate::memory::Cell;
use crate::memory::Cells;
use crate::memory::Rings;

#[derive(Debug)]
pub(crate) struct PackedRing {
    words: Cells<u64>,
    pub(crate) driver_event: Cell<u32>,
    pub(crate) device_event: Cell<u32>,
    size: u16,
}

impl PackedRing {
    pub(crate) fn locate(config: &QueueConfig, rings: &Rings) -> Option<Self> {
        Some(Self {
            words: Cells::new(&rings.descriptors, 0, 2 * usize::from(config.size))?,
            driver_event: Cell::new(&rings.driver, 0)?,
            device_event: Cell::new(&rings.device, 0)?,
            size: config.size,
        })
    }

    #[inline]
    pub(crate) fn addr(&self, slot: u16) -> u64 {
        self.words.load(2 * usize::from(slot), Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn rest(&self, slot: u16, order: Ordering) -> u64 {
        self.words.load(2 * usize::from(slot) + 1, order)
    }

    #[inline]
    pub(crate) fn write_addr(&self, slot: u16, addr: u64) {
        self.words
            .store(2 * usize::from(slot), addr, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn write_rest(&self, slot: u16, rest: u64) {
        self.words
            .store(2 * usize::from(slot) + 1, rest, Ordering::Relaxed);
    }

    /// Makes the descriptor at `slot` visible, and with it all written before; returns whether the
    /// peer, whose wishes stand in `event`, wants to be told of the move of `moved` slots to `to`.
    #[inline]
    pub(crate) fn publish(
        &self,
        first: Staged,
        event: &Cell<u32>,
        to: PackedPosition,
        moved: u16,
    ) -> bool {
        let Some(place) = self.words.cell(2 * usize::from(first.slot) + 1) else {
            return true;
        };
        let event = handshake::publish(&place, first.rest, event);
        wants(event, to, moved, self.size)
    }

    /// Writes `wish` to our `event` and returns the word at `slot` after it.
    pub(crate) fn arm(&self, event: &Cell<u32>, wish: u32, slot: u16) -> u64 {
        match self.words.cell(2 * usize::from(slot) + 1) {
            Some(place) => handshake::arm(event, wish, &place),
            None => 0,
        }
    }
}

/// A descriptor written last: the peer sees everything behind it once it stands in the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Staged {
    pub(crate) slot: u16,
    pub(crate) rest: u64,
}

/// Whether the peer that wrote `wish` wants to be told of the move of `moved` slots to `to`
/// (sec. 2.8.10). The reserved value of the flags counts as yes.
#[inline]
pub(crate) fn wants(wish: u32, to: PackedPosition, moved: u16, size: u16) -> bool {
    match (wish >> 16) as u16 & event_flags::MASK {
        event_flags::DISABLE => false,
        event_flags::DESC => to.passed(wish as u16, moved, size),
        _ => true,
    }
}

/// Event structure asking for a notification at `position`, or for every one without `EVENT_IDX`
/// (sec. 2.8.10).
#[inline]
pub(crate) fn wish_for(position: PackedPosition, event_idx: bool) -> u32 {
    if event_idx {
        u32::from(position.encode()) | u32::from(event_flags::DESC) << 16
    } else {
        u32::from(event_flags::ENABLE) << 16
    }
}

/// Event structure asking for none.
pub(crate) const WISH_NONE: u32 = (event_flags::DISABLE as u32) << 16;

/// Flags of an available descriptor (sec. 2.8.1).
#[inline]
pub(crate) fn available_flags(wrap: bool) -> u16 {
    if wrap {
        descriptor_flags::AVAIL
    } else {
        descriptor_flags::USED
    }
}

/// Flags of a used descriptor (sec. 2.8.1).
#[inline]
pub(crate) fn used_flags(wrap: bool) -> u16 {
    if wrap {
        descriptor_flags::AVAIL | descriptor_flags::USED
    } else {
        0
    }
}

const BOTH: u16 = descriptor_flags::AVAIL | descriptor_flags::USED;

/// Whether the word shows a descriptor available in the lap of `wrap`.
#[inline]
pub(crate) fn is_available(rest: u64, wrap: bool) -> bool {
    (rest >> 48) as u16 & BOTH == available_flags(wrap)
}

/// Whether the word shows a descriptor used in the lap of `wrap`.
#[inline]
pub(crate) fn is_used(rest: u64, wrap: bool) -> bool {
    (rest >> 48) as u16 & BOTH == used_flags(wrap)
}
