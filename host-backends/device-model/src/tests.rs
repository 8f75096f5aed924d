//! Tests of the queue and the in-flight record. One rule: a crash is a `Queue` forgotten at some point; what the next
//! one finds must be every request once.

use crate::InflightRegion;
use crate::Queue;
use crate::QueueCounters;
use crate::QueueSetup;
use crate::RingAddresses;
use guest_memory::DirtyLog;
use guest_memory::GuestMemory;
use guest_memory::RegionSpec;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use virtio_spec::feature;
use virtqueue::ChainBatch;
use virtqueue::DriverQueue;
use virtqueue::Format;
use virtqueue::QueueConfig;
use virtqueue::QueueState;
use virtqueue::Rings;
use virtqueue::Segment;
use virtqueue::Token;

const GUEST: u64 = 0x10_0000;
const USER: u64 = 0x5000_0000_0000;
const SIZE: u64 = 1 << 20;
const FORMATS: [Format; 2] = [Format::Split, Format::Packed];

/// A driver, its memory, and the in-flight area: all that outlives a back-end.
struct World {
    config: QueueConfig,
    memory: Arc<GuestMemory>,
    driver: DriverQueue,
    region: InflightRegion,
    area: OwnedFd,
    file: OwnedFd,
    base: u32,
}

fn config(format: Format, in_order: bool) -> QueueConfig {
    let mut features = feature::VERSION_1 | feature::RING_EVENT_IDX | feature::RING_INDIRECT_DESC;
    if format == Format::Packed {
        features |= feature::RING_PACKED;
    }
    if in_order {
        features |= feature::IN_ORDER;
    }
    QueueConfig::from_features(16, features).unwrap()
}

fn addresses(log: Option<u64>) -> RingAddresses {
    RingAddresses {
        descriptors: USER,
        driver: USER + 0x1000,
        device: USER + 0x2000,
        log,
    }
}

impl World {
    fn new(config: QueueConfig) -> Self {
        let file = host_os::memfd::create("ram", SIZE).unwrap();
        let spec = RegionSpec {
            guest_addr: GUEST,
            size: SIZE,
            user_addr: USER,
            mmap_offset: 0,
        };
        let memory = GuestMemory::new(vec![(spec, file.try_clone().unwrap())]).unwrap();
        let layout = config.layout();
        let rings = Rings {
            descriptors: memory.user_ring(USER, layout.descriptors.size).unwrap(),
            driver: memory.user_ring(USER + 0x1000, layout.driver.size).unwrap(),
            device: memory.user_ring(USER + 0x2000, layout.device.size).unwrap(),
        };
        let driver = DriverQueue::new(config, rings).unwrap();
        let new = InflightRegion::create(2, 16, Some(config.format), 0).unwrap();
        let area = new.fd;
        let region = InflightRegion::from_fd(area.as_fd(), 0, new.size, 2, 16).unwrap();
        let base = if config.format == Format::Packed {
            0x8000_8000
        } else {
            0
        };
        Self {
            config,
            memory: Arc::new(memory),
            driver,
            region,
            area,
            file,
            base,
        }
    }

    /// A back-end's queue, new or after a crash. The front-end's base stays what it was at the first start.
    fn attach(&self) -> Queue {
        self.try_attach().unwrap()
    }

    fn try_attach(&self) -> Result<Queue, crate::Error> {
        Queue::new(QueueSetup {
            config: self.config,
            addresses: addresses(None),
            base: self.base,
            memory: self.memory.clone(),
            record: Some(self.region.record(1, self.config.format)?),
            call: None,
            counters: Arc::new(QueueCounters::default()),
        })
    }

    fn submit(&mut self, count: usize) -> Vec<u16> {
        let ids = (0..count).map(|n| {
            let readable = [Segment {
                addr: GUEST + 0x8000 + n as u64 * 16,
                len: 16,
            }];
            let writable = [Segment {
                addr: GUEST + 0x9000 + n as u64,
                len: 1,
            }];
            self.driver.add(&readable, &writable, None).unwrap()
        });
        let ids = ids.collect();
        let _ = self.driver.publish();
        ids
    }

    fn reap(&mut self) -> Vec<u16> {
        let mut ids = Vec::new();
        while let Some(used) = self.driver.pop().unwrap() {
            ids.push(used.id);
        }
        ids
    }
}

