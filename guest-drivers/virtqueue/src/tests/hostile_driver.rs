//! Our device half against a hostile driver.
//!
//! One rule: each case ends with an error that stays, after the good chains before it were handed
//! out, in a bounded number of steps. The numbers name the rows of the list of published bugs that
//! a case repeats.

use core::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use virtio_spec::ring::PackedDescriptor;
use virtio_spec::ring::avail;
use virtio_spec::ring::descriptor_flags::AVAIL;
use virtio_spec::ring::descriptor_flags::INDIRECT;
use virtio_spec::ring::descriptor_flags::NEXT;
use virtio_spec::ring::descriptor_flags::USED;
use virtio_spec::ring::descriptor_flags::WRITE;

use super::Arena;
use super::BASE;
use super::all_configs;
use super::config;
use super::poke;
use crate::ChainBatch;
use crate::ConfigError;
use crate::DeviceQueue;
use crate::Format;
use crate::PeerMemory;
use crate::QueueConfig;
use crate::QueueState;
use crate::Replay;
use crate::RingError;
use crate::RingMemory;
use crate::Segment;
use crate::Token;

const SIZE: u16 = 8;

/// A ring whose driver side is written byte by byte.
struct Ring {
    config: QueueConfig,
    arena: Arena,
    device: DeviceQueue,
    batch: ChainBatch,
    avail: u16,
}

impl Ring {
    fn new(config: QueueConfig) -> Self {
        let arena = Arena::new(&config);
        let state = QueueState::fresh(config.format);
        let device = DeviceQueue::new(config, arena.rings, state).unwrap();
        Self {
            config,
            arena,
            device,
            batch: ChainBatch::default(),
            avail: 0,
        }
    }

    fn split() -> Self {
        Self::new(config(Format::Split, SIZE))
    }

    fn packed() -> Self {
        Self::new(config(Format::Packed, SIZE))
    }

    /// Writes a descriptor; `extra` is `next` (split) or `id` (packed).
    fn descriptor(&self, at: u16, addr: u64, len: u32, flags: u16, extra: u16) {
        write_descriptor(
            self.config.format,
            &self.arena.rings.descriptors,
            at,
            (addr, len, flags, extra),
        );
    }

    /// Writes an entry of the indirect table `table`.
    fn entry(&self, table: u16, at: u16, (addr, len, flags, extra): (u64, u32, u16, u16)) {
        let (memory, _) = self.arena.table(table);
        write_descriptor(self.config.format, &memory, at, (addr, len, flags, extra));
    }

    /// Makes a head available in a split ring.
    fn offer(&mut self, head: u16) {
        let entry = avail::RING + 2 * usize::from(self.avail % self.config.size);
        poke(&self.arena.rings.driver, entry, head);
        self.avail = self.avail.wrapping_add(1);
        self.set_avail(self.avail);
    }

    fn set_avail(&self, index: u16) {
        poke(&self.arena.rings.driver, avail::IDX, index);
    }

    fn take(&mut self) -> Result<usize, RingError> {
        self.device.take(&self.arena, &mut self.batch, usize::MAX)
    }

    /// The queue is broken with `error`, says so again, and handed out nothing.
    fn refuses(&mut self, error: RingError) {
        assert!(self.device.has_work());
        let before = self.batch.len();
        assert_eq!(self.take(), Err(error));
        assert_eq!(self.take(), Err(error));
        assert_eq!(
            self.batch.len(),
            before,
            "nothing of a refused chain is left"
        );
        assert!(self.device.arm(), "a broken queue must not be slept on");
    }
}

fn write_descriptor(
    format: Format,
    memory: &RingMemory,
    at: u16,
    (addr, len, flags, extra): (u64, u32, u16, u16),
) {
    let offset = 16 * usize::from(at);
    let (third, fourth) = match format {
        Format::Split => (flags, extra),
        Format::Packed => (extra, flags),
    };
    poke(memory, offset, addr);
    poke(memory, offset + 8, len);
    poke(memory, offset + 12, third);
    poke(memory, offset + 14, fourth);
}

