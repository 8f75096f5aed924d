//! The block driver against a disk that obeys, in every ring format, with reordering, delays, lost interrupts and failures by seed.
//!
//! Rule: a shadow copy of the disk says what every read must bring.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod rig;

use std::collections::HashMap;

use block_driver::Operation;
use block_driver::Refusal;
use block_driver::RequestError;
use block_driver::Serial;
use block_driver::Success;
use driver_fakes::FakeBuffer;
use driver_fakes::Habits;
use driver_fakes::Random;
use rig::*;
use virtio_spec::block::feature::RO;
use virtio_spec::feature;

#[test]
fn every_operation_works_in_every_ring_format() {
    for (seed, features) in ring_feature_sets().into_iter().enumerate() {
        let mut rig = rig(seed as u64, features);
        assert_eq!(rig.driver.features() & features, features);
        let data: Vec<u8> = (0..8192).map(|i| (i % 251) as u8).collect();
        assert_eq!(rig.run(write(8, data.clone(), 1)).result, Ok(Success::Done));
        let completion = rig.run(read(8, 8192, 2));
        assert_eq!(
            (completion.cookie, completion.result),
            (2, Ok(Success::Done))
        );
        assert_eq!(completion.buffer.unwrap().data, data);
        assert_eq!(
            rig.run(plain(Operation::Flush, 3)).result,
            Ok(Success::Done)
        );
        let serial = rig.run(plain(Operation::GetSerial, 4)).result.unwrap();
        assert!(
            matches!(serial, Success::Serial(ref s) if Serial::as_bytes(s).starts_with(b"fake-disk"))
        );
        let zero = Operation::WriteZeroes {
            sector: 8,
            sectors: 8,
            unmap: true,
        };
        assert_eq!(rig.run(plain(zero, 5)).result, Ok(Success::Done));
        assert!(
            rig.run(read(8, 4096, 6))
                .buffer
                .unwrap()
                .data
                .iter()
                .all(|&byte| byte == 0)
        );
        assert_eq!(
            rig.run(read(16, 4096, 7)).buffer.unwrap().data,
            data[4096..]
        );
        rig.finish();
    }
}

#[test]
fn long_ranges_are_split_by_the_device_limit_and_end_as_one_request() {
    let mut rig = rig(1, feature::RING_PACKED);
    rig.disk.data.fill(1);
    let discard = Operation::Discard {
        sector: 0,
        sectors: 1000,
    };
    let completion = rig.run(plain(discard, 9));
    assert_eq!(
        (completion.cookie, completion.result),
        (9, Ok(Success::Done))
    );
    assert_eq!(rig.disk.served, 1000_u64.div_ceil(64));
    assert!(rig.disk.data[..1000 * 512].iter().all(|&byte| byte == 0));
    assert_eq!(rig.disk.data[1000 * 512], 1);
    rig.finish();
}

#[test]
fn a_failing_part_ends_a_split_range() {
    let mut rig = rig(1, 0);
    rig.disk.habits.fails_one_in = 1;
    let completion = rig.run(plain(
        Operation::Discard {
            sector: 0,
            sectors: 1000,
        },
        9,
    ));
    assert_eq!(completion.result, Err(RequestError::Io));
    assert_eq!(rig.disk.served, 1);
    rig.finish();
}

#[test]
fn large_transfers_are_split_at_block_borders_however_the_buffer_is_scattered() {
    for odd in [false, true] {
        for features in [
            0,
            feature::RING_INDIRECT_DESC,
            feature::RING_PACKED | feature::RING_INDIRECT_DESC,
        ] {
            let mut rig = rig(77, features);
            rig.platform.odd_pieces = odd;
            let data: Vec<u8> = (0..16384).map(|i| (i / 7) as u8).collect();
            let mut done = 0;
            for round in 0..50 {
                let request = write(round, data.clone(), round);
                match rig.queues[0].submit(&rig.platform, request) {
                    Ok(()) => {}
                    Err(rejected) => {
                        assert_eq!(rejected.reason, Refusal::TooLarge);
                        continue;
                    }
                }
                rig.queues[0].kick();
                rig.disk.serve(0);
                let completion = rig.queues[0].poll(&rig.platform).unwrap().unwrap();
                assert_eq!(completion.result, Ok(Success::Done));
                let at = round as usize * 512;
                assert_eq!(rig.disk.data[at..at + data.len()], data);
                done += 1;
            }
            assert!(done > 10, "{done} of 50");
            assert!(rig.queues[0].counters().chains > done, "nothing was split");
            rig.finish();
        }
    }
}