fn take(queue: &mut Queue, max: usize) -> Vec<Token> {
    let mut batch = ChainBatch::with_capacity(16, 64);
    let mut all = Vec::new();
    loop {
        batch.clear();
        match queue.take(&mut batch, max - all.len()).unwrap() {
            0 => return all,
            _ => all.extend(batch.iter().map(|chain| chain.token)),
        }
        if all.len() == max {
            return all;
        }
    }
}

#[test]
fn requests_taken_before_a_crash_come_again_once_and_in_order() {
    for config in FORMATS.map(|format| config(format, false)) {
        let mut world = World::new(config);
        let ids = world.submit(5);
        let mut queue = world.attach();
        let taken = take(&mut queue, 3);
        assert_eq!(taken.len(), 3);
        drop(queue);
        let mut queue = world.attach();
        assert_eq!(queue.in_flight(), 3);
        let again = take(&mut queue, 16);
        assert_eq!(
            again[..3],
            taken[..],
            "the recorded ones come first, in their order"
        );
        assert_eq!(again.len(), 5);
        again
            .iter()
            .rev()
            .for_each(|token| queue.complete(*token, 1).unwrap());
        queue.publish();
        assert_eq!(
            world.reap().into_iter().collect::<BTreeSet<_>>(),
            ids.into_iter().collect()
        );
        drop(queue);
        assert_eq!(world.attach().in_flight(), 0);
    }
}

#[test]
fn crash_before_the_first_completion_loses_nothing() {
    // REGRESSIONS row 46 (SPDK issue 3766): a record that was never completed to must not clear descriptor 0.
    for config in FORMATS.map(|format| config(format, false)) {
        let mut world = World::new(config);
        // The ring has a history that the record does not know of.
        let mut early = world.attach();
        for _ in 0..7 {
            world.submit(1);
            let token = take(&mut early, 1)[0];
            early.complete(token, 0).unwrap();
            early.publish();
            world.reap();
        }
        world.base = early.base();
        drop(early);
        world.region.wipe();
        world.submit(1);
        let mut queue = world.attach();
        let taken = take(&mut queue, 1);
        drop(queue);
        let mut queue = world.attach();
        assert_eq!(take(&mut queue, 16), taken);
    }
}

#[test]
fn completed_but_unpublished_requests_come_again() {
    for config in FORMATS.map(|format| config(format, false)) {
        let mut world = World::new(config);
        world.submit(4);
        let mut queue = world.attach();
        let taken = take(&mut queue, 4);
        queue.complete(taken[2], 1).unwrap();
        queue.complete(taken[0], 1).unwrap();
        drop(queue);
        assert!(world.reap().is_empty());
        let mut queue = world.attach();
        assert_eq!(take(&mut queue, 16), taken);
    }
}

#[test]
fn published_requests_do_not_come_again_out_of_order_included() {
    for config in FORMATS.map(|format| config(format, false)) {
        let mut world = World::new(config);
        world.submit(6);
        let mut queue = world.attach();
        let taken = take(&mut queue, 6);
        for at in [4, 1] {
            queue.complete(taken[at], 1).unwrap();
        }
        queue.publish();
        assert_eq!(world.reap().len(), 2);
        // The driver reuses what came back, so descriptors in the ring are overwritten.
        world.submit(2);
        let mut fresh = take(&mut queue, 1);
        drop(queue);
        let mut queue = world.attach();
        let mut expected = vec![taken[0], taken[2], taken[3], taken[5]];
        expected.append(&mut fresh);
        let again = take(&mut queue, 16);
        assert_eq!(again[..5], expected[..]);
        assert_eq!(again.len(), 6);
        again
            .iter()
            .for_each(|token| queue.complete(*token, 1).unwrap());
        queue.publish();
        assert_eq!(world.reap().len(), 6);
    }
}

