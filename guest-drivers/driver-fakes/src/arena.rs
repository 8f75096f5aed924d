//! Memory that device and driver share, with an owner for every byte.
//!
//! Rule: what is not allocated now is out of the device's reach, is filled with [`FREED`], and is not used again at once.
#![expect(unsafe_code, reason = "RingMemory is made from a raw pointer")]
use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use virtqueue::PeerMemory;
use virtqueue::RingMemory;

/// Fills memory that was given back.
pub(crate) const FREED: u8 = 0xdb;
/// Bytes between two areas, so that an overrun meets nobody's memory.
const GAP: usize = 64;

#[derive(Debug)]
struct Area {
    start: usize,
    len: usize,
}

#[derive(Debug)]
struct State {
    /// Sorted by start.
    live: Vec<Area>,
    cursor: usize,
    faults: u64,
}

/// An arena of shared memory; clones share it.
#[derive(Clone, Debug)]
pub struct Arena {
    memory: RingMemory,
    base: u64,
    state: Arc<Mutex<State>>,
    /// Keeps the memory alive.
    _owner: Arc<dyn Any + Send + Sync>,
}

#[derive(Debug)]
struct Owner(Box<[u64]>);

impl Arena {
    /// An arena of its own, `len` bytes at device address `base`.
    pub fn new(len: usize, base: u64) -> Self {
        let words = len.div_ceil(8);
        let mut owner = Owner(vec![0; words].into_boxed_slice());
        let start = NonNull::from(&mut *owner.0).cast::<u8>();
        // SAFETY: the words live in a heap block that `_owner` keeps as long as the arena or a clone exists, nobody else looks at
        // them, and whatever holds a span (queues, the fake device) holds a clone too.
        let memory = unsafe { RingMemory::new(start, words * 8) };
        Self::over(memory, base, Arc::new(owner))
    }

    /// An arena over memory that `owner` keeps alive, at device address `base`.
    pub fn over(memory: RingMemory, base: u64, owner: Arc<dyn Any + Send + Sync>) -> Self {
        let state = State {
            live: Vec::new(),
            cursor: 0,
            faults: 0,
        };
        Self {
            memory,
            base,
            state: Arc::new(Mutex::new(state)),
            _owner: owner,
        }
    }

    /// Takes `len` bytes, all of them `fill`. `None` when there is no room.
    pub fn allocate(&self, len: usize, align: usize, fill: u8) -> Option<(RingMemory, u64)> {
        let mut state = self.state();
        let start = state.place(len, align, self.memory.len())?;
        let index = state.live.partition_point(|area| area.start < start);
        state.live.insert(index, Area { start, len });
        state.cursor = start + len + GAP;
        let span = self.memory.subspan(start, len)?;
        span.write(0, &vec![fill; len]);
        Some((span, self.base + start as u64))
    }

    /// Gives an area back by its device address.
    ///
    /// # Panics
    /// When there is no such area: the driver gave back what it did not own, or twice.
    pub fn release(&self, addr: u64) {
        let mut state = self.state();
        let start = (addr - self.base) as usize;
        let index = state.live.iter().position(|area| area.start == start);
        assert!(
            index.is_some(),
            "release of {addr:#x}, which is not allocated"
        );
        let area = state.live.remove(index.unwrap_or(0));
        self.memory.write(area.start, &vec![FREED; area.len]);
    }

    /// Areas allocated now.
    pub fn live(&self) -> usize {
        self.state().live.len()
    }

    /// How often the device reached for memory that was not its own.
    pub fn faults(&self) -> u64 {
        self.state().faults
    }

    /// The device's view.
    pub fn device_memory(&self) -> DeviceMemory {
        DeviceMemory {
            arena: self.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The first place from the cursor on, then from the start, where `len` bytes and the gaps fit.
    fn place(&self, len: usize, align: usize, size: usize) -> Option<usize> {
        self.place_from(self.cursor, len, align, size)
            .or_else(|| self.place_from(0, len, align, size))
    }

    fn place_from(&self, from: usize, len: usize, align: usize, size: usize) -> Option<usize> {
        let mut start = from.next_multiple_of(align);
        for area in &self.live {
            if area.start + area.len + GAP <= start {
                continue;
            }
            if start + len + GAP <= area.start {
                break;
            }
            start = (area.start + area.len + GAP).next_multiple_of(align);
        }
        (start + len <= size).then_some(start)
    }
}

/// What the device can reach: areas allocated at this moment, each on its own.
#[derive(Clone, Debug)]
pub struct DeviceMemory {
    arena: Arena,
}

impl PeerMemory for DeviceMemory {
    fn span(&self, addr: u64, len: usize) -> Option<RingMemory> {
        let mut state = self.arena.state();
        let found = addr.checked_sub(self.arena.base).and_then(|start| {
            let start = usize::try_from(start).ok()?;
            let end = start.checked_add(len)?;
            let inside = state
                .live
                .iter()
                .any(|area| start >= area.start && end <= area.start + area.len);
            if inside {
                self.arena.memory.subspan(start, len)
            } else {
                None
            }
        });
        if found.is_none() {
            state.faults += 1;
        }
        found
    }
}