#[test]
fn row_1_descriptor_loops_end_as_too_long() {
    for loop_length in 1..=SIZE {
        let mut ring = Ring::split();
        for at in 0..SIZE {
            ring.descriptor(at, 1, 1, NEXT, (at + 1) % loop_length);
        }
        ring.offer(0);
        ring.refuses(RingError::ChainTooLong);
    }
}

#[test]
fn row_1_loops_in_an_indirect_table_end_as_too_long() {
    for loop_length in 1..=4 {
        let mut ring = Ring::split();
        for at in 0..4 {
            ring.entry(0, at, (1, 1, NEXT, (at + 1) % loop_length));
        }
        ring.descriptor(0, ring.arena.table(0).1, 64, INDIRECT, 0);
        ring.offer(0);
        ring.refuses(RingError::ChainTooLong);
    }
}

#[test]
fn row_1_a_packed_ring_of_next_flags_only_ends_as_too_long() {
    let mut ring = Ring::packed();
    for at in 0..SIZE {
        ring.descriptor(at, 1, 1, NEXT | AVAIL, 0);
    }
    ring.refuses(RingError::ChainTooLong);
}

#[test]
fn row_2_a_zero_length_is_refused_in_every_position() {
    for position in 0..3 {
        let mut split = Ring::split();
        let mut packed = Ring::packed();
        for at in 0..3 {
            let len = u32::from(at != position);
            let next = if at == 2 { 0 } else { NEXT };
            split.descriptor(at, 1, len, next, at + 1);
            packed.descriptor(at, 1, len, next | AVAIL, 0);
        }
        split.offer(0);
        split.refuses(RingError::ZeroLength);
        packed.refuses(RingError::ZeroLength);
    }
}

#[test]
fn row_2_a_zero_length_is_refused_in_indirect_tables() {
    for mut ring in [Ring::split(), Ring::packed()] {
        ring.entry(0, 0, (1, 0, 0, 0));
        ring.descriptor(0, ring.arena.table(0).1, 16, INDIRECT | AVAIL, 0);
        if ring.config.format == Format::Split {
            ring.offer(0);
        }
        ring.refuses(RingError::ZeroLength);
    }
}

#[test]
fn row_3_an_available_index_beyond_the_queue_is_refused() {
    for jump in [SIZE + 1, 2 * SIZE, 0x7fff, 0x8000, 0xffff] {
        let mut ring = Ring::split();
        ring.set_avail(jump);
        ring.refuses(RingError::AvailIndex);
    }
}

#[test]
fn row_3_more_requests_than_the_queue_holds_are_refused_while_they_are_in_flight() {
    let mut ring = Ring::split();
    for head in 0..SIZE {
        ring.descriptor(head, 1, 1, 0, 0);
        ring.offer(head);
    }
    assert_eq!(ring.take(), Ok(usize::from(SIZE)));
    ring.offer(0);
    ring.refuses(RingError::AvailIndex);
    // What was taken before can still be given back.
    for head in 0..SIZE {
        ring.device
            .complete(
                Token {
                    id: head,
                    descriptors: 1,
                },
                0,
            )
            .unwrap();
    }
    assert!(ring.device.publish());
    assert_eq!(ring.device.in_flight(), 0);
}

#[test]
fn row_3_a_packed_ring_made_available_anew_while_in_flight_is_refused() {
    let mut ring = Ring::packed();
    for at in 0..SIZE {
        ring.descriptor(at, 1, 1, AVAIL, at);
    }
    assert_eq!(ring.take(), Ok(usize::from(SIZE)));
    ring.descriptor(0, 1, 1, USED, 0);
    ring.refuses(RingError::AvailIndex);
}

