//! Our driver half against a hostile or broken device.
//!
//! One rule: nothing the device writes makes the driver give back a buffer that the device still
//! has, give one back twice, or believe in more bytes than a buffer holds.

use std::collections::HashSet;
use std::vec::Vec;

use proptest::prelude::*;
use virtio_spec::ring::descriptor_flags::AVAIL;
use virtio_spec::ring::descriptor_flags::USED;
use virtio_spec::ring::used;

use super::Arena;
use super::all_configs;
use super::bytes;
use super::config;
use super::poke;
use crate::AddError;
use crate::DriverQueue;
use crate::Format;
use crate::QueueConfig;
use crate::RingError;
use crate::Segment;
use crate::Used;

const SIZE: u16 = 8;
const BUFFER: [Segment; 1] = [Segment {
    addr: 0x1000,
    len: 64,
}];

/// A driver whose device side is written byte by byte.
struct Ring {
    config: QueueConfig,
    arena: Arena,
    driver: DriverQueue,
    /// Split: the used index. Packed: the slot of the next used descriptor, in the first lap.
    used: u16,
}

impl Ring {
    fn new(config: QueueConfig) -> Self {
        let arena = Arena::new(&config);
        let driver = DriverQueue::new(config, arena.rings).unwrap();
        Self {
            config,
            arena,
            driver,
            used: 0,
        }
    }

    /// A queue with so many published chains of one writable descriptor, and their ids.
    fn with_chains(config: QueueConfig, count: u16) -> (Self, Vec<u16>) {
        let mut ring = Self::new(config);
        let ids = (0..count)
            .map(|_| ring.driver.add(&[], &BUFFER, None).unwrap())
            .collect();
        assert!(ring.driver.publish());
        (ring, ids)
    }

    fn both(count: u16) -> [(Self, Vec<u16>); 2] {
        [Format::Split, Format::Packed].map(|format| Self::with_chains(config(format, SIZE), count))
    }

    /// Uses `id`, as the device would, whatever it is.
    fn use_id(&mut self, id: u32, written: u32) {
        match self.config.format {
            Format::Split => {
                let entry = used::RING + used::ENTRY_SIZE * usize::from(self.used % SIZE);
                poke(&self.arena.rings.device, entry, id);
                poke(&self.arena.rings.device, entry + 4, written);
                self.used = self.used.wrapping_add(1);
                self.set_used(self.used);
            }
            Format::Packed => {
                let slot = 16 * usize::from(self.used);
                poke(&self.arena.rings.descriptors, slot + 8, written);
                poke(&self.arena.rings.descriptors, slot + 12, id as u16);
                poke(&self.arena.rings.descriptors, slot + 14, AVAIL | USED);
                self.used += 1;
            }
        }
    }

    fn set_used(&self, index: u16) {
        poke(&self.arena.rings.device, used::IDX, index);
    }

    /// The queue is broken with `error`, says so again, and lends nothing more.
    fn refuses(&mut self, error: RingError) {
        let lent = self.driver.in_flight();
        assert!(self.driver.has_used());
        assert_eq!(self.driver.pop(), Err(error));
        assert_eq!(self.driver.pop(), Err(error));
        assert_eq!(self.driver.add(&BUFFER, &[], None), Err(AddError::Broken));
        assert!(self.driver.arm(), "a broken queue must not be slept on");
        assert_eq!(
            self.driver.in_flight(),
            lent,
            "lent buffers stay lent until a reset"
        );
    }
}

#[test]
fn chains_used_in_any_order_come_back() {
    for (mut ring, ids) in Ring::both(3) {
        for at in [1, 2, 0] {
            ring.use_id(u32::from(ids[at]), 5);
            assert_eq!(
                ring.driver.pop(),
                Ok(Some(Used {
                    id: ids[at],
                    written: 5
                }))
            );
        }
        assert_eq!(ring.driver.pop(), Ok(None));
        assert_eq!(ring.driver.in_flight(), 0);
    }
}

#[test]
fn an_id_outside_the_queue_is_refused() {
    for id in [u32::from(SIZE), 0x7fff, 0xffff] {
        for (mut ring, _) in Ring::both(1) {
            ring.use_id(id, 0);
            ring.refuses(RingError::IdOutOfRange);
        }
    }
    for id in [0x1_0000, 0x8000_0000, u32::MAX] {
        let (mut ring, _) = Ring::with_chains(config(Format::Split, SIZE), 1);
        ring.use_id(id, 0);
        ring.refuses(RingError::IdOutOfRange);
    }
}

#[test]
fn an_id_that_was_never_lent_is_refused() {
    for (mut ring, ids) in Ring::both(2) {
        let free = (0..SIZE).find(|id| !ids.contains(id)).unwrap();
        ring.use_id(u32::from(free), 0);
        ring.refuses(RingError::NotInFlight);
    }
}

#[test]
fn an_id_that_was_added_but_not_published_is_refused() {
    for (mut ring, _) in Ring::both(2) {
        let hidden = ring.driver.add(&[], &BUFFER, None).unwrap();
        ring.use_id(u32::from(hidden), 0);
        ring.refuses(RingError::NotInFlight);
    }
}