#[test]
fn a_disk_with_4096_byte_blocks_takes_only_whole_blocks() {
    let mut config = config();
    config.blk_size = 4096.into();
    config.capacity = 1027.into();
    let mut rig = rig_with(5, registers(0, config));
    assert_eq!(rig.driver.info().capacity_sectors, 1024);
    let refused = rig.queues[0]
        .submit(&rig.platform, read(0, 512, 0))
        .unwrap_err();
    assert_eq!(refused.reason, Refusal::Unaligned);
    let refused = rig.queues[0]
        .submit(&rig.platform, read(1, 4096, 0))
        .unwrap_err();
    assert_eq!(refused.reason, Refusal::Unaligned);
    assert_eq!(rig.run(read(8, 4096, 0)).result, Ok(Success::Done));
    rig.finish();
}

#[test]
fn bad_requests_are_refused_with_their_buffer_before_the_device_sees_them() {
    let mut rig = rig(5, 0);
    let end = DISK as u64 / 512;
    let cases = [
        (read(end, 512, 0), Refusal::OutOfRange),
        (read(end - 1, 1024, 0), Refusal::OutOfRange),
        (read(u64::MAX, 512, 0), Refusal::OutOfRange),
        (read(0, 0, 0), Refusal::Unaligned),
        (read(0, 100, 0), Refusal::Unaligned),
        (plain(Operation::Read { sector: 0 }, 0), Refusal::BadBuffer),
        (
            plain(
                Operation::Discard {
                    sector: 1,
                    sectors: u64::MAX,
                },
                0,
            ),
            Refusal::OutOfRange,
        ),
        (
            plain(
                Operation::Discard {
                    sector: 0,
                    sectors: 0,
                },
                0,
            ),
            Refusal::Unaligned,
        ),
    ];
    for (request, reason) in cases {
        let rejected = rig.queues[0].submit(&rig.platform, request).unwrap_err();
        assert_eq!(rejected.reason, reason);
    }
    rig.queues[0].kick();
    rig.disk.serve(0);
    assert_eq!(rig.disk.served, 0);
    rig.finish();
}

#[test]
fn a_read_only_disk_refuses_everything_that_changes_it() {
    let mut registers = registers(0, config());
    registers.offered |= RO;
    let mut rig = rig_with(5, registers);
    assert!(rig.driver.info().read_only);
    for request in [
        write(0, vec![0; 512], 0),
        plain(
            Operation::Discard {
                sector: 0,
                sectors: 8,
            },
            0,
        ),
        plain(
            Operation::WriteZeroes {
                sector: 0,
                sectors: 8,
                unmap: false,
            },
            0,
        ),
    ] {
        assert_eq!(
            rig.queues[0]
                .submit(&rig.platform, request)
                .unwrap_err()
                .reason,
            Refusal::ReadOnly
        );
    }
    rig.finish();
}

#[test]
fn operations_that_are_not_offered_are_refused() {
    let mut registers = registers(0, config());
    registers.offered = feature::VERSION_1;
    let mut rig = rig_with(5, registers);
    assert_eq!(rig.queues.len(), 1);
    for operation in [
        Operation::Flush,
        Operation::Discard {
            sector: 0,
            sectors: 8,
        },
        Operation::WriteZeroes {
            sector: 0,
            sectors: 8,
            unmap: false,
        },
    ] {
        assert_eq!(
            rig.queues[0]
                .submit(&rig.platform, plain(operation, 0))
                .unwrap_err()
                .reason,
            Refusal::Unsupported
        );
    }
    rig.finish();
}