#[test]
fn row_4_an_indirect_table_outside_memory_is_refused() {
    for addr in [
        0,
        1,
        BASE - 1,
        BASE - 16,
        BASE + (1 << 40),
        u64::MAX,
        u64::MAX - 15,
    ] {
        for mut ring in [Ring::split(), Ring::packed()] {
            ring.descriptor(0, addr, 16, INDIRECT | AVAIL, 0);
            if ring.config.format == Format::Split {
                ring.offer(0);
            }
            ring.refuses(RingError::IndirectAddress);
        }
    }
}

#[test]
fn row_5_queues_of_size_zero_or_of_no_power_of_two_are_refused() {
    let error = |size, format| config(format, size).check().err();
    assert_eq!(error(0, Format::Split), Some(ConfigError::SizeZero));
    assert_eq!(error(0, Format::Packed), Some(ConfigError::SizeZero));
    assert_eq!(
        error(3, Format::Split),
        Some(ConfigError::SizeNotPowerOfTwo)
    );
    assert_eq!(
        error(32769, Format::Packed),
        Some(ConfigError::SizeTooLarge)
    );
    assert_eq!(
        error(0xffff, Format::Split),
        Some(ConfigError::SizeTooLarge)
    );
    assert_eq!(error(3, Format::Packed), None);
    assert_eq!(error(32768, Format::Packed), None);
    assert_eq!(error(32768, Format::Split), None);
    assert_eq!(QueueConfig::from_features(0, 0), Err(ConfigError::SizeZero));
}

#[test]
fn row_5_misaligned_areas_are_refused() {
    for config in all_configs(SIZE) {
        let arena = Arena::new(&config);
        let state = QueueState::fresh(config.format);
        for which in 0..3 {
            let mut rings = arena.rings;
            let big = arena.table(0).0;
            let moved = big.subspan(1, 1023).unwrap();
            match which {
                0 => rings.descriptors = moved,
                1 => rings.driver = moved,
                _ => rings.device = moved,
            }
            let error = DeviceQueue::new(config, rings, state).err();
            assert_eq!(error, Some(RingError::Config(ConfigError::AreaMisaligned)));
        }
    }
}

#[test]
fn row_6_indices_from_a_notification_are_data_and_nothing_else() {
    for index in [0xffff, 0x8000, SIZE, u16::MAX - 1] {
        let data = virtio_spec::pci::NotificationData {
            queue: index,
            next: index,
        };
        assert_eq!(
            virtio_spec::pci::NotificationData::decode(data.encode()),
            data
        );
    }
}

#[test]
fn rows_16_and_28_a_ring_that_is_not_wholly_in_memory_is_refused() {
    for config in all_configs(SIZE) {
        let arena = Arena::new(&config);
        let state = QueueState::fresh(config.format);
        for which in 0..3 {
            let mut rings = arena.rings;
            let short = |area: RingMemory| area.subspan(0, area.len() - 1).unwrap();
            match which {
                0 => rings.descriptors = short(rings.descriptors),
                1 => rings.driver = short(rings.driver),
                _ => rings.device = short(rings.device),
            }
            let error = DeviceQueue::new(config, rings, state).err();
            assert_eq!(error, Some(RingError::Config(ConfigError::AreaTooSmall)));
            // A larger queue on the areas of a smaller one, as after a change of size.
            let larger = QueueConfig {
                size: 2 * SIZE,
                ..config
            };
            assert!(DeviceQueue::new(larger, arena.rings, state).is_err());
        }
    }
}

#[test]
fn row_20_a_head_made_available_twice_is_refused() {
    let mut ring = Ring::split();
    ring.descriptor(3, 1, 1, 0, 0);
    ring.offer(3);
    ring.offer(3);
    assert_eq!(ring.take(), Ok(1), "the good chain comes first");
    ring.refuses(RingError::DuplicateId);

    let mut ring = Ring::packed();
    ring.descriptor(0, 1, 1, AVAIL, 5);
    ring.descriptor(1, 1, 1, AVAIL, 5);
    assert_eq!(ring.take(), Ok(1));
    ring.refuses(RingError::DuplicateId);
}

