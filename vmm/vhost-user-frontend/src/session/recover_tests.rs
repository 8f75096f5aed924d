//! Recovery of a queue's place from memory that anybody may have written. Rule: bad content gives an error.

use std::fs::File;
use std::sync::Arc;

use host_os::EventFd;
use vhost_user_protocol::Inflight;

use super::*;
use crate::session::Region;

const SIZE: u16 = 8;

struct Fixture {
    memory: Memory,
    ram: Arc<File>,
    area: InflightArea,
    queue: QueueSetup,
}

fn file(len: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    file
}

fn fixture() -> Fixture {
    let ram = Arc::new(file(0x4000));
    let region = Region {
        guest_addr: 0x10_0000,
        size: 0x4000,
        user_addr: 0x7000_0000,
        file: Arc::clone(&ram),
        offset: 0,
    };
    let event = || Arc::new(EventFd::new().unwrap());
    Fixture {
        memory: Memory::new(vec![region]).unwrap(),
        ram,
        area: InflightArea {
            description: Inflight {
                mmap_size: 0x1000,
                mmap_offset: 0x100,
                num_queues: 2,
                queue_size: SIZE,
                ..Inflight::default()
            },
            file: file(0x2000),
        },
        queue: QueueSetup {
            index: 1,
            size: SIZE,
            descriptors: 0x10_0000,
            driver: 0x10_1000,
            device: 0x10_2000,
            kick: event(),
            call: event(),
            base: None,
        },
    }
}

impl Fixture {
    fn record(&self, version: u16, used: (u16, u8), old: (u16, u8)) {
        let start = 0x100 + 0x800;
        let put = |at: usize, bytes: &[u8]| {
            let at = start + at as u64;
            self.area.file.write_all_at(bytes, at).unwrap();
        };
        put(offset_of!(PackedRegion, version), &version.to_ne_bytes());
        let word = PackedUsed {
            used_idx: used.0,
            old_used_idx: old.0,
            used_wrap_counter: used.1,
            old_used_wrap_counter: old.1,
        };
        put(
            offset_of!(PackedRegion, used),
            &word.to_word().to_ne_bytes(),
        );
    }

    fn flags(&self, index: u64, flags: u16) {
        let at = index * 16 + 14;
        self.ram.write_all_at(&flags.to_le_bytes(), at).unwrap();
    }

    fn packed(&self) -> Result<u32> {
        base(&self.memory, &self.queue, true, Some(&self.area))
    }
}

fn base_at(position: u16) -> u32 {
    u32::from(position) << 16 | u32::from(position)
}

#[test]
fn a_split_ring_goes_on_at_the_used_index() {
    let fixture = fixture();
    fixture.ram.write_all_at(&[0xfe, 0xff], 0x2002).unwrap();
    let found = base(&fixture.memory, &fixture.queue, false, None);
    assert_eq!(found.unwrap(), 0xfffe);
}

#[test]
fn a_packed_ring_goes_on_at_the_batch_that_the_ring_shows_as_used() {
    let fixture = fixture();
    fixture.record(1, (5, 1), (3, 1));
    fixture.flags(3, 1 << 7);
    assert_eq!(
        fixture.packed().unwrap(),
        base_at(3 | 1 << 15),
        "rolled back"
    );
    fixture.flags(3, 1 << 7 | 1 << 15);
    assert_eq!(fixture.packed().unwrap(), base_at(5 | 1 << 15), "committed");
    fixture.flags(3, 1 << 15);
    assert_eq!(
        fixture.packed().unwrap(),
        base_at(5 | 1 << 15),
        "and reused"
    );
    fixture.record(1, (1, 0), (7, 1));
    fixture.flags(7, 1 << 7 | 1 << 15);
    assert_eq!(fixture.packed().unwrap(), base_at(1), "across the wrap");
}

#[test]
fn a_packed_ring_of_which_nothing_was_recorded_starts_where_it_was_to_start() {
    let mut fixture = fixture();
    fixture.record(0, (0, 0), (0, 0));
    assert_eq!(fixture.packed().unwrap(), PACKED_START);
    fixture.queue.base = Some(base_at(6));
    assert_eq!(fixture.packed().unwrap(), base_at(6), "as it was told");
}

#[test]
fn a_packed_ring_without_a_valid_record_is_given_up() {
    let mut fixture = fixture();
    let lost = |result: Result<u32>| assert!(matches!(result, Err(Error::Unrecoverable(1))));
    lost(base(&fixture.memory, &fixture.queue, true, None));
    fixture.record(1, (SIZE, 1), (0, 1));
    lost(fixture.packed());
    fixture.record(1, (0, 1), (0xffff, 1));
    lost(fixture.packed());
    fixture.area.description.num_queues = 1;
    lost(fixture.packed());
    fixture.area.description.num_queues = 0;
    lost(fixture.packed());
    fixture.area.description = Inflight {
        mmap_size: u64::MAX,
        mmap_offset: u64::MAX,
        num_queues: 2,
        ..fixture.area.description
    };
    lost(fixture.packed());
}

#[test]
fn a_split_ring_outside_memory_is_given_up() {
    let mut fixture = fixture();
    for device in [u64::MAX, u64::MAX - 1, 0, 0x10_3ffd] {
        fixture.queue.device = device;
        assert!(base(&fixture.memory, &fixture.queue, false, None).is_err());
    }
}