#[test]
fn a_batch_is_published_once_and_rings_once() {
    for features in [
        0,
        feature::RING_PACKED,
        feature::RING_EVENT_IDX,
        feature::NOTIFICATION_DATA,
    ] {
        let mut rig = rig(5, features);
        for cookie in 0..5 {
            rig.queues[0]
                .submit(&rig.platform, read(cookie, 512, cookie))
                .unwrap();
        }
        rig.queues[0].kick();
        let counters = rig.queues[0].counters();
        assert_eq!(
            (counters.chains, counters.batches, counters.doorbells),
            (5, 1, 1)
        );
        assert_eq!(rig.function.registers().queues[0].rings, 1);
        rig.disk.serve(0);
        while rig.queues[0].poll(&rig.platform).unwrap().is_some() {}
        rig.finish();
    }
}

#[test]
fn a_full_queue_says_busy_and_works_again_after_a_completion() {
    for features in ring_feature_sets() {
        let mut rig = rig(5, features);
        let mut submitted = 0;
        let rejected = loop {
            match rig.queues[0].submit(&rig.platform, read(0, 512, submitted)) {
                Ok(()) => submitted += 1,
                Err(rejected) => break rejected,
            }
        };
        assert_eq!(rejected.reason, Refusal::Busy);
        assert!(submitted >= 10, "{submitted} requests fit");
        rig.queues[0].kick();
        rig.disk.serve(0);
        let mut seen = 0;
        while let Some(completion) = rig.queues[0].poll(&rig.platform).unwrap() {
            assert_eq!(completion.cookie, seen);
            seen += 1;
        }
        assert_eq!(seen, submitted);
        assert_eq!(rig.run(read(0, 512, 7)).cookie, 7);
        rig.finish();
    }
}

#[test]
fn a_device_that_names_its_queues_is_rung_by_these_names() {
    for data in [0, feature::NOTIFICATION_DATA] {
        let mut rig = rig(5, feature::NOTIF_CONFIG_DATA | data);
        assert_ne!(rig.driver.features() & feature::NOTIF_CONFIG_DATA, 0);
        for queue in [1, 0] {
            rig.queues[usize::from(queue)]
                .submit(&rig.platform, read(0, 512, 1))
                .unwrap();
            rig.queues[usize::from(queue)].kick();
            let rung = rig.function.registers().queues[usize::from(queue)].last_ring;
            assert_eq!(rung as u16, driver_fakes::notify_name(queue));
            assert_eq!(rung >> 16, u32::from(data != 0), "position {rung:#x}");
            rig.disk.serve(queue);
            let done = rig.queues[usize::from(queue)].poll(&rig.platform);
            assert!(done.unwrap().is_some());
        }
        rig.finish();
    }
}

#[test]
fn polled_queues_get_no_interrupts_and_armed_ones_do() {
    for features in [
        0,
        feature::RING_PACKED,
        feature::RING_EVENT_IDX,
        feature::RING_EVENT_IDX | feature::RING_PACKED,
    ] {
        let mut rig = rig(5, features);
        rig.queues[0].disarm();
        for cookie in 0..8 {
            rig.run(read(0, 512, cookie));
        }
        // With EVENT_IDX silence is only a wish once in a while; at most one interrupt slips through.
        let slipped = rig.disk.interrupts.get(&0).copied().unwrap_or(0);
        assert!(slipped <= 1, "{slipped} interrupts while polling");
        assert!(!rig.queues[0].arm());
        rig.run(read(0, 512, 9));
        assert_eq!(
            rig.disk.interrupts.get(&0).copied().unwrap_or(0),
            slipped + 1
        );
        rig.finish();
    }
}

#[test]
fn a_resize_is_noticed_and_moves_the_border() {
    let mut rig = rig(5, 0);
    let half = DISK as u64 / 1024;
    rig.function
        .registers()
        .change_config(0, &half.to_le_bytes());
    assert_eq!(
        rig.driver.config_changed(&rig.platform),
        Ok(block_driver::ConfigChange::Resized(half))
    );
    assert_eq!(
        rig.driver.config_changed(&rig.platform),
        Ok(block_driver::ConfigChange::Nothing)
    );
    assert_eq!(
        rig.queues[1]
            .submit(&rig.platform, read(half, 512, 0))
            .unwrap_err()
            .reason,
        Refusal::OutOfRange
    );
    assert_eq!(rig.driver.info().capacity_sectors, half);
    rig.finish();
}

