//! The real balloon driver core against the real balloon backend on a real memfd, with deaths of the backend and resets, by seed.
//!
//! Rule: a ledger of pages knows who has each page, every page that the guest uses holds a pattern that is read back, and what the host
//! spends is what the kernel says of the file.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use balloon_backend::BalloonDevice;
use balloon_backend::BalloonSpec;
use balloon_driver::BalloonDriver;
use balloon_driver::Block;
use balloon_driver::Options;
use balloon_driver::Pages;
use balloon_driver::Progress;
use balloon_driver::Quiesced;
use balloon_driver::ResetProgress;
use balloon_driver::Statistics;
use balloon_driver::WANTED_FEATURES;
use device_model::Device;
use driver_fakes::FakeFunction;
use driver_fakes::FakeInterrupts;
use driver_fakes::FakePages;
use driver_fakes::FakePlatform;
use driver_fakes::FakeRam;
use driver_fakes::Owner;
use driver_fakes::Random;
use driver_fakes::feature_sets;
use loopback::Backend;
use loopback::Shared;
use loopback::shared_memory;
use virtio_spec::balloon::CONFIG_ACTUAL_OFFSET;
use virtio_spec::balloon::CONFIG_POISON_OFFSET;
use virtio_spec::balloon::stat;
use virtio_spec::feature;
use virtqueue::PeerMemory;

const PAGE: usize = 4096;
const ARENA: u64 = 1 << 20;
const RAM: usize = 4096;

/// The guest's allocator: the ledger, and real memory behind it.
struct Guest {
    pages: FakePages,
    shared: Shared,
    /// Pages that hold the guest's data.
    used: HashSet<u32>,
}

impl Guest {
    fn new(seed: u64) -> Self {
        let shared = shared_memory(ARENA + (RAM * PAGE) as u64, ARENA).unwrap();
        let first = u32::try_from(shared.rest / PAGE as u64).unwrap();
        let mut pages = FakePages::new(FakeRam::new(first, RAM), seed);
        pages.statistics.set(stat::MEMTOT, (RAM * PAGE) as u64);
        Self {
            pages,
            shared,
            used: HashSet::new(),
        }
    }

    /// What the host spends on the pages behind the arena, and at most on the arena as well.
    fn resident(&self) -> usize {
        self.shared.file.metadata().unwrap().blocks() as usize * 512
    }

    fn pattern(pfn: u32) -> [u8; PAGE] {
        let mut random = Random::new(u64::from(pfn));
        let mut bytes = [0; PAGE];
        for word in bytes.chunks_mut(8) {
            word.copy_from_slice(&random.next_u64().to_le_bytes());
        }
        bytes
    }

    fn page(&self, pfn: u32) -> virtqueue::RingMemory {
        let addr = u64::from(pfn) * PAGE as u64;
        self.shared.memory.span(addr, PAGE).unwrap()
    }

    /// Uses up to `count` free pages for data.
    fn use_pages(&mut self, count: usize) -> usize {
        let got = self.pages.use_pages(count);
        for pfn in self.pages.ram().pfns(Owner::Used) {
            if self.used.insert(pfn) {
                self.page(pfn).write(0, &Self::pattern(pfn));
            }
        }
        got
    }

    /// Reads all data back and frees up to `count` pages of it.
    fn verify_and_free(&mut self, count: usize) {
        for &pfn in &self.used {
            let mut bytes = [0; PAGE];
            self.page(pfn).read(0, &mut bytes);
            assert!(bytes == Self::pattern(pfn), "data of page {pfn:#x} changed");
        }
        self.pages.verify_and_free(count);
        let used: HashSet<u32> = self.pages.ram().pfns(Owner::Used).into_iter().collect();
        self.used.retain(|pfn| used.contains(pfn));
    }
}

struct Rig {
    guest: Guest,
    device: Arc<BalloonDevice>,
    backend: Backend,
    function: FakeFunction,
    platform: FakePlatform,
    driver: BalloonDriver<FakeFunction>,
    random: Random,
}

fn spec() -> BalloonSpec {
    BalloonSpec {
        free_page_hint: true,
        ..BalloonSpec::default()
    }
}

