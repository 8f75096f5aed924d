//! Tests of both halves, against each other, against hostile peers and against other crates.
//!
//! One rule: tests reach shared memory through [`Arena`] only.

mod both_halves;
mod give_back;
mod hostile_device;
mod hostile_driver;
mod other_devices;
mod other_drivers;
mod threads;

use std::boxed::Box;
use std::vec;
use std::vec::Vec;

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use crate::Area;
use crate::Format;
use crate::PeerMemory;
use crate::QueueConfig;
use crate::RingMemory;
use crate::Rings;
use crate::memory::Cell;
use crate::memory::Word;

/// Device address of the first byte of an arena.
pub const BASE: u64 = 0x1000_0000;

/// Bytes for indirect tables behind the ring.
const TABLES: usize = 64 * 1024;

/// Zeroed memory that holds a ring and room for indirect tables, as a peer's address space.
#[derive(Debug)]
pub struct Arena {
    memory: RingMemory,
    pub rings: Rings,
    tables: usize,
    _owner: Box<[u128]>,
}

impl Arena {
    pub fn new(config: &QueueConfig) -> Self {
        let layout = config.layout();
        let mut end = 0;
        let mut place = |area: Area| {
            let at = end;
            end = (at + area.size).next_multiple_of(64);
            (at, area.size)
        };
        let areas = [
            place(layout.descriptors),
            place(layout.driver),
            place(layout.device),
        ];
        let mut owner = vec![0_u128; (end + TABLES) / 16].into_boxed_slice();
        let memory = span(&mut owner);
        let part = |(at, size)| memory.subspan(at, size).expect("inside");
        let rings = Rings {
            descriptors: part(areas[0]),
            driver: part(areas[1]),
            device: part(areas[2]),
        };
        Self {
            memory,
            rings,
            tables: end,
            _owner: owner,
        }
    }

    /// The `index`th place for an indirect table of up to 64 entries.
    pub fn table(&self, index: u16) -> (RingMemory, u64) {
        let at = self.tables + usize::from(index) * 1024;
        (
            self.memory.subspan(at, 1024).expect("inside"),
            BASE + at as u64,
        )
    }
}

impl PeerMemory for Arena {
    fn span(&self, addr: u64, len: usize) -> Option<RingMemory> {
        let offset = usize::try_from(addr.checked_sub(BASE)?).ok()?;
        self.memory.subspan(offset, len)
    }
}

#[expect(unsafe_code, reason = "makes test memory a span")]
fn span(owner: &mut Box<[u128]>) -> RingMemory {
    let len = owner.len() * 16;
    let ptr = NonNull::new(owner.as_mut_ptr()).expect("not null").cast();
    // SAFETY: the arena keeps the allocation and accesses it through spans only.
    unsafe { RingMemory::new(ptr, len) }
}

pub fn poke<T: Word>(memory: &RingMemory, offset: usize, value: T) {
    Cell::new(memory, offset)
        .expect("inside and aligned")
        .store(value, Ordering::SeqCst);
}

pub fn peek<T: Word>(memory: &RingMemory, offset: usize) -> T {
    Cell::new(memory, offset)
        .expect("inside and aligned")
        .load(Ordering::SeqCst)
}

pub fn config(format: Format, size: u16) -> QueueConfig {
    QueueConfig {
        size,
        format,
        event_idx: false,
        indirect: true,
        in_order: false,
    }
}

/// Every combination of format and features for queues of `size`.
pub fn all_configs(size: u16) -> Vec<QueueConfig> {
    let mut configs = Vec::new();
    for format in [Format::Split, Format::Packed] {
        for bits in 0..8 {
            configs.push(QueueConfig {
                size,
                format,
                event_idx: bits & 1 != 0,
                indirect: bits & 2 != 0,
                in_order: bits & 4 != 0,
            });
        }
    }
    configs
}

/// A copy of all bytes of a span.
pub fn bytes(memory: &RingMemory) -> Vec<u8> {
    let mut copy = vec![0; memory.len()];
    assert!(memory.read(0, &mut copy));
    copy
}

#[test]
fn copies_reach_exactly_the_bytes_named() {
    let arena = Arena::new(&config(Format::Split, 4));
    let (memory, _) = arena.table(0);
    let data: Vec<u8> = (1..=40).collect();
    for offset in 0..17 {
        for len in 0..=data.len() {
            memory.zero();
            assert!(memory.write(offset, &data[..len]));
            let mut expected = vec![0; memory.len()];
            expected[offset..offset + len].copy_from_slice(&data[..len]);
            assert_eq!(bytes(&memory), expected);
            let mut back = vec![0xff; len];
            assert!(memory.read(offset, &mut back));
            assert_eq!(back, data[..len]);
        }
    }
    for (offset, len) in [(1024, 1), (1017, 8), (usize::MAX, 1), (usize::MAX - 3, 8)] {
        assert!(!memory.read(offset, &mut vec![0; len]));
        assert!(!memory.write(offset, &vec![0; len]));
    }
    assert!(memory.read(1024, &mut []));
}
