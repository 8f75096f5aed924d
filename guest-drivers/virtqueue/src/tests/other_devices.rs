//! Our driver half against the device half of the `virtio-queue` crate.
//!
//! One rule: the two share nothing but guest memory.

use core::ptr::NonNull;
use std::collections::VecDeque;
use std::vec::Vec;

use virtio_queue::Queue;
use virtio_queue::QueueT;
use vm_memory::GuestAddress;
use vm_memory::GuestMemoryBackend;
use vm_memory::GuestMemoryMmap;
use vm_memory::GuestMemoryRegion;
use vm_memory::MemoryRegionAddress;

use super::config;
use crate::DriverQueue;
use crate::Format;
use crate::QueueConfig;
use crate::RingMemory;
use crate::Rings;
use crate::Segment;

const GUEST: GuestAddress = GuestAddress(0x4000_0000);
const LENGTH: usize = 1 << 20;
const AREA: u64 = 0x1_0000;
const TABLES: u64 = 4 * AREA;

struct World {
    memory: GuestMemoryMmap<()>,
    driver: DriverQueue,
    device: Queue,
}

fn span(memory: &GuestMemoryMmap<()>, offset: u64, len: usize) -> RingMemory {
    let region = memory.iter().next().unwrap();
    let host = region
        .get_host_address(MemoryRegionAddress(offset))
        .unwrap();
    assert!(offset as usize + len <= LENGTH);
    let ptr = NonNull::new(host).unwrap();
    #[expect(unsafe_code, reason = "makes guest memory a span")]
    // SAFETY: the mapping outlives the queues: both are in one `World`.
    unsafe {
        RingMemory::new(ptr, len)
    }
}

impl World {
    fn new(config: QueueConfig) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GUEST, LENGTH)]).unwrap();
        let area = |at| span(&memory, at * AREA, AREA as usize);
        let rings = Rings {
            descriptors: area(0),
            driver: area(1),
            device: area(2),
        };
        let driver = DriverQueue::new(config, rings).unwrap();
        let mut device = Queue::new(config.size).unwrap();
        let address = |at: u64| Some((GUEST.0 + at * AREA) as u32);
        device.set_size(config.size);
        device.set_desc_table_address(address(0), Some(0));
        device.set_avail_ring_address(address(1), Some(0));
        device.set_used_ring_address(address(2), Some(0));
        device.set_event_idx(config.event_idx);
        device.set_ready(true);
        assert!(device.is_valid(&memory));
        Self {
            memory,
            driver,
            device,
        }
    }

    fn add(&mut self, serial: u32, indirect: bool) -> u16 {
        let readable = [Segment {
            addr: GUEST.0,
            len: 1 + serial % 7,
        }];
        let writable = [Segment {
            addr: GUEST.0 + 64,
            len: 1 + serial % 5,
        }; 2];
        let table = indirect.then(|| {
            let offset = TABLES + u64::from(serial % 256) * 64;
            (span(&self.memory, offset, 64), GUEST.0 + offset)
        });
        self.driver.add(&readable, &writable, table).unwrap()
    }

    /// Takes all chains as the other crate sees them, checks them and returns their heads.
    fn take(&mut self, first_serial: u32) -> Vec<u16> {
        let mut heads = Vec::new();
        let mut serial = first_serial;
        while let Some(chain) = self.device.pop_descriptor_chain(&self.memory) {
            heads.push(chain.head_index());
            let seen: Vec<_> = chain
                .map(|part| (part.len(), part.is_write_only()))
                .collect();
            let (read, write) = (1 + serial % 7, 1 + serial % 5);
            assert_eq!(seen, [(read, false), (write, true), (write, true)]);
            serial += 1;
        }
        heads
    }
}

fn run(config: QueueConfig, indirect: bool, rounds: u32) {
    let mut world = World::new(config);
    let mut serial = 0;
    for round in 0..rounds {
        let batch = 1 + round % if indirect { u32::from(config.size) } else { 2 };
        let ids: Vec<u16> = (0..batch)
            .map(|at| world.add(serial + at, indirect))
            .collect();
        let armed = round % 3 == 0;
        if armed {
            assert!(!world.device.enable_notification(&world.memory).unwrap());
        } else {
            world.device.disable_notification(&world.memory).unwrap();
        }
        let notify = world.driver.publish();
        assert!(notify || !armed, "the device sleeps and is not told");
        let mut heads: VecDeque<u16> = world.take(serial).into();
        assert_eq!(heads, ids);
        assert!(!world.driver.arm());
        heads.rotate_left(round as usize % heads.len());
        for head in &heads {
            world
                .device
                .add_used(&world.memory, *head, 1 + u32::from(head % 2))
                .unwrap();
        }
        assert!(world.device.needs_notification(&world.memory).unwrap());
        for head in heads {
            let used = world.driver.pop().unwrap().unwrap();
            assert_eq!((used.id, used.written), (head, 1 + u32::from(head % 2)));
        }
        assert_eq!(world.driver.pop(), Ok(None));
        serial += batch;
    }
    assert_eq!(world.driver.free_descriptors(), config.size);
    assert!(serial > 1000);
}

#[test]
fn the_virtio_queue_crate_serves_our_driver_half() {
    for event_idx in [false, true] {
        for indirect in [false, true] {
            for size in [8, 256] {
                let config = QueueConfig {
                    event_idx,
                    indirect,
                    ..config(Format::Split, size)
                };
                run(config, indirect, 1000);
            }
        }
    }
}

#[test]
fn the_virtio_queue_crate_and_we_pass_the_wrap_of_the_index() {
    let config = QueueConfig {
        event_idx: true,
        ..config(Format::Split, 8)
    };
    run(config, false, 50_000);
}
