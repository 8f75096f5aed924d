//! Which slots are in use, and for what.
//!
//! Rule: a slot is free, or belongs to exactly one chain on the ring, or is the head slot of a request whose other chains are still out.
//! The device names chains by id; an id leads to a slot only through this private table.
use alloc::vec::Vec;

use driver_platform::Direction;

use crate::error::RequestError;
use crate::request::Operation;

/// What is left of a range request after the part that is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RangeRest {
    pub(crate) request_type: u32,
    pub(crate) sector: u64,
    pub(crate) sectors: u64,
    pub(crate) per_request: u32,
    pub(crate) flags: u32,
}

/// A range of sectors to discard or zero.
pub(crate) struct RangeOf {
    pub(crate) sector: u64,
    pub(crate) sectors: u64,
    pub(crate) per_request: u32,
    pub(crate) flags: u32,
}

/// What of a range was issued, and what is left.
pub(crate) struct RangePart {
    pub(crate) rest: Option<RangeRest>,
    pub(crate) ok: bool,
}

/// A request that is under way; lives in its head slot.
#[derive(Debug)]
pub(crate) struct Pending<B> {
    pub(crate) cookie: u64,
    pub(crate) operation: Operation,
    pub(crate) buffer: Option<B>,
    pub(crate) mapped: Option<Direction>,
    pub(crate) serial: bool,
    pub(crate) rest: Option<RangeRest>,
    pub(crate) chains: u16,
    pub(crate) error: Option<RequestError>,
}

#[derive(Debug)]
struct Slot<B> {
    /// The slot that holds the request.
    head: u16,
    pending: Option<Pending<B>>,
}

/// The slots of one queue.
#[derive(Debug)]
pub(crate) struct Table<B> {
    slots: Vec<Slot<B>>,
    free: Vec<u16>,
    /// By ring id: the slot whose chain has it.
    by_id: Vec<Option<u16>>,
}

impl<B> Table<B> {
    pub(crate) fn new(size: u16) -> Self {
        Self {
            slots: (0..size)
                .map(|_| Slot {
                    head: 0,
                    pending: None,
                })
                .collect(),
            free: (0..size).rev().collect(),
            by_id: (0..size).map(|_| None).collect(),
        }
    }

    pub(crate) fn free_slots(&self) -> usize {
        self.free.len()
    }

    /// Takes a slot for a request's first chain, or with `head` for a further one.
    pub(crate) fn take(&mut self, head: Option<u16>) -> Option<u16> {
        let slot = self.free.pop()?;
        let entry = self.slots.get_mut(usize::from(slot))?;
        entry.head = head.unwrap_or(slot);
        Some(slot)
    }

    /// Gives a slot back.
    pub(crate) fn release(&mut self, slot: u16) {
        self.free.push(slot);
    }

    pub(crate) fn set_pending(&mut self, head: u16, pending: Pending<B>) {
        if let Some(slot) = self.slots.get_mut(usize::from(head)) {
            slot.pending = Some(pending);
        }
    }

    pub(crate) fn head_of(&self, slot: u16) -> Option<u16> {
        self.slots.get(usize::from(slot)).map(|slot| slot.head)
    }

    pub(crate) fn pending(&mut self, head: u16) -> Option<&mut Pending<B>> {
        self.slots.get_mut(usize::from(head))?.pending.as_mut()
    }

    /// Ends a request and frees its head slot.
    pub(crate) fn finish(&mut self, head: u16) -> Option<Pending<B>> {
        let pending = self.slots.get_mut(usize::from(head))?.pending.take()?;
        self.free.push(head);
        Some(pending)
    }

    /// Notes which slot's chain has `id`; `false` when the ring lends an id twice, which it never does.
    pub(crate) fn lend(&mut self, id: u16, slot: u16) -> bool {
        match self.by_id.get_mut(usize::from(id)) {
            Some(entry) if entry.is_none() => {
                *entry = Some(slot);
                true
            }
            _ => false,
        }
    }

    /// The slot of a chain that came back.
    pub(crate) fn returned(&mut self, id: u16) -> Option<u16> {
        self.by_id.get_mut(usize::from(id))?.take()
    }

    /// Any request that is still under way, with all its slots freed: after a reset, when no chain comes back any more.
    pub(crate) fn abandon_one(&mut self) -> Option<Pending<B>> {
        let head = self.slots.iter().position(|slot| slot.pending.is_some())?;
        let head = u16::try_from(head).ok()?;
        for id in 0..self.by_id.len() {
            let slot = self.by_id.get(id).copied().flatten();
            if let Some(slot) = slot.filter(|&slot| self.head_of(slot) == Some(head)) {
                if let Some(entry) = self.by_id.get_mut(id) {
                    *entry = None;
                }
                if slot != head {
                    self.release(slot);
                }
            }
        }
        self.finish(head)
    }
}