impl Rig {
    fn new(seed: u64, spec: BalloonSpec, options: Options) -> Self {
        let mut guest = Guest::new(seed);
        if let Some(poison) = options.poison {
            guest.pages.rely_on_poison(poison);
        }
        let platform = FakePlatform::with_arena(seed, guest.shared.arena.clone());
        let device = BalloonDevice::new(spec).unwrap();
        let memory = guest.shared.memory.clone();
        let (backend, function) = Backend::new(device.clone(), memory).unwrap();
        let interrupts = FakeInterrupts(3);
        let driver = BalloonDriver::start(&platform, function.clone(), &interrupts, options)
            .map_err(|failure| failure.error)
            .unwrap();
        let mut rig = Self {
            guest,
            device,
            backend,
            function,
            platform,
            driver,
            random: Random::new(seed ^ 7),
        };
        rig.sync();
        rig
    }

    /// Carries configuration both ways, as a front-end does.
    fn sync(&mut self) {
        let mut device = [0; 16];
        self.device.read_config(0, &mut device);
        let mut registers = self.function.registers();
        let driver = registers.config.clone();
        for at in [CONFIG_ACTUAL_OFFSET, CONFIG_POISON_OFFSET] {
            if driver[at..at + 4] != device[at..at + 4] {
                self.device
                    .write_config(at as u32, &driver[at..at + 4])
                    .unwrap();
            }
        }
        for at in [0, 8] {
            if driver[at..at + 4] != device[at..at + 4] {
                registers.change_config(at, &device[at..at + 4]);
            }
        }
        drop(registers);
        self.driver.config_changed(&self.platform).unwrap();
    }

    fn want(&mut self, pages: usize) {
        self.device.set_target((pages * PAGE) as u64);
        self.sync();
    }

    fn serve(&mut self) -> bool {
        (0..5).fold(false, |any, index| self.backend.serve(index).unwrap() | any)
    }

    fn settle(&mut self) -> Progress {
        for _ in 0..2000 {
            let progress = self.driver.work(&mut self.guest.pages).unwrap();
            let served = self.serve();
            self.sync();
            if progress != Progress::Waiting && !served && !self.driver.arm() {
                return progress;
            }
        }
        panic!("it never settles");
    }

    /// Reports all free pages.
    fn report(&mut self) {
        for _ in 0..1000 {
            let all = self.driver.report(&mut self.guest.pages).unwrap();
            self.settle();
            if all {
                return;
            }
        }
        panic!("there is always more to report");
    }

    fn inside(&self) -> usize {
        let ledger = self.guest.pages.ram().count(Owner::Ballooned);
        assert_eq!(self.driver.actual() as usize, ledger);
        assert_eq!(self.device.ballooned() as usize, ledger * PAGE);
        // After a reset the driver says nothing before something moved.
        let said = self.device.actual().unwrap_or(0);
        assert_eq!(said as usize, ledger * PAGE);
        ledger
    }

    /// Resets the device and empties the balloon.
    fn reset(&mut self) -> Quiesced {
        self.backend.drain().unwrap();
        self.driver.begin_reset(&self.platform);
        let ResetProgress::Done(proof) = self.driver.poll_reset(&self.platform) else {
            panic!("pending")
        };
        self.serve();
        while !self.driver.drain(&proof, &mut self.guest.pages).unwrap() {}
        let config = &mut self.function.registers().config;
        config[CONFIG_ACTUAL_OFFSET..CONFIG_ACTUAL_OFFSET + 4].fill(0);
        proof
    }

    fn finish(mut self) {
        let proof = self.reset();
        self.guest.verify_and_free(RAM);
        assert_eq!(self.guest.pages.ram().count(Owner::Free), RAM);
        drop(self.backend);
        let memory = self.driver.into_memory(&proof);
        let memory = memory.expect("something is outstanding");
        self.platform.release_all(memory);
        assert_eq!(self.platform.arena().live(), 0);
    }
}

fn options(features: u64) -> Options {
    let rings = feature::RING_PACKED | feature::RING_EVENT_IDX | feature::NOTIFICATION_DATA;
    Options {
        batch_pages: 64,
        features: WANTED_FEATURES & !rings | features,
        ..Options::default()
    }
}

fn ring_feature_sets() -> impl Iterator<Item = u64> {
    feature_sets(&[
        feature::RING_PACKED,
        feature::RING_EVENT_IDX,
        feature::NOTIFICATION_DATA,
    ])
    .into_iter()
}

