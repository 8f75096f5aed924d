//! Arithmetic of ring indices: the one place that compares them.
//!
//! One rule: indices are free-running and wrap; nowhere else does `<` or `>` meet one. The tests
//! prove each function against its definition over the whole range.

use virtio_spec::ring::descriptor_flags;

/// How far `to` is ahead of `from`, both free-running 16-bit indices (virtio 1.4 sec. 2.7.6).
#[inline]
pub const fn distance(from: u16, to: u16) -> u16 {
    to.wrapping_sub(from)
}

/// How many entries the peer put between `seen` (ours) and `published` (the peer's), or `None`
/// when they are more than `limit`: the index moved backwards or jumped.
#[inline]
pub const fn pending(seen: u16, published: u16, limit: u16) -> Option<u16> {
    let count = distance(seen, published);
    if count <= limit { Some(count) } else { None }
}

/// Whether `index` is one of the `count` indices from `first` on.
#[inline]
pub const fn within(index: u16, first: u16, count: u16) -> bool {
    distance(first, index) < count
}

/// Whether moving from `old` to `new` passed `event`, that is, whether the peer that wrote
/// `event` wants to know of an entry in `old .. new` (sec. 2.7.7.1, 2.7.10.1).
#[inline]
pub const fn need_event(event: u16, new: u16, old: u16) -> bool {
    distance(event, new).wrapping_sub(1) < distance(old, new)
}

/// The value of an event index that is not met for as long as possible, seen from `next`.
#[inline]
pub const fn never(next: u16) -> u16 {
    next.wrapping_sub(1)
}

/// A slot of a packed ring with the wrap counter it is reached with (sec. 2.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PackedPosition {
    slot: u16,
    wrap: bool,
}

impl PackedPosition {
    /// Where both sides start after a reset.
    pub const START: Self = Self {
        slot: 0,
        wrap: true,
    };

    const WRAP_BIT: u16 = 1 << 15;

    /// The position at `slot` with that wrap counter, in a ring of `size` slots; `None` when the ring has no such slot.
    #[inline]
    pub const fn new(slot: u16, wrap: bool, size: u16) -> Option<Self> {
        if slot < size {
            Some(Self { slot, wrap })
        } else {
            None
        }
    }

    /// Slot in the ring, below the queue size.
    #[inline]
    pub const fn slot(self) -> u16 {
        self.slot
    }

    /// Wrap counter.
    #[inline]
    pub const fn wrap(self) -> bool {
        self.wrap
    }

    /// The position `count` slots on; `count` is at most `size`, and `size` at most 32768.
    #[inline]
    pub const fn advance(self, count: u16, size: u16) -> Self {
        let slot = self.slot.wrapping_add(count);
        if slot >= size {
            Self {
                slot: slot.wrapping_sub(size),
                wrap: !self.wrap,
            }
        } else {
            Self {
                slot,
                wrap: self.wrap,
            }
        }
    }

    /// The position `count` slots back; `count` is at most `size`, and `size` at most 32768.
    #[inline]
    pub const fn retreat(self, count: u16, size: u16) -> Self {
        if self.slot >= count {
            Self {
                slot: self.slot - count,
                wrap: self.wrap,
            }
        } else {
            Self {
                slot: self.slot.wrapping_add(size).wrapping_sub(count),
                wrap: !self.wrap,
            }
        }
    }

    /// How many slots `to` is ahead, or `None` when it is behind or more than `size` ahead.
    #[inline]
    pub const fn distance(self, to: Self, size: u16) -> Option<u16> {
        if self.wrap == to.wrap {
            if to.slot >= self.slot {
                Some(to.slot - self.slot)
            } else {
                None
            }
        } else if to.slot <= self.slot {
            Some(size - self.slot + to.slot)
        } else {
            None
        }
    }

    /// Whether the flags of the descriptor at this position say that it waits for the device, in this lap (sec. 2.8.1).
    /// If not, the device has used it, and the driver may even have made it available again in the next lap.
    #[inline]
    pub const fn is_available(self, flags: u16) -> bool {
        let both = descriptor_flags::AVAIL | descriptor_flags::USED;
        let available = if self.wrap {
            descriptor_flags::AVAIL
        } else {
            descriptor_flags::USED
        };
        flags & both == available
    }

    /// As the event structure and the vring base hold it: slot, and wrap counter in bit 15.
    #[inline]
    pub const fn encode(self) -> u16 {
        self.slot | if self.wrap { Self::WRAP_BIT } else { 0 }
    }

    /// The position that `value` stands for in a ring of `size` slots, if it is one.
    #[inline]
    pub const fn decode(value: u16, size: u16) -> Option<Self> {
        let slot = value & !Self::WRAP_BIT;
        if slot < size {
            Some(Self {
                slot,
                wrap: value & Self::WRAP_BIT != 0,
            })
        } else {
            None
        }
    }

    /// Whether moving `moved` slots to `self` passed the position that the peer wrote as `event`
    /// (sec. 2.8.14). Any `event` is accepted.
    #[inline]
    pub const fn passed(self, event: u16, moved: u16, size: u16) -> bool {
        let slot = event & !Self::WRAP_BIT;
        let same_lap = (event & Self::WRAP_BIT != 0) == self.wrap;
        let event = if same_lap {
            slot
        } else {
            slot.wrapping_sub(size)
        };
        need_event(event, self.slot, self.slot.wrapping_sub(moved))
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
