//! What a device keeps in the file of the in-flight area, in front of the area: memory that the front-end holds and
//! hands to the next process that serves the device. One rule: a state counts when all of it is there, whenever its
//! writer died; and nothing read from here is believed unchecked.
//!
//! The document leaves open where in its file an area begins, and a front-end hands back what it was given, so that this
//! needs nothing of the front-end. One that moves the area into a file of its own (QEMU at a migration) loses the state,
//! not the area.

use crate::Error;
use guest_memory::SharedMemory;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// First bytes of a file with such a record; no other back-end's files have them.
const MAGIC: u64 = u64::from_le_bytes(*b"PVKEEP01");
/// Offset of the first of two slots.
const SLOTS: u64 = 64;
/// In a slot: how many states were written before and with it (0: it holds none), the state's bytes, the state.
const LENGTH: usize = 8;
const STATE: usize = 16;
/// The area begins at a multiple of this; front-ends map it.
const PAGE: u64 = 4096;
/// Most bytes in front of an area that are looked at.
const MAX_ROOM: u64 = 1 << 20;

/// The place for one device's state.
#[derive(Debug, Clone)]
pub struct DeviceRecord {
    memory: Arc<SharedMemory>,
    /// Bytes of one slot.
    slot: usize,
}

impl DeviceRecord {
    /// Bytes that a record of states up to `state` bytes takes; 0 for none.
    pub(crate) fn room(state: u32) -> u64 {
        if state == 0 {
            return 0;
        }
        let slot = (STATE as u64 + u64::from(state)).next_multiple_of(8);
        (SLOTS + 2 * slot).next_multiple_of(PAGE)
    }

    /// Marks the first `room` bytes of a new file as a record.
    pub(crate) fn create(fd: BorrowedFd<'_>, room: u64) -> Result<(), Error> {
        let memory = SharedMemory::from_fd(fd, 0, room)?;
        memory.store_u64(0, MAGIC, Ordering::Release);
        Ok(())
    }

    /// The record in front of an area that begins at `offset` of its file, if there is one.
    pub(crate) fn in_front(fd: BorrowedFd<'_>, offset: u64) -> Result<Option<Self>, Error> {
        if !offset.is_multiple_of(PAGE) || !(1..=MAX_ROOM).contains(&offset) {
            return Ok(None);
        }
        let memory = SharedMemory::from_fd(fd, 0, offset)?;
        if memory.load_u64(0, Ordering::Acquire) != MAGIC {
            return Ok(None);
        }
        let slot = ((offset - SLOTS) / 2) & !7;
        let slot = usize::try_from(slot).map_err(|_| Error::Record("area is too large"))?;
        let memory = Arc::new(memory);
        Ok(Some(Self { memory, slot }))
    }

    pub(crate) fn poisoned(&self) -> bool {
        self.memory.poisoned()
    }

    /// The state last kept, if any; anybody may have written it.
    pub fn load(&self) -> Option<Vec<u8>> {
        let (count, at) = self.newest();
        let len = self.memory.load_u64(at + LENGTH, Ordering::Relaxed);
        let len = usize::try_from(len).ok()?;
        if count == 0 || len > self.slot - STATE {
            return None;
        }
        let words = (0..len.next_multiple_of(8)).step_by(8);
        let mut state: Vec<u8> = words
            .flat_map(|word| {
                let word = self.memory.load_u64(at + STATE + word, Ordering::Relaxed);
                word.to_le_bytes()
            })
            .collect();
        state.truncate(len);
        Some(state)
    }

    /// Keeps `state` in place of the last. Not all at once, but it counts only when it is all there. `false` if there is
    /// no room for it; the last then stays.
    pub fn store(&self, state: &[u8]) -> bool {
        if state.len() > self.slot - STATE {
            return false;
        }
        let (count, newest) = self.newest();
        let [first, second] = self.slots();
        let at = if newest == first { second } else { first };
        self.memory.store_u64(at, 0, Ordering::Release);
        for (word, bytes) in (0..).step_by(8).zip(state.chunks(8)) {
            let mut padded = [0; 8];
            for (to, from) in padded.iter_mut().zip(bytes) {
                *to = *from;
            }
            let word_at = at + STATE + word;
            let word = u64::from_le_bytes(padded);
            self.memory.store_u64(word_at, word, Ordering::Relaxed);
        }
        let len = state.len() as u64;
        self.memory.store_u64(at + LENGTH, len, Ordering::Relaxed);
        let count = count.wrapping_add(1).max(1);
        self.memory.store_u64(at, count, Ordering::Release);
        true
    }

    /// Keeps nothing any more.
    pub fn clear(&self) {
        for slot in self.slots() {
            self.memory.store_u64(slot, 0, Ordering::Release);
        }
    }

    fn slots(&self) -> [usize; 2] {
        let first = SLOTS as usize;
        [first, first + self.slot]
    }

    /// How often something was kept, and the slot that holds it.
    fn newest(&self) -> (u64, usize) {
        let [first, second] = self.slots();
        let count = |slot| self.memory.load_u64(slot, Ordering::Acquire);
        match (count(first), count(second)) {
            (one, other) if other > one => (other, second),
            (one, _) => (one, first),
        }
    }
}

#[cfg(test)]
#[path = "device_record_tests.rs"]
mod tests;