#[test]
fn in_order_queue_recovers_from_any_point() {
    for config in FORMATS.map(|format| config(format, true)) {
        for completed in 0..=4 {
            let mut world = World::new(config);
            world.submit(4);
            let mut queue = world.attach();
            let taken = take(&mut queue, 4);
            // Completed backwards: nothing is visible until the first one is.
            for token in taken.iter().rev().take(completed) {
                queue.complete(*token, 1).unwrap();
            }
            queue.publish();
            drop(queue);
            let visible = if completed == 4 { 4 } else { 0 };
            assert_eq!(world.reap().len(), visible);
            let mut queue = world.attach();
            let again = take(&mut queue, 16);
            assert_eq!(again.len(), 4 - visible);
            again
                .iter()
                .for_each(|token| queue.complete(*token, 1).unwrap());
            queue.publish();
            assert_eq!(world.reap().len(), 4 - visible);
        }
    }
}

/// Bytes of the in-flight area, for putting an older state back.
fn area(world: &World) -> Vec<u8> {
    let mut bytes = vec![0; InflightRegion::size(2, 16, Some(world.config.format)) as usize];
    nix::sys::uio::pread(&world.area, &mut bytes, 0).unwrap();
    bytes
}

#[test]
fn crash_between_publishing_and_clearing_the_record_completes_once() {
    for config in FORMATS.map(|format| config(format, false)) {
        for batch in [1, 3] {
            let mut world = World::new(config);
            world.submit(5);
            let mut queue = world.attach();
            let taken = take(&mut queue, 5);
            for token in &taken[1..=batch] {
                queue.complete(*token, 1).unwrap();
            }
            // The record as it stands in the middle of `publish`: announced, visible, not cleared.
            let before = area(&world);
            queue.publish();
            let after = area(&world);
            let middle = mix(&world, &before, &after);
            drop(queue);
            nix::sys::uio::pwrite(&world.area, &middle, 0).unwrap();
            assert_eq!(world.reap().len(), batch);
            let mut queue = world.attach();
            let again = take(&mut queue, 16);
            let expected: Vec<_> = taken
                .iter()
                .filter(|t| !taken[1..=batch].contains(t))
                .copied()
                .collect();
            assert_eq!(again, expected, "{:?} batch {batch}", config.format);
        }
    }
}

/// Announcements from `after`, in-flight flags and commit marks from `before`.
fn mix(world: &World, before: &[u8], after: &[u8]) -> Vec<u8> {
    let stride = before.len() / 2;
    let mut middle = after.to_vec();
    let record = &mut middle[stride..];
    let old = &before[stride..];
    let (commit, first, step) = match world.config.format {
        Format::Split => ([14..16, 0..0, 0..0], 16, 16),
        Format::Packed => ([14..16, 18..20, 21..22], 32, 32),
    };
    for range in commit {
        record[range.clone()].copy_from_slice(&old[range]);
    }
    for entry in 0..16 {
        record[first + entry * step] = old[first + entry * step];
    }
    middle
}

#[test]
fn record_survives_hundreds_of_crashes_at_random_points() {
    for config in FORMATS.map(|format| config(format, false)) {
        let mut world = World::new(config);
        let mut seed = 0x1234_5678_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let mut lent = BTreeSet::new();
        for _ in 0..400 {
            let room = usize::from(world.driver.free_descriptors()) / 2;
            let count = random(4).min(room as u64) as usize;
            lent.extend(world.submit(count));
            let mut queue = world.attach();
            let max = random(6) as usize + 1;
            let mut taken = take(&mut queue, max);
            while !taken.is_empty() && random(3) != 0 {
                let token = taken.swap_remove(random(taken.len() as u64) as usize);
                queue.complete(token, 1).unwrap();
                if random(2) == 0 {
                    queue.publish();
                }
            }
            drop(queue);
            for id in world.reap() {
                assert!(lent.remove(&id), "id {id} completed twice");
            }
        }
        let mut queue = world.attach();
        let rest = take(&mut queue, 64);
        assert_eq!(rest.len(), lent.len(), "nothing is lost");
        rest.iter()
            .for_each(|token| queue.complete(*token, 1).unwrap());
        queue.publish();
        assert_eq!(world.reap().into_iter().collect::<BTreeSet<_>>(), lent);
    }
}

