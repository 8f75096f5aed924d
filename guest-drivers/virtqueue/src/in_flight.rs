//! What a half remembers of the chains between it and the peer, by id.
//!
//! One rule: this is private memory. Ids from the peer are looked up here before they mean
//! anything.

use alloc::vec::Vec;

use fallible_alloc::FallibleVec;
use fallible_alloc::OutOfMemory;

use crate::error::RingError;

/// One id. `descriptors == 0` means it is not in flight.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Ring descriptors the chain occupies.
    descriptors: u16,
    /// In-order: the chain is completed and `written` holds.
    done: bool,
    /// Bytes of the writable part.
    writable: u32,
    /// In-order: bytes written.
    written: u32,
}

/// A completed chain in the order of taking.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) id: u16,
    pub(crate) descriptors: u16,
    pub(crate) written: u32,
    /// The whole writable part was written: in a batch its used entry may be left out.
    pub(crate) whole: bool,
}

/// Chains in flight of a device half.
#[derive(Debug)]
pub(crate) struct InFlight {
    slots: Vec<Slot>,
    in_order: bool,
    /// In-order: `ordered` ids in the order of taking, a ring from `oldest` on. Otherwise: the ids
    /// completed since the last publish.
    order: Vec<u16>,
    oldest: usize,
    ordered: usize,
}

impl InFlight {
    pub(crate) fn new(size: u16, in_order: bool) -> Result<Self, OutOfMemory> {
        Ok(Self {
            slots: Vec::filled(size.into(), |_| Slot::default())?,
            in_order,
            order: Vec::filled(size.into(), |_| 0)?,
            oldest: 0,
            ordered: 0,
        })
    }

    /// Whether `id` can be taken.
    #[inline]
    pub(crate) fn check_free(&self, id: u16) -> Result<(), RingError> {
        match self.slots.get(usize::from(id)) {
            None => Err(RingError::IdOutOfRange),
            Some(slot) if slot.descriptors != 0 => Err(RingError::DuplicateId),
            Some(_) => Ok(()),
        }
    }

    /// Remembers a taken chain, if its id is free.
    #[inline]
    pub(crate) fn begin(
        &mut self,
        id: u16,
        descriptors: u16,
        writable_bytes: u64,
    ) -> Result<(), RingError> {
        let slot = self.slots.get_mut(usize::from(id));
        let slot = slot.ok_or(RingError::IdOutOfRange)?;
        if slot.descriptors != 0 {
            return Err(RingError::DuplicateId);
        }
        *slot = Slot {
            descriptors,
            done: false,
            writable: u32::try_from(writable_bytes).unwrap_or(u32::MAX),
            written: 0,
        };
        if self.in_order {
            self.append(id);
        }
        Ok(())
    }

    #[inline]
    fn append(&mut self, id: u16) {
        let at = wrap(self.oldest + self.ordered, self.order.len());
        if let Some(place) = self.order.get_mut(at) {
            *place = id;
            self.ordered += 1;
        }
    }

    /// Not in-order: forgets a chain; returns its descriptors and `written` cut to the writable part.
    #[inline]
    pub(crate) fn end(&mut self, id: u16, written: u32) -> Result<(u16, u32), RingError> {
        let slot = self.live(id)?;
        let result = (slot.descriptors, written.min(slot.writable));
        slot.descriptors = 0;
        self.append(id);
        Ok(result)
    }

    /// Forgets the chain taken last, as if it had not been; returns its descriptors.
    #[inline]
    pub(crate) fn untake(&mut self, id: u16) -> Result<u16, RingError> {
        if self.in_order {
            let newest = self.ordered.checked_sub(1);
            let at = newest.map(|newest| wrap(self.oldest + newest, self.order.len()));
            let place = at.and_then(|at| self.order.get(at));
            if place != Some(&id) {
                return Err(RingError::NotInFlight);
            }
        }
        let slot = self.live(id)?;
        let descriptors = slot.descriptors;
        *slot = Slot::default();
        if self.in_order {
            self.ordered -= 1;
        }
        Ok(descriptors)
    }

    /// In-order: marks a chain completed.
    #[inline]
    pub(crate) fn mark_done(&mut self, id: u16, written: u32) -> Result<(), RingError> {
        let slot = self.live(id)?;
        slot.done = true;
        slot.written = written.min(slot.writable);
        Ok(())
    }

    #[inline]
    fn live(&mut self, id: u16) -> Result<&mut Slot, RingError> {
        self.slots
            .get_mut(usize::from(id))
            .filter(|slot| slot.descriptors != 0 && !slot.done)
            .ok_or(RingError::NotInFlight)
    }

    /// In-order: forgets and returns the oldest chain, if it is completed.
    #[inline]
    pub(crate) fn pop_done(&mut self) -> Option<Done> {
        if self.ordered == 0 {
            return None;
        }
        let id = *self.order.get(self.oldest)?;
        let slot = self
            .slots
            .get_mut(usize::from(id))
            .filter(|slot| slot.done)?;
        let done = Done {
            id,
            descriptors: slot.descriptors,
            written: slot.written,
            whole: slot.written == slot.writable,
        };
        *slot = Slot::default();
        self.oldest = wrap(self.oldest + 1, self.order.len());
        self.ordered -= 1;
        Some(done)
    }

    /// Not in-order: what was completed is published.
    #[inline]
    pub(crate) fn published(&mut self) {
        self.ordered = 0;
    }

    /// The chains that are completed and not published, up to the first that must wait, with their
    /// descriptors when in-order.
    pub(crate) fn publishable(&self) -> impl Iterator<Item = (u16, u16)> {
        (0..self.ordered).map_while(|at| {
            let id = *self.order.get(wrap(self.oldest + at, self.order.len()))?;
            let slot = self.slots.get(usize::from(id))?;
            (!self.in_order || slot.done).then_some((id, slot.descriptors))
        })
    }
}

/// `at`, below twice `length`, brought below `length`.
#[inline]
fn wrap(at: usize, length: usize) -> usize {
    if at >= length { at - length } else { at }
}