#[test]
fn row_27_an_available_index_that_moves_backwards_is_refused() {
    let mut ring = Ring::split();
    ring.descriptor(0, 1, 1, 0, 0);
    for _ in 0..3 {
        ring.offer(0);
        assert_eq!(ring.take(), Ok(1));
        ring.device
            .complete(
                Token {
                    id: 0,
                    descriptors: 1,
                },
                0,
            )
            .unwrap();
        let _ = ring.device.publish();
    }
    ring.set_avail(2);
    ring.refuses(RingError::AvailIndex);
}

#[test]
fn row_31_a_vring_base_wider_than_an_index_is_refused() {
    let split = config(Format::Split, SIZE);
    for base in [0x1_0000, 0x8000_0000, u32::MAX] {
        assert_eq!(QueueState::decode(&split, base), Err(ConfigError::State));
    }
    assert_eq!(
        QueueState::decode(&split, 0xffff),
        Ok(QueueState {
            avail: 0xffff,
            used: 0xffff
        })
    );
    let packed = config(Format::Packed, SIZE);
    for base in [
        u32::from(SIZE),
        u32::from(SIZE) << 16,
        0x7fff_7fff,
        0x8000_0001,
    ] {
        assert_eq!(
            QueueState::decode(&packed, base),
            Err(ConfigError::State),
            "{base:#x}"
        );
    }
    for base in [0x8000_8000, 0x0007_0007, 0x8007_0003] {
        let state = QueueState::decode(&packed, base).unwrap();
        assert_eq!(state.encode(Format::Packed), base);
    }
}

#[test]
fn a_next_outside_the_table_is_refused() {
    for next in [SIZE, SIZE + 1, 0x7fff, 0xffff] {
        let mut ring = Ring::split();
        ring.descriptor(0, 1, 1, NEXT, next);
        ring.offer(0);
        ring.refuses(RingError::DescriptorIndex);
        let mut ring = Ring::split();
        ring.offer(next);
        ring.refuses(RingError::DescriptorIndex);
        let mut ring = Ring::split();
        ring.entry(0, 0, (1, 1, NEXT, next));
        ring.descriptor(0, ring.arena.table(0).1, 32, INDIRECT, 0);
        ring.offer(0);
        ring.refuses(RingError::DescriptorIndex);
    }
}

#[test]
fn a_buffer_id_outside_the_packed_queue_is_refused() {
    for id in [SIZE, 0x7fff, 0xffff] {
        let mut ring = Ring::packed();
        ring.descriptor(0, 1, 1, AVAIL, id);
        ring.refuses(RingError::IdOutOfRange);
    }
}

#[test]
fn indirect_descriptors_are_refused_where_they_may_not_be() {
    for mut config in [config(Format::Split, SIZE), config(Format::Packed, SIZE)] {
        config.indirect = false;
        let cases = [
            (false, INDIRECT, 0, 16, RingError::IndirectNotNegotiated),
            (true, INDIRECT | NEXT, 0, 16, RingError::IndirectWithNext),
            (true, INDIRECT, INDIRECT, 16, RingError::IndirectNested),
            (true, INDIRECT, 0, 0, RingError::IndirectLength),
            (true, INDIRECT, 0, 15, RingError::IndirectLength),
            (true, INDIRECT, 0, 17, RingError::IndirectLength),
            (true, INDIRECT, 0, 24, RingError::IndirectLength),
            (true, INDIRECT, 0, u32::MAX, RingError::IndirectLength),
            (true, INDIRECT, 0, u32::MAX - 15, RingError::IndirectAddress),
        ];
        for (negotiated, flags, inner, len, error) in cases {
            let mut ring = Ring::new(QueueConfig {
                indirect: negotiated,
                ..config
            });
            ring.entry(0, 0, (1, 1, inner, 0));
            ring.descriptor(0, ring.arena.table(0).1, len, flags | AVAIL, 0);
            if config.format == Format::Split {
                ring.offer(0);
            } else if error == RingError::IndirectNested {
                assert_eq!(ring.take(), Ok(1), "packed tables have no flag but WRITE");
                continue;
            }
            ring.refuses(error);
        }
    }
}