#[test]
fn a_chain_used_twice_is_refused() {
    for (mut ring, ids) in Ring::both(2) {
        ring.use_id(u32::from(ids[0]), 0);
        ring.use_id(u32::from(ids[0]), 0);
        assert_eq!(
            ring.driver.pop(),
            Ok(Some(Used {
                id: ids[0],
                written: 0
            }))
        );
        ring.refuses(RingError::NotInFlight);
    }
}

#[test]
fn a_chain_named_by_its_middle_is_refused() {
    let three = [BUFFER[0]; 3];
    for middle in 1..3_u16 {
        let mut ring = Ring::new(config(Format::Split, SIZE));
        let head = ring.driver.add(&three, &[], None).unwrap();
        let _ = ring.driver.publish();
        ring.use_id(u32::from(head + middle), 0);
        ring.refuses(RingError::NotInFlight);
    }
}

#[test]
fn a_used_index_beyond_what_was_published_is_refused() {
    for jump in [3, SIZE, SIZE + 1, 0x8000, 0xffff] {
        let (mut ring, _) = Ring::with_chains(config(Format::Split, SIZE), 2);
        ring.set_used(jump);
        ring.refuses(RingError::UsedIndex);
    }
}

#[test]
fn a_used_index_that_moves_backwards_is_refused() {
    let (mut ring, ids) = Ring::with_chains(config(Format::Split, SIZE), 2);
    ring.use_id(u32::from(ids[0]), 0);
    assert!(ring.driver.pop().unwrap().is_some());
    ring.set_used(0);
    ring.refuses(RingError::UsedIndex);
}

#[test]
fn packed_flags_that_flip_back_and_forth_return_a_chain_once() {
    let (mut ring, ids) = Ring::with_chains(config(Format::Packed, SIZE), 2);
    let descriptors = ring.arena.rings.descriptors;
    for flags in [0, AVAIL, USED] {
        poke(&descriptors, 14, flags);
        assert_eq!(ring.driver.pop(), Ok(None), "not used");
    }
    ring.use_id(u32::from(ids[0]), 1);
    assert_eq!(
        ring.driver.pop(),
        Ok(Some(Used {
            id: ids[0],
            written: 1
        }))
    );
    for flags in [AVAIL, USED, 0, AVAIL | USED] {
        poke(&descriptors, 14, flags);
        assert_eq!(ring.driver.pop(), Ok(None), "the slot is behind us");
    }
    poke(&descriptors, 16 + 14, AVAIL | USED);
    poke(&descriptors, 16 + 12, ids[0]);
    ring.refuses(RingError::NotInFlight);
}

#[test]
fn packed_descriptors_used_with_nothing_lent_are_not_seen() {
    let mut ring = Ring::new(config(Format::Packed, SIZE));
    ring.use_id(0, 0);
    assert_eq!(ring.driver.pop(), Ok(None));
    assert!(!ring.driver.has_used());
}

#[test]
fn an_oversized_written_length_is_cut_and_counted() {
    for written in [65, 4096, u32::MAX] {
        for (mut ring, ids) in Ring::both(1) {
            ring.use_id(u32::from(ids[0]), written);
            assert_eq!(
                ring.driver.pop(),
                Ok(Some(Used {
                    id: ids[0],
                    written: 64
                }))
            );
            assert_eq!(ring.driver.overruns(), 1);
        }
    }
}

#[test]
fn descriptors_changed_by_the_device_do_not_change_what_is_freed() {
    for format in [Format::Split, Format::Packed] {
        let mut ring = Ring::new(config(format, SIZE));
        let three = [BUFFER[0]; 3];
        let id = ring.driver.add(&three, &[], None).unwrap();
        let _ = ring.driver.publish();
        let garbage = std::vec![0xff; ring.arena.rings.descriptors.len()];
        assert!(ring.arena.rings.descriptors.write(0, &garbage));
        ring.use_id(u32::from(id), 0);
        assert_eq!(ring.driver.pop(), Ok(Some(Used { id, written: 0 })));
        assert_eq!(ring.driver.free_descriptors(), SIZE);
        // And the free descriptors still are a permutation: a full queue of chains fits.
        let ids: HashSet<_> = (0..SIZE)
            .map(|_| ring.driver.add(&BUFFER, &[], None).unwrap())
            .collect();
        assert_eq!(ids.len(), usize::from(SIZE));
        assert_eq!(ring.driver.add(&BUFFER, &[], None), Err(AddError::Full));
    }
}

