//! The buffers that a frame for a guest is put into: one, or several of a guest that merges them.
//!
//! Rule: the guest chooses the size of its buffers, and the look for them is on a sender's time, so it is bounded by what
//! a frame can need and not by what the guest has posted.

use virtio_spec::net::ETHERNET_HEADER_SIZE;

use crate::path::inlet::Slot;
use crate::path::receive::Receiving;
use crate::path::receive::take;
use crate::path::receive::writable_bytes;

/// Most descriptors in several chains that one frame is spread over: the largest frame in parts of 32 bytes.
pub(crate) const MAX_PARTS: usize = 2048;

#[cfg(test)]
thread_local! {
    /// Descriptors that this thread looked at for room.
    pub(crate) static LOOKED_AT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// What a look for a frame's buffers found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// So many of the next chains.
    pub chains: usize,
    pub ended: Search,
}

/// Why a look for buffers ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Search {
    /// There is room for the frame.
    Enough,
    /// The guest has no more buffers now.
    Starved,
    /// A frame must not be spread over more buffers.
    Limit,
}

impl Receiving<'_> {
    /// Looks for chains with room for `len` bytes, header included: one if frames must not be spread, else as many as it
    /// takes. Takes more from the ring if need be, and gives useless ones back empty.
    ///
    /// No chain is counted more than twice, and no more than [`MAX_PARTS`] descriptors are looked at unless one chain has them.
    pub fn find_room(&mut self, len: usize) -> Room {
        let view = &self.slot.view;
        let mergeable = view.mergeable();
        let least = if mergeable {
            1
        } else {
            (view.header_size() + ETHERNET_HEADER_SIZE) as u64
        };
        let (mut chains, mut bytes, mut parts) = (0, 0, 0);
        let mut counted_again = false;
        let ended = loop {
            if bytes >= len as u64 {
                break Search::Enough;
            }
            if chains != 0 && !mergeable {
                break Search::Limit;
            }
            let Some(chain) = self.slot.batch.get(self.slot.next + chains) else {
                // What is held moves to the front, and the guest may have changed it there.
                let moves = self.slot.next != 0;
                if moves && chains != 0 && std::mem::replace(&mut counted_again, true)
                    || self.fetch() == 0
                {
                    break Search::Starved;
                }
                if moves {
                    (chains, bytes, parts) = (0, 0, 0);
                }
                continue;
            };
            let more = writable_bytes(&chain);
            parts += chain.writable.len();
            #[cfg(test)]
            LOOKED_AT.with(|looked| looked.set(looked.get() + chain.writable.len()));
            if chains == 0 && more < least {
                self.tally.bad_chains.add(1);
                self.use_chains(1, 0);
                parts = 0;
                continue;
            }
            if chains != 0 && parts > MAX_PARTS {
                break Search::Limit;
            }
            bytes += more;
            chains += 1;
        };
        Room { chains, ended }
    }

    /// Chains for a frame of up to `capacity` bytes with its header, as many as there are. `None` if there are none.
    pub fn gather_room(&mut self, capacity: usize) -> Option<Room> {
        self.slot.queue.as_ref()?;
        let room = self.find_room(capacity);
        (room.chains != 0).then_some(room)
    }

    /// Takes more chains, behind those that are held; returns how many.
    fn fetch(&mut self) -> usize {
        let slot = &mut *self.slot;
        if slot.next != 0 {
            // What is held moves to the front: by way of the ring, which has it at hand.
            let pending = slot.pending.take();
            slot.give_back();
            slot.pending = pending;
        }
        let Slot {
            queue: Some(queue),
            failed,
            batch,
            ..
        } = slot
        else {
            return 0;
        };
        let before = batch.len();
        take(queue, failed, batch);
        batch.len() - before
    }
}