#[test]
fn any_damage_to_the_record_is_refused_or_survived() {
    // REGRESSIONS row 34: the record comes from the front-end.
    for config in FORMATS.map(|format| config(format, false)) {
        let mut world = World::new(config);
        world.submit(6);
        let mut queue = world.attach();
        let taken = take(&mut queue, 6);
        queue.complete(taken[1], 1).unwrap();
        queue.publish();
        drop(queue);
        world.reap();
        let good = area(&world);
        for at in good.len() / 2..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                nix::sys::uio::pwrite(&world.area, &bad, 0).unwrap();
                let Ok(mut queue) = world.try_attach() else {
                    continue;
                };
                let mut batch = ChainBatch::with_capacity(16, 64);
                for _ in 0..4 {
                    if queue.take(&mut batch, 16).is_err() {
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn in_flight_area_with_impossible_geometry_is_refused() {
    let world = World::new(config(Format::Split, false));
    let size = InflightRegion::size(2, 16, Some(Format::Split));
    let map = |offset, size, queues, entries| {
        InflightRegion::from_fd(world.area.as_fd(), offset, size, queues, entries)
    };
    assert!(map(0, size, 2, 16).is_ok());
    assert!(map(0, size, 0, 16).is_err());
    assert!(map(0, size, 2, 0).is_err());
    assert!(map(0, size, u16::MAX, 16).is_err());
    assert!(map(0, u64::MAX, u16::MAX, u16::MAX).is_err());
    assert!(map(u64::MAX - 63, size, 2, 16).is_err());
    assert!(map(8, size, 2, 16).is_err());
    assert!(map(0, size + 1, 2, 17).is_err(), "the file is too small");
    assert!(
        map(0, size, 2, 16)
            .unwrap()
            .record(2, Format::Split)
            .is_err()
    );
    assert!(
        map(0, size, 2, 16)
            .unwrap()
            .record(1, Format::Packed)
            .is_err()
    );
}

#[test]
fn pages_written_by_the_device_are_marked_before_the_driver_sees_them() {
    for config in FORMATS.map(|format| config(format, false)) {
        let mut world = World::new(config);
        let bits = host_os::memfd::create("log", 4096).unwrap();
        let log = Arc::new(DirtyLog::new(bits.as_fd(), 0, 4096).unwrap());
        let memory = Arc::new(world.memory.with_log(Some(log.clone())).unwrap());
        let mut queue = Queue::new(QueueSetup {
            config,
            addresses: addresses(Some(GUEST + 0x2000)),
            base: world.base,
            memory,
            record: None,
            call: None,
            counters: Arc::new(QueueCounters::default()),
        })
        .unwrap();
        world.submit(2);
        let taken = take(&mut queue, 2);
        assert!(!log.is_marked(GUEST + 0x9000));
        queue.complete(taken[0], 1).unwrap();
        assert!(log.is_marked(GUEST + 0x9000));
        assert!(!log.is_marked(GUEST + 0x8000), "only read");
        queue.publish();
        let ring = if config.format == Format::Split {
            GUEST + 0x2000
        } else {
            GUEST
        };
        assert!(log.is_marked(ring));
        let _ = &world.file;
    }
}

#[test]
fn of_a_large_ring_only_the_pages_that_were_written_are_marked() {
    const AREA: u64 = 0x8000;
    for packed in [false, true] {
        let ring = if packed { feature::RING_PACKED } else { 0 };
        let features = feature::VERSION_1 | feature::RING_EVENT_IDX | ring;
        let config = QueueConfig::from_features(1024, features).unwrap();
        let file = host_os::memfd::create("ram", 8 * AREA).unwrap();
        let spec = RegionSpec {
            guest_addr: 0,
            size: 8 * AREA,
            user_addr: USER,
            mmap_offset: 0,
        };
        let memory = GuestMemory::new(vec![(spec, file)]).unwrap();
        let area = |n: u64, len: usize| memory.user_ring(USER + n * AREA, len).unwrap();
        let layout = config.layout();
        let rings = Rings {
            descriptors: area(0, layout.descriptors.size),
            driver: area(1, layout.driver.size),
            device: area(2, layout.device.size),
        };
        let mut driver = DriverQueue::new(config, rings).unwrap();
        let bits = host_os::memfd::create("log", 4096).unwrap();
        let log = |fd: &OwnedFd| Arc::new(DirtyLog::new(fd.as_fd(), 0, 4096).unwrap());
        let mut queue = Queue::new(QueueSetup {
            config,
            addresses: RingAddresses {
                descriptors: USER,
                driver: USER + AREA,
                device: USER + 2 * AREA,
                log: Some(2 * AREA),
            },
            base: QueueState::fresh(config.format).encode(config.format),
            memory: Arc::new(memory.with_log(Some(log(&bits))).unwrap()),
            record: None,
            call: None,
            counters: Arc::new(QueueCounters::default()),
        })
        .unwrap();
        // The start marks all; a front-end takes the bits and clears them.
        let written = if packed { 0 } else { 2 * AREA };
        assert!(log(&bits).is_marked(written + 0x1000));
        nix::sys::uio::pwrite(&bits, &[0; 4096], 0).unwrap();
        let segment = Segment {
            addr: 4 * AREA,
            len: 16,
        };
        driver.add(&[segment], &[], None).unwrap();
        let _ = driver.publish();
        let taken = take(&mut queue, 1);
        queue.complete(taken[0], 0).unwrap();
        queue.publish();
        assert!(log(&bits).is_marked(written));
        assert!(!log(&bits).is_marked(written + 0x1000), "not written to");
        let _ = queue.arm();
        let last = 2 * AREA + layout.device.size as u64 - 1;
        assert!(log(&bits).is_marked(last), "the event index, or structure");
        assert!(!log(&bits).is_marked(written + 0x1000), "not written to");
    }
}

/// Packed rings of few entries and no record, so that chains soon straddle the ring's end.
fn small_packed(in_order: bool) -> QueueConfig {
    let mut features = feature::VERSION_1 | feature::RING_PACKED | feature::RING_EVENT_IDX;
    if in_order {
        features |= feature::IN_ORDER;
    }
    QueueConfig::from_features(8, features).unwrap()
}

impl World {
    fn attach_without_record(&self) -> Queue {
        Queue::new(QueueSetup {
            config: self.config,
            addresses: addresses(None),
            base: self.base,
            memory: self.memory.clone(),
            record: None,
            call: None,
            counters: Arc::new(QueueCounters::default()),
        })
        .unwrap()
    }

    /// Submits one request of `descriptors`.
    fn submit_chain(&mut self, descriptors: usize) -> u16 {
        let segment = Segment {
            addr: GUEST + 0x8000,
            len: 16,
        };
        let readable = vec![segment; descriptors - 1];
        let id = self.driver.add(&readable, &[segment], None).unwrap();
        let _ = self.driver.publish();
        id
    }

    fn fill(&mut self, descriptors: usize) -> Vec<u16> {
        let mut ids = Vec::new();
        while usize::from(self.driver.free_descriptors()) >= descriptors {
            ids.push(self.submit_chain(descriptors));
        }
        ids
    }

    /// Serves `ids`, which wait, and nothing else.
    fn serve(&mut self, queue: &mut Queue, ids: &[u16], what: &str) {
        let tokens = take(queue, 16);
        assert_eq!(tokens.len(), ids.len(), "{what}");
        for token in tokens {
            queue.complete(token, 1).unwrap();
        }
        queue.publish();
        let mut back = self.reap();
        back.sort_unstable();
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        assert_eq!(back, ids, "{what}");
    }
}

/// What front-ends make of a packed base that they were told: all of it, or the half that a split ring has.
const DIALECTS: [fn(u32) -> u32; 2] = [|base| base, |base| base & 0xffff];

#[test]
fn packed_base_is_understood_in_every_dialect() {
    // Fresh rings, empty or with any number of requests waiting.
    for base in [0x8000_8000, 0x8000, 0] {
        for descriptors in 1..=3 {
            for waiting in 0..=8 / descriptors {
                let mut world = World::new(small_packed(false));
                world.base = base;
                let what = format!("{base:#x}, {waiting} times {descriptors}");
                let ids: Vec<_> = (0..waiting)
                    .map(|_| world.submit_chain(descriptors))
                    .collect();
                let mut queue = world.attach_without_record();
                world.serve(&mut queue, &ids, &what);
                let ids = world.fill(descriptors);
                world.serve(&mut queue, &ids, &what);
            }
        }
    }
}

#[test]
fn packed_ring_goes_on_from_wherever_it_was_stopped() {
    for (dialect, told) in DIALECTS.iter().enumerate() {
        // Lengths of the requests so far: each by itself, then all sorts.
        for pattern in [&[1][..], &[2], &[3], &[8], &[3, 1], &[1, 2, 3], &[5, 3, 2]] {
            for rounds in 0..64 {
                for case in 0..8 {
                    let (waiting, batch, in_order) =
                        (case & 1 != 0, 1 + (case >> 1 & 1), case & 4 != 0);
                    let mut world = World::new(small_packed(in_order));
                    let mut queue = world.attach_without_record();
                    let mut lengths = pattern.iter().cycle();
                    for _ in 0..rounds {
                        let (mut ids, mut used) = (Vec::new(), 0);
                        while ids.len() < batch {
                            let length = *lengths.next().unwrap();
                            used += length;
                            if used > 8 {
                                break;
                            }
                            ids.push(world.submit_chain(length));
                        }
                        world.serve(&mut queue, &ids, "on the way");
                    }
                    world.base = told(queue.base());
                    drop(queue);
                    let what = format!(
                        "dialect {dialect}, {pattern:?}, {rounds} times {batch}, base {:#x}, waiting: {waiting}, in order: {in_order}",
                        world.base
                    );
                    let ids = if waiting { world.fill(3) } else { Vec::new() };
                    let mut queue = world.attach_without_record();
                    world.serve(&mut queue, &ids, &what);
                    let ids = world.fill(1);
                    world.serve(&mut queue, &ids, &what);
                }
            }
        }
    }
}

#[test]
fn a_ring_that_came_round_to_its_first_position_is_not_taken_for_a_new_one() {
    // How many requests bring the base round to the value that a new ring has, and that value.
    let rounds = [
        (config(Format::Split, false), 1 << 16, 0),
        (small_packed(false), 8, 0),
    ];
    for (config, requests, first) in rounds {
        let mut world = World::new(config);
        let mut queue = world.attach_without_record();
        let new = |world: &World, failed| {
            crate::is_ring_new(&config, &addresses(None), (failed, first), &world.memory).unwrap()
        };
        assert!(new(&world, first), "{config:?}: nothing was used yet");
        for _ in 0..requests {
            let id = world.submit_chain(1);
            world.serve(&mut queue, &[id], "on the way");
        }
        assert_eq!(queue.base(), first, "{config:?}");
        assert!(!new(&world, first), "{config:?}: it came round");
        assert!(new(&world, first + 1), "{config:?}: the driver went back");
    }
}

#[test]
fn split_base_that_is_not_the_used_index_is_corrected() {
    let mut world = World::new(config(Format::Split, false));
    world.base = 4711;
    world.submit(1);
    let mut queue = world.attach();
    assert_eq!(take(&mut queue, 1).len(), 1);
}

#[test]
fn ring_outside_of_memory_is_refused() {
    let world = World::new(config(Format::Split, false));
    for bad in [0, USER + SIZE, USER + SIZE - 8, u64::MAX] {
        for area in 0..3 {
            let mut places = [USER, USER + 0x1000, USER + 0x2000];
            places[area] = bad;
            let [descriptors, driver, device] = places;
            let setup = QueueSetup {
                config: world.config,
                addresses: RingAddresses {
                    descriptors,
                    driver,
                    device,
                    log: None,
                },
                base: 0,
                memory: world.memory.clone(),
                record: None,
                call: None,
                counters: Arc::new(QueueCounters::default()),
            };
            assert!(Queue::new(setup).is_err());
        }
    }
}

#[test]
fn buffers_given_back_are_not_in_flight_after_a_crash() {
    for in_order in [false, true] {
        for config in FORMATS.map(|format| config(format, in_order)) {
            let mut world = World::new(config);
            let mut done = 0;
            for round in 0..40 {
                let submitted = world.submit(6).len();
                let mut queue = world.attach();
                let mut batch = ChainBatch::with_capacity(16, 64);
                queue.take(&mut batch, 5).unwrap();
                queue.give_back(&mut batch, 5 - round % 4).unwrap();
                assert_eq!(queue.in_flight(), round % 4);
                // The crash, with some chains taken and some given back.
                drop(queue);
                let mut queue = world.attach();
                assert_eq!(queue.in_flight(), round % 4, "{config:?}");
                let tokens = take(&mut queue, 16);
                assert_eq!(tokens.len(), submitted, "{config:?}");
                for token in tokens {
                    queue.complete(token, 0).unwrap();
                }
                queue.publish();
                done += world.reap().len();
            }
            assert_eq!(done, 240, "{config:?}");
        }
    }
}