#[test]
fn the_write_cache_can_be_switched() {
    let rig = rig(5, 0);
    assert_eq!(rig.driver.write_cache(), Ok(true));
    rig.driver.set_write_cache(false).unwrap();
    assert_eq!(rig.driver.write_cache(), Ok(false));
    rig.finish();
}

/// What a write that is under way leaves a block as, until it completes.
type Shadow = Vec<u8>;

struct Storm {
    rig: Rig,
    random: Random,
    shadow: Shadow,
    /// Outstanding by cookie: first sector, sectors, data of a write.
    outstanding: HashMap<u64, (u64, u64, Option<Vec<u8>>)>,
    next: u64,
}

impl Storm {
    fn new(seed: u64, features: u64) -> Self {
        let mut rig = rig(seed, features);
        rig.platform.exhausted_one_in = 50;
        rig.platform.odd_pieces = !seed.is_multiple_of(2);
        rig.disk.habits = Habits {
            reorders: true,
            delays_one_in: 3,
            drops_interrupt_one_in: 4,
            fails_one_in: 40,
            ..Habits::GOOD
        };
        Self {
            rig,
            random: Random::new(seed),
            shadow: vec![0; DISK],
            outstanding: HashMap::new(),
            next: 0,
        }
    }

    /// Picks a range that no outstanding request touches.
    fn free_range(&mut self) -> Option<(u64, u64)> {
        let sectors = 1 + self.random.below(16);
        let sector = self.random.below(DISK as u64 / 512 - sectors);
        let clash = self
            .outstanding
            .values()
            .any(|(at, len, _)| sector < at + len && *at < sector + sectors);
        (!clash).then_some((sector, sectors))
    }

    fn submit(&mut self) {
        let Some((sector, sectors)) = self.free_range() else {
            return;
        };
        let cookie = self.next;
        let bytes = sectors as usize * 512;
        let (request, data) = match self.random.below(8) {
            0 => (plain(Operation::Flush, cookie), None),
            1 => (
                plain(
                    Operation::WriteZeroes {
                        sector,
                        sectors,
                        unmap: false,
                    },
                    cookie,
                ),
                Some(vec![0; bytes]),
            ),
            2..=4 => {
                let fill = self.random.next_u64().to_le_bytes();
                let data: Vec<u8> = (0..bytes).map(|i| fill[i % 8] ^ (i / 8) as u8).collect();
                (write(sector, data.clone(), cookie), Some(data))
            }
            _ => (read(sector, bytes, cookie), None),
        };
        let queue = self.random.index(2);
        match self.rig.queues[queue].submit(&self.rig.platform, request) {
            Ok(()) => {
                self.outstanding.insert(cookie, (sector, sectors, data));
                self.next += 1;
            }
            Err(rejected) => assert!(matches!(rejected.reason, Refusal::Busy | Refusal::TooLarge)),
        }
    }

    fn complete(&mut self, queue: usize) {
        while let Some(completion) = self.rig.queues[queue].poll(&self.rig.platform).unwrap() {
            let (sector, sectors, data) = self
                .outstanding
                .remove(&completion.cookie)
                .expect("completed twice");
            let range = sector as usize * 512..(sector + sectors) as usize * 512;
            match (completion.result, data, completion.operation) {
                (Ok(_), Some(data), _) => self.shadow[range].copy_from_slice(&data),
                (Ok(_), None, Operation::Read { .. }) => {
                    assert_eq!(
                        completion.buffer.map(|mut b| std::mem::take(&mut b.data)),
                        Some(self.shadow[range].to_vec())
                    );
                }
                // A failed write may have been carried out in part.
                (Err(RequestError::Io), Some(_), _) => {
                    self.shadow[range.clone()].copy_from_slice(&self.rig.disk.data[range])
                }
                (Err(RequestError::Io) | Ok(_), None, _) => {}
                (other, _, _) => panic!("{other:?}"),
            }
        }
    }