#[test]
fn an_indirect_descriptor_may_end_a_split_chain_but_not_a_packed_one() {
    let mut split = Ring::split();
    split.entry(0, 0, (7, 1, WRITE, 0));
    split.descriptor(0, 5, 1, NEXT, 1);
    split.descriptor(1, split.arena.table(0).1, 16, INDIRECT | WRITE, 0);
    split.offer(0);
    assert_eq!(split.take(), Ok(1), "and its write flag is ignored");
    let chain = split.batch.get(0).unwrap();
    assert_eq!(chain.readable, [Segment { addr: 5, len: 1 }]);
    assert_eq!(chain.writable, [Segment { addr: 7, len: 1 }]);

    let mut packed = Ring::packed();
    packed.descriptor(0, 5, 1, NEXT | AVAIL, 0);
    packed.descriptor(1, packed.arena.table(0).1, 16, INDIRECT | AVAIL, 0);
    packed.refuses(RingError::IndirectWithNext);
}

#[test]
fn an_indirect_table_at_any_alignment_is_read() {
    for format in [Format::Split, Format::Packed] {
        for shift in 0..16_u16 {
            let mut ring = Ring::new(config(format, SIZE));
            let (memory, addr) = ring.arena.table(0);
            let words = [0x1122_3344_5566_7788_u64, 0x9];
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            assert!(memory.write(usize::from(shift), &bytes));
            ring.descriptor(0, addr + u64::from(shift), 16, INDIRECT | AVAIL, 0);
            if format == Format::Split {
                ring.offer(0);
            }
            assert_eq!(ring.take(), Ok(1));
            let segment = Segment {
                addr: words[0],
                len: 9,
            };
            assert_eq!(ring.batch.get(0).unwrap().readable, [segment]);
        }
    }
}

#[test]
fn a_table_with_more_entries_than_allowed_is_refused() {
    struct Many(Arena, Cell<usize>);
    impl PeerMemory for Many {
        fn span(&self, _: u64, len: usize) -> Option<RingMemory> {
            self.1.set(self.1.get() + 1);
            self.0.span(BASE, len)
        }
    }
    for format in [Format::Split, Format::Packed] {
        let mut ring = Ring::new(config(format, SIZE));
        let memory = Many(Arena::new(&config(format, 1024)), Cell::new(0));
        for at in 0..1025 {
            let all = memory.0.span(BASE, 16 * 1025).unwrap();
            write_descriptor(format, &all, at, (1, 1, NEXT, at + 1));
        }
        ring.descriptor(0, 0, 16 * 1025, INDIRECT | AVAIL, 0);
        if format == Format::Split {
            ring.offer(0);
        }
        let error = ring.device.take(&memory, &mut ring.batch, 1);
        assert_eq!(error, Err(RingError::ChainTooLong));
        assert_eq!(memory.1.get(), 1, "translated once");
    }
}

#[test]
fn a_readable_descriptor_after_a_writable_one_is_refused() {
    let mut split = Ring::split();
    split.descriptor(0, 1, 1, WRITE | NEXT, 1);
    split.descriptor(1, 1, 1, 0, 0);
    split.offer(0);
    split.refuses(RingError::ReadAfterWrite);
    let mut packed = Ring::packed();
    packed.descriptor(0, 1, 1, WRITE | NEXT | AVAIL, 0);
    packed.descriptor(1, 1, 1, AVAIL, 0);
    packed.refuses(RingError::ReadAfterWrite);
}

