//! Places for chains: each has its part of the queue's DMA memory.
//!
//! Rule: a slot is in the list of free ones, with who claimed it, or in flight with its chain; it cannot be copied, so never in two.
use alloc::vec::Vec;

use fallible_alloc::FallibleVec;
use fallible_alloc::OutOfMemory;

/// A place for one chain. Made with its queue and got by [`crate::SlotQueue::claim`] only, so that its number is always in range.
#[derive(Debug, PartialEq, Eq)]
pub struct Slot(u16);

impl Slot {
    /// Its number, below the slots of its queue.
    #[inline]
    pub fn index(&self) -> usize {
        usize::from(self.0)
    }
}

/// The free slots of a queue.
#[derive(Debug)]
pub(crate) struct FreeSlots {
    free: Vec<Slot>,
}

impl FreeSlots {
    pub(crate) fn new(count: u16) -> Result<Self, OutOfMemory> {
        let mut free = Vec::with_room(count.into())?;
        for number in (0..count).rev() {
            free.push_growing(Slot(number))?;
        }
        Ok(Self { free })
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.free.len()
    }

    #[inline]
    pub(crate) fn claim(&mut self) -> Option<Slot> {
        self.free.pop()
    }

    /// Takes a slot back; there is room because it came from here.
    #[inline]
    pub(crate) fn release(&mut self, slot: Slot) {
        let lost = self.free.push_in_room(slot).err();
        debug_assert!(lost.is_none(), "a slot of another queue was released");
    }
}