    fn run(mut self, rounds: usize) {
        for _ in 0..rounds {
            for _ in 0..self.random.below(6) {
                self.submit();
            }
            let queue = self.random.index(2);
            self.rig.queues[queue].kick();
            if self.random.one_in(2) {
                self.rig.disk.serve(queue as u16);
            }
            self.complete(self.random.clone().index(2));
            if self.random.one_in(5) {
                let _ = self.rig.queues[queue].arm();
            } else if self.random.one_in(5) {
                self.rig.queues[queue].disarm();
            }
        }
        self.rig.disk.habits = Habits::GOOD;
        for _ in 0..4 {
            for queue in 0..2 {
                self.rig.queues[queue].kick();
                self.rig.disk.serve(queue as u16);
                self.complete(queue);
            }
        }
        assert!(
            self.outstanding.is_empty(),
            "requests were lost: {:?}",
            self.outstanding.keys()
        );
        assert_eq!(self.rig.disk.data, self.shadow);
        self.rig.finish();
    }
}

#[test]
fn storms_of_requests_lose_nothing_and_read_what_was_written() {
    for features in ring_feature_sets() {
        for seed in 0..4 {
            Storm::new(seed, features).run(400);
        }
    }
}

#[test]
fn a_buffer_comes_back_as_it_went_when_it_cannot_be_mapped() {
    let mut rig = rig(5, 0);
    rig.platform.exhausted_one_in = 1;
    let rejected = rig.queues[0]
        .submit(&rig.platform, write(0, vec![7; 512], 3))
        .unwrap_err();
    assert_eq!(
        (rejected.reason, rejected.request.cookie),
        (Refusal::Busy, 3)
    );
    assert_eq!(
        rejected
            .request
            .buffer
            .map(|mut b: FakeBuffer| std::mem::take(&mut b.data)),
        Some(vec![7; 512])
    );
    rig.finish();
}

#[test]
fn split_requests_fill_the_ring_to_the_last_descriptor_without_breaking_it() {
    for features in [
        feature::RING_INDIRECT_DESC,
        feature::RING_INDIRECT_DESC | feature::RING_PACKED,
    ] {
        for small in 0..20 {
            let mut rig = rig(small, features);
            let mut submitted = 0;
            for _ in 0..small {
                submitted +=
                    usize::from(rig.queues[0].submit(&rig.platform, read(0, 512, 0)).is_ok());
            }
            loop {
                match rig.queues[0].submit(&rig.platform, read(0, 65536, 0)) {
                    Ok(()) => submitted += 1,
                    Err(rejected) if rejected.reason == Refusal::Busy => break,
                    Err(rejected) => assert_eq!(rejected.reason, Refusal::TooLarge),
                }
            }
            assert_eq!(rig.queues[0].broken(), None);
            rig.queues[0].kick();
            rig.disk.serve(0);
            while rig.queues[0].poll(&rig.platform).unwrap().is_some() {
                submitted -= 1;
            }
            assert_eq!(submitted, 0);
            rig.finish();
        }
    }
}

#[test]
fn a_disk_that_shrinks_under_io_fails_what_is_beyond_its_end_and_goes_on() {
    let mut rig = rig(5, 0);
    let half = DISK as u64 / 1024;
    rig.queues[0]
        .submit(&rig.platform, read(half, 512, 1))
        .unwrap();
    rig.queues[0]
        .submit(&rig.platform, read(0, 512, 2))
        .unwrap();
    rig.queues[0].kick();
    rig.disk.data.truncate(DISK / 2);
    rig.function
        .registers()
        .change_config(0, &half.to_le_bytes());
    assert!(rig.driver.config_changed(&rig.platform).is_ok());
    rig.disk.serve(0);
    let beyond = rig.queues[0].poll(&rig.platform).unwrap().unwrap();
    assert_eq!((beyond.cookie, beyond.result), (1, Err(RequestError::Io)));
    assert_eq!(
        rig.queues[0].poll(&rig.platform).unwrap().unwrap().result,
        Ok(Success::Done)
    );
    rig.finish();
}