#[test]
fn a_chain_of_more_than_four_gibibytes_is_refused() {
    let mut split = Ring::split();
    let mut packed = Ring::packed();
    for at in 0..2 {
        let next = if at == 1 { 0 } else { NEXT };
        split.descriptor(at, 1, u32::MAX, next, at + 1);
        packed.descriptor(at, 1, u32::MAX, next | AVAIL, 0);
    }
    split.offer(0);
    split.refuses(RingError::ChainTooLarge);
    packed.refuses(RingError::ChainTooLarge);
}

#[test]
fn tokens_that_name_nothing_in_flight_are_refused() {
    for config in all_configs(SIZE) {
        let mut ring = Ring::new(config);
        for id in [0, SIZE - 1, SIZE, 0xffff] {
            let token = Token { id, descriptors: 1 };
            assert_eq!(ring.device.complete(token, 0), Err(RingError::NotInFlight));
        }
        assert!(!ring.device.publish());
    }
}

#[test]
fn what_a_device_claims_to_have_written_is_cut_to_the_writable_part() {
    let mut ring = Ring::split();
    ring.descriptor(0, 1, 100, NEXT, 1);
    ring.descriptor(1, 1, 10, WRITE, 0);
    ring.offer(0);
    ring.take().unwrap();
    ring.device
        .complete(
            Token {
                id: 0,
                descriptors: 2,
            },
            1000,
        )
        .unwrap();
    let _ = ring.device.publish();
    assert_eq!(super::peek::<u32>(&ring.arena.rings.device, 8), 10);
}

#[test]
fn replays_that_the_state_leaves_no_room_for_are_refused() {
    for config in all_configs(SIZE) {
        let mut ring = Ring::new(config);
        let copy = [PackedDescriptor {
            len: 1.into(),
            ..PackedDescriptor::default()
        }];
        for replay in [
            Replay::Head(0),
            Replay::Descriptors(&copy),
            Replay::Descriptors(&[]),
        ] {
            let result = ring.device.replay(&ring.arena, &mut ring.batch, replay);
            assert_eq!(result, Err(RingError::UnexpectedReplay));
        }
    }
}

#[test]
fn a_malformed_replay_leaves_the_queue_usable() {
    for format in [Format::Split, Format::Packed] {
        let config = config(format, SIZE);
        let arena = Arena::new(&config);
        let state = match format {
            Format::Split => QueueState { avail: 2, used: 0 },
            Format::Packed => QueueState {
                avail: 0x8002,
                used: 0x8000,
            },
        };
        let mut device = DeviceQueue::new(config, arena.rings, state).unwrap();
        let mut batch = ChainBatch::default();
        let empty = [PackedDescriptor::default()];
        let bad = match format {
            Format::Split => Replay::Head(1),
            Format::Packed => Replay::Descriptors(&empty),
        };
        assert_eq!(
            device.replay(&arena, &mut batch, bad),
            Err(RingError::ZeroLength)
        );
        assert_eq!(device.in_flight(), 2);
        write_descriptor(Format::Split, &arena.rings.descriptors, 1, (1, 1, 0, 0));
        let good = [PackedDescriptor {
            len: 1.into(),
            id: 1.into(),
            ..empty[0]
        }];
        let again = match format {
            Format::Split => Replay::Head(1),
            Format::Packed => Replay::Descriptors(&good),
        };
        device.replay(&arena, &mut batch, again).unwrap();
        assert_eq!(
            device.replay(&arena, &mut batch, again),
            Err(RingError::DuplicateId)
        );
        let only = batch.get(0).unwrap().token;
        device.complete(only, 0).unwrap();
        let _ = device.publish();
        assert_eq!(device.in_flight(), 1, "one chain is still to be replayed");
    }
}