#[test]
fn an_in_order_batch_counts_its_skipped_chains_as_wholly_written() {
    for format in [Format::Split, Format::Packed] {
        let config = QueueConfig {
            in_order: true,
            ..config(format, SIZE)
        };
        let (mut ring, ids) = Ring::with_chains(config, 3);
        ring.use_id(u32::from(ids[2]), 7);
        if format == Format::Split {
            ring.set_used(3);
        }
        assert_eq!(
            ring.driver.pop(),
            Ok(Some(Used {
                id: ids[0],
                written: 64
            }))
        );
        assert!(ring.driver.arm(), "a batch is half returned");
        assert_eq!(
            ring.driver.pop(),
            Ok(Some(Used {
                id: ids[1],
                written: 64
            }))
        );
        assert_eq!(
            ring.driver.pop(),
            Ok(Some(Used {
                id: ids[2],
                written: 7
            }))
        );
        assert_eq!(ring.driver.pop(), Ok(None));
        assert_eq!(ring.driver.in_flight(), 0);
    }
}

#[test]
fn an_in_order_batch_that_ends_beyond_the_used_index_is_refused() {
    let config = QueueConfig {
        in_order: true,
        ..config(Format::Split, SIZE)
    };
    let (mut ring, ids) = Ring::with_chains(config, 3);
    ring.use_id(u32::from(ids[2]), 7);
    ring.refuses(RingError::UsedIndex);
}

#[test]
fn chains_that_cannot_be_added_are_refused_and_leave_nothing() {
    for mut config in [config(Format::Split, SIZE), config(Format::Packed, SIZE)] {
        config.indirect = false;
        let mut ring = Ring::new(config);
        let nine = [BUFFER[0]; 9];
        let zero = [Segment { addr: 0, len: 0 }];
        let huge = [Segment {
            addr: 0,
            len: u32::MAX,
        }; 2];
        let table = Some(ring.arena.table(0));
        let mut add = |readable: &[Segment], writable: &[Segment], table| {
            ring.driver.add(readable, writable, table)
        };
        assert_eq!(add(&[], &[], None), Err(AddError::Empty));
        assert_eq!(add(&nine, &[], None), Err(AddError::TooLong));
        assert_eq!(add(&nine[..5], &nine[..4], None), Err(AddError::TooLong));
        assert_eq!(add(&zero, &[], None), Err(AddError::ZeroLength));
        assert_eq!(add(&[], &zero, None), Err(AddError::ZeroLength));
        assert_eq!(add(&huge, &[], None), Err(AddError::TooLarge));
        assert_eq!(
            add(&BUFFER, &[], table),
            Err(AddError::IndirectNotNegotiated)
        );
        assert_eq!(ring.driver.in_flight(), 0);
        assert_eq!(ring.driver.free_descriptors(), SIZE);
        assert!(!ring.driver.publish());
    }
    for format in [Format::Split, Format::Packed] {
        let mut ring = Ring::new(config(format, SIZE));
        let (table, addr) = ring.arena.table(0);
        let small = table.subspan(0, 31).unwrap();
        let odd = table.subspan(1, 64).unwrap();
        for table in [small, odd] {
            let result = ring.driver.add(&BUFFER, &BUFFER, Some((table, addr)));
            assert_eq!(result, Err(AddError::TableTooSmall));
        }
        assert_eq!(ring.driver.free_descriptors(), SIZE);
    }
}

#[test]
fn a_broken_queue_works_again_after_a_reset() {
    for (mut ring, mut ids) in Ring::both(3) {
        ring.use_id(0xffff, 0);
        ring.refuses(RingError::IdOutOfRange);
        let mut back = Vec::new();
        ring.driver.reset(|id| back.push(id));
        back.sort_unstable();
        ids.sort_unstable();
        assert_eq!(back, ids);
        assert!(
            bytes(&ring.arena.rings.descriptors)
                .iter()
                .all(|byte| *byte == 0)
        );
        ring.used = 0;
        let id = ring.driver.add(&[], &BUFFER, None).unwrap();
        assert!(ring.driver.publish());
        ring.use_id(u32::from(id), 3);
        assert_eq!(ring.driver.pop(), Ok(Some(Used { id, written: 3 })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_device_area_is_survived(
        image in prop::collection::vec(prop_oneof![3 => 0..5_u8, 1 => any::<u8>()], 0..700),
        chains in 1..5_u16,
    ) {
        for config in all_configs(4) {
            let (mut ring, ids) = Ring::with_chains(config, chains.min(4));
            let rings = ring.arena.rings;
            let device = image.len().min(rings.device.len());
            prop_assert!(rings.device.write(0, &image[..device]));
            if config.format == Format::Packed {
                let rest = &image[device..];
                let len = rest.len().min(rings.descriptors.len());
                prop_assert!(rings.descriptors.write(0, &rest[..len]));
            }
            let mut lent: HashSet<u16> = ids.into_iter().collect();
            for _ in 0..10 {
                match ring.driver.pop() {
                    Ok(Some(used)) => {
                        prop_assert!(lent.remove(&used.id), "returned once and only if lent");
                        prop_assert!(used.written <= 64);
                    }
                    Ok(None) => {
                        let _ = ring.driver.arm();
                        if let Ok(id) = ring.driver.add(&[], &BUFFER, None) {
                            prop_assert!(lent.insert(id));
                        }
                        let _ = ring.driver.publish();
                    }
                    Err(_) => break,
                }
            }
            prop_assert_eq!(usize::from(ring.driver.in_flight()), lent.len());
        }
    }
}