#[test]
fn what_the_host_spends_falls_by_what_is_inflated_and_rises_with_use() {
    for (seed, features) in ring_feature_sets().enumerate() {
        let mut rig = Rig::new(seed as u64, spec(), options(features));
        assert_eq!(rig.guest.use_pages(RAM), RAM);
        let full = rig.guest.resident();
        assert!(full >= RAM * PAGE);
        rig.guest.verify_and_free(3000);
        assert_eq!(rig.guest.resident(), full, "free is not given back");
        rig.want(3000);
        assert_eq!(rig.settle(), Progress::Settled);
        assert_eq!(rig.inside(), 3000);
        assert_eq!(rig.guest.resident(), full - 3000 * PAGE);
        rig.guest.verify_and_free(0);
        rig.want(1000);
        rig.settle();
        assert_eq!(rig.guest.resident(), full - 3000 * PAGE);
        assert_eq!(rig.guest.use_pages(RAM), 2000);
        assert_eq!(rig.guest.resident(), full - 1000 * PAGE);
        rig.guest.verify_and_free(0);
        let metrics = rig.device.metrics();
        assert_eq!(metrics.repeated_pages, 0);
        assert_eq!(metrics.foreign_pages + metrics.unknown_pages, 0);
        assert_eq!(metrics.malformed_chains, 0);
        rig.finish();
    }
}

#[test]
fn reports_give_free_memory_back_and_what_is_used_stays() {
    for (seed, features) in ring_feature_sets().enumerate() {
        let mut rig = Rig::new(seed as u64, spec(), options(features));
        rig.guest.use_pages(RAM);
        let full = rig.guest.resident();
        rig.guest.verify_and_free(2500);
        rig.report();
        assert_eq!(rig.guest.resident(), full - 2500 * PAGE);
        rig.guest.verify_and_free(0);
        rig.guest.use_pages(1500);
        assert_eq!(rig.guest.resident(), full - 1000 * PAGE);
        rig.guest.verify_and_free(0);
        assert_eq!(rig.device.metrics().reported_bytes, 2500 * PAGE as u64);
        rig.finish();
    }
}

#[test]
fn hints_are_counted_and_their_pages_keep_what_is_in_them() {
    let mut rig = Rig::new(1, spec(), options(0));
    rig.guest.use_pages(1000);
    rig.settle();
    let before = rig.guest.resident();
    let command = rig.device.start_hints().unwrap();
    assert!(command >= 2);
    rig.sync();
    rig.settle();
    assert_eq!(rig.device.hints().1, ((RAM - 1000) * PAGE) as u64);
    assert_eq!(rig.guest.pages.ram().count(Owner::Hinted), RAM - 1000);
    assert_eq!(rig.guest.resident(), before);
    rig.device.end_hints();
    rig.sync();
    rig.settle();
    assert_eq!(rig.guest.pages.ram().count(Owner::Hinted), 0);
    rig.guest.verify_and_free(0);
    rig.finish();
}

#[test]
fn statistics_reach_the_daemon_whenever_it_asks() {
    let mut rig = Rig::new(1, spec(), options(0));
    for free in [5, 6, 7] {
        rig.guest.pages.statistics.set(stat::MEMFREE, free);
        rig.device.request_statistics();
        std::thread::sleep(std::time::Duration::from_millis(2));
        rig.settle();
        let said = rig.device.statistics().unwrap();
        assert_eq!(said.get(stat::MEMTOT), Some((RAM * PAGE) as u64));
        if free > 5 {
            assert_eq!(said.get(stat::MEMFREE), Some(free));
        }
    }
    rig.finish();
}

#[test]
fn poisoned_pages_that_are_reported_keep_their_poison() {
    let poison = 0xaaaa_aaaa;
    let options = Options {
        poison: Some(poison),
        ..options(0)
    };
    let mut rig = Rig::new(1, spec(), options);
    assert!(rig.driver.features() & virtio_spec::balloon::feature::PAGE_POISON != 0);
    for pfn in rig.guest.pages.ram().pfns(Owner::Free) {
        rig.guest.page(pfn).write(0, &[0xaa; PAGE]);
    }
    let before = rig.guest.resident();
    rig.report();
    assert_eq!(rig.guest.resident(), before, "poison was thrown away");
    for pfn in rig.guest.pages.ram().pfns(Owner::Free) {
        let mut bytes = [0; PAGE];
        rig.guest.page(pfn).read(0, &mut bytes);
        assert!(bytes == [0xaa; PAGE]);
    }
    assert!(rig.device.metrics().poisoned_bytes >= (RAM * PAGE) as u64);
    rig.finish();
}

