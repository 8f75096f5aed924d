//! Which slots are in use, and for what.
//!
//! Rule: a slot is free, or belongs to exactly one chain on the ring. The device names chains by id; an id leads to a slot only through
//! this private table.
use alloc::vec::Vec;

#[derive(Debug)]
struct Slot<T> {
    /// What is out; `None` while the slot is free.
    item: Option<T>,
    /// By ring id, not by slot: the slot whose chain has this id.
    by_id: Option<u16>,
}

/// The slots of one queue.
#[derive(Debug)]
pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u16>,
}

impl<T> Table<T> {
    pub(crate) fn new(size: u16) -> Self {
        Self {
            slots: (0..size)
                .map(|_| Slot {
                    item: None,
                    by_id: None,
                })
                .collect(),
            free: (0..size).rev().collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// A free slot, which stays free.
    #[inline]
    pub(crate) fn next_free(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Fills the slot that [`Table::next_free`] named, for the chain `id`; gives the item back when the ring lends an id twice, which it
    /// never does.
    #[inline]
    pub(crate) fn fill(&mut self, id: u16, item: T) -> Result<(), T> {
        let Some(&slot) = self.free.last() else {
            return Err(item);
        };
        match self.slots.get_mut(usize::from(id)) {
            Some(entry) if entry.by_id.is_none() => entry.by_id = Some(slot),
            _ => return Err(item),
        }
        self.free.pop();
        if let Some(entry) = self.slots.get_mut(usize::from(slot)) {
            entry.item = Some(item);
        }
        Ok(())
    }

    /// The item and the slot of a chain that came back.
    #[inline]
    pub(crate) fn take(&mut self, id: u16) -> Option<(u16, T)> {
        let slot = self.slots.get_mut(usize::from(id))?.by_id.take()?;
        let item = self.slots.get_mut(usize::from(slot))?.item.take()?;
        self.free.push(slot);
        Some((slot, item))
    }

    /// Any item that is still out: after a reset, when no chain comes back any more.
    pub(crate) fn abandon_one(&mut self) -> Option<T> {
        let id = self.slots.iter().position(|slot| slot.by_id.is_some())?;
        let (_, item) = self.take(u16::try_from(id).ok()?)?;
        Some(item)
    }
}
