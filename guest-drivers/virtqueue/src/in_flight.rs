//! What a half remembers of the chains between it and the peer, by id.
//!
//! One rule: this is private memory. Ids from the peer are looked up here before they mean
//! anything.

use alloc::boxed::Box;
use alloc::vec;

use crate::error::RingError;

/// One id. `descriptors == 0` means it is not in flight.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slot {
    /// Ring descriptors the chain occupies.
    pub(crate) descriptors: u16,
    /// In-order device: the chain is completed and `written` holds.
    done: bool,
    /// Bytes of the writable part.
    pub(crate) writable: u32,
    /// In-order device: bytes written. Driver: position in the order of adding.
    pub(crate) written: u32,
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
    slots: Box<[Slot]>,
    /// In-order only: ids in the order of taking, a ring from `oldest` on.
    order: Box<[u16]>,
    oldest: usize,
    ordered: usize,
}

impl InFlight {
    pub(crate) fn new(size: u16, in_order: bool) -> Self {
        let order = if in_order { usize::from(size) } else { 0 };
        Self {
            slots: vec![Slot::default(); usize::from(size)].into_boxed_slice(),
            order: vec![0; order].into_boxed_slice(),
            oldest: 0,
            ordered: 0,
        }
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

    /// Remembers a taken chain; `id` passed [`InFlight::check_free`].
    #[inline]
    pub(crate) fn begin(&mut self, id: u16, descriptors: u16, writable_bytes: u64) {
        let writable = u32::try_from(writable_bytes).unwrap_or(u32::MAX);
        if let Some(slot) = self.slots.get_mut(usize::from(id)) {
            *slot = Slot {
                descriptors,
                done: false,
                writable,
                written: 0,
            };
        }
        let length = self.order.len();
        if length != 0 {
            let at = wrap(self.oldest + self.ordered, length);
            if let Some(place) = self.order.get_mut(at) {
                *place = id;
                self.ordered += 1;
            }
        }
    }

    /// Forgets a chain; returns its descriptors and `written` cut to the writable part.
    #[inline]
    pub(crate) fn end(&mut self, id: u16, written: u32) -> Result<(u16, u32), RingError> {
        let slot = self.live(id)?;
        let result = (slot.descriptors, written.min(slot.writable));
        slot.descriptors = 0;
        Ok(result)
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

    /// In-order: how many chains [`InFlight::pop_done`] would return.
    pub(crate) fn done(&self) -> usize {
        let is_done = |&at: &usize| {
            let id = self.order.get(wrap(self.oldest + at, self.order.len()));
            id.and_then(|&id| self.slots.get(usize::from(id)))
                .is_some_and(|slot| slot.done)
        };
        (0..self.ordered).take_while(is_done).count()
    }
}

/// `at`, below twice `length`, brought below `length`.
#[inline]
fn wrap(at: usize, length: usize) -> usize {
    if at >= length { at - length } else { at }
}