/// Rows 39 and 40: everything the driver can write changes while the device reads it.
#[test]
fn a_ring_that_changes_while_it_is_read_does_no_harm() {
    for format in [Format::Split, Format::Packed] {
        let config = QueueConfig {
            event_idx: true,
            ..config(format, SIZE)
        };
        let arena = Arena::new(&config);
        let stop = Arc::new(AtomicBool::new(false));
        let rings = arena.rings;
        let table = arena.table(0);
        let stopped = Arc::clone(&stop);
        let writer = thread::spawn(move || {
            let mut random = 0x1234_5678_9abc_def1_u64;
            while !stopped.load(Ordering::Relaxed) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let value = random >> 32;
                let at = (random % 16) as usize * 8;
                let plausible = [
                    value,
                    value & 0x0007_0007_0000_0fff,
                    table.1,
                    value | 1 << 55,
                ];
                poke(
                    &rings.descriptors,
                    at,
                    plausible[(random >> 20) as usize % 4],
                );
                poke(&table.0, at, value & 0x0003_0003_0000_00ff);
                if rings.driver.len() > 4 {
                    poke(&rings.driver, 4 + at / 4 % 16, (value & 7) as u16);
                    poke(&rings.driver, avail::IDX, (value >> 8) as u16 & 0xf);
                } else {
                    poke(&rings.driver, 0, value as u32);
                }
            }
        });
        let mut batch = ChainBatch::default();
        let mut taken = 0;
        // Whatever the other thread writes, a few rings are good by chance: sooner or later, on a busy machine later.
        let start = Instant::now();
        for round in 0..u32::MAX {
            let long = start.elapsed() >= Duration::from_secs(if taken == 0 { 60 } else { 5 });
            if (round >= 20_000 && taken >= 1000) || long {
                break;
            }
            let state = QueueState::fresh(format);
            let mut device = DeviceQueue::new(config, rings, state).unwrap();
            batch.clear();
            taken += device.take(&arena, &mut batch, 16).unwrap_or(0);
            for chain in batch.iter() {
                assert!(chain.readable.len() + chain.writable.len() <= 1024);
                device.complete(chain.token, round).unwrap();
            }
            let _ = device.publish();
            let _ = device.arm();
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        assert_ne!(taken, 0, "some rings were good by chance");
    }
}

/// A driver area and descriptors of any content: one entry for proptest and for fuzzing.
fn run_any_ring(config: QueueConfig, image: &[u8]) {
    let mut ring = Ring::new(config);
    let rings = ring.arena.rings;
    let mut at = 0;
    for area in [
        rings.descriptors,
        rings.driver,
        rings.device,
        ring.arena.table(0).0,
    ] {
        let len = area.len().min(image.len() - at);
        assert!(area.write(0, &image[at..at + len]));
        at += len;
    }
    for _ in 0..4 {
        ring.batch.clear();
        let Ok(taken) = ring.device.take(&ring.arena, &mut ring.batch, 64) else {
            return;
        };
        assert_eq!(taken, ring.batch.len());
        assert!(taken <= usize::from(config.size));
        let mut tokens = vec![];
        for chain in ring.batch.iter() {
            assert!(!chain.readable.is_empty() || !chain.writable.is_empty());
            assert!(
                chain
                    .readable
                    .iter()
                    .chain(chain.writable)
                    .all(|segment| segment.len != 0)
            );
            tokens.push(chain.token);
        }
        for token in tokens.iter().rev() {
            ring.device.complete(*token, 1).unwrap();
        }
        let _ = ring.device.publish();
        assert_eq!(ring.device.in_flight(), 0);
        let _ = ring.device.arm();
        ring.device.disarm();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_ring_content_is_survived(
        image in prop::collection::vec(prop_oneof![3 => 0..9_u8, 1 => any::<u8>()], 0..700),
    ) {
        for config in all_configs(4) {
            run_any_ring(config, &image);
        }
    }
}