/// Random targets, use of memory, reports, relief, hints, statistics; the backend dies and the device is reset now and then.
fn storm(seed: u64, features: u64, kill_one_in: u64, reset_one_in: u64) {
    let must_tell_host = !seed.is_multiple_of(3);
    let spec = BalloonSpec {
        must_tell_host,
        ..spec()
    };
    let mut rig = Rig::new(seed, spec, options(features));
    for _ in 0..150 {
        match rig.random.below(9) {
            0 | 1 => {
                let pages = rig.random.index(RAM + 500);
                rig.want(pages);
            }
            2 => _ = rig.guest.use_pages(rig.random.index(600)),
            3 => rig.guest.verify_and_free(rig.random.index(600)),
            4 => _ = rig.driver.report(&mut rig.guest.pages).unwrap(),
            5 => {
                let wanted = rig.random.below(200) as u32;
                rig.driver.relieve(wanted, &mut rig.guest.pages).unwrap();
            }
            6 => rig.driver.resume(),
            7 => match rig.random.below(3) {
                0 => _ = rig.device.start_hints(),
                1 => rig.device.stop_hints(),
                _ => rig.device.end_hints(),
            },
            _ => rig.device.request_statistics(),
        }
        rig.driver.work(&mut rig.guest.pages).unwrap();
        if rig.random.one_in(2) {
            rig.serve();
        }
        rig.sync();
        if kill_one_in > 0 && rig.random.one_in(kill_one_in) {
            let (taken, staged) = (rig.random.index(5), rig.random.index(3));
            rig.backend.kill(taken, staged).unwrap();
        }
        if reset_one_in > 0 && rig.random.one_in(reset_one_in) {
            let proof = rig.reset();
            rig.driver.restart(&rig.platform, proof).unwrap();
            rig.sync();
        }
    }
    rig.device.end_hints();
    rig.driver.resume();
    rig.want(0);
    rig.settle();
    rig.report();
    rig.guest.verify_and_free(0);
    let data = rig.guest.used.len() * PAGE;
    let resident = rig.guest.resident();
    assert!(
        (data..=data + ARENA as usize).contains(&resident),
        "{data} {resident}"
    );
    assert_eq!(rig.inside(), 0);
    rig.finish();
}

#[test]
fn storms_of_targets_use_and_reports_lose_nothing() {
    for (seed, features) in ring_feature_sets().enumerate() {
        for round in 0..3 {
            storm(seed as u64 * 3 + round, features, 0, 0);
        }
    }
}

#[test]
fn a_daemon_that_dies_in_a_storm_loses_nothing() {
    for (seed, features) in ring_feature_sets().enumerate() {
        storm(100 + seed as u64, features, 6, 0);
        storm(150 + seed as u64, features, 6, 0);
    }
}

#[test]
fn deaths_and_resets_in_a_storm_lose_nothing() {
    for (seed, features) in ring_feature_sets().enumerate() {
        storm(200 + seed as u64, features, 9, 11);
        storm(250 + seed as u64, features, 0, 7);
    }
}

#[test]
fn the_shell_decides_what_is_isolated_and_the_device_sees_no_other_page() {
    /// Reports one block and nothing else.
    struct OneBlock(Option<Block>, usize);
    impl Pages for OneBlock {
        fn grab(&mut self, _: &mut [u32]) -> usize {
            0
        }
        fn ballooned(&mut self, _: &[u32]) {}
        fn pick(&mut self, _: &mut [u32]) -> usize {
            0
        }
        fn release(&mut self, _: &[u32], _: Option<u32>) {}
        fn statistics(&mut self, _: &mut Statistics) {}
        fn isolate(&mut self, into: &mut [Block], _: Option<u32>) -> usize {
            let block = self.0.take().zip(into.first_mut());
            block.map_or(0, |(block, room)| {
                *room = block;
                1
            })
        }
        fn reported(&mut self, blocks: &[Block], reported: bool) {
            assert!(reported);
            self.1 += blocks.len();
        }
    }
    let mut rig = Rig::new(1, spec(), options(0));
    rig.guest.use_pages(RAM);
    let full = rig.guest.resident();
    let block = Block {
        addr: rig.guest.shared.rest + 7 * PAGE as u64,
        len: 3 * PAGE as u32,
    };
    let mut pages = OneBlock(Some(block), 0);
    assert_eq!(rig.driver.report(&mut pages), Ok(true));
    rig.serve();
    rig.driver.work(&mut pages).unwrap();
    assert_eq!(pages.1, 1);
    assert_eq!(rig.guest.resident(), full - 3 * PAGE);
}
