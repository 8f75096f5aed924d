//! A balloon driver, a guest's pages and a fake balloon, joined for a test.
//!
//! Rule: one seed decides everything.
#![allow(dead_code, reason = "each test file uses its own part")]

use balloon_driver::BalloonDriver;
use balloon_driver::Error;
use balloon_driver::Options;
use balloon_driver::Progress;
use balloon_driver::Quiesced;
use balloon_driver::ResetProgress;
use balloon_driver::StartFailure;
use balloon_driver::Statistics;
use driver_fakes::FakeBalloon;
use driver_fakes::FakeFunction;
use driver_fakes::FakeInterrupts;
use driver_fakes::FakePages;
use driver_fakes::FakePlatform;
use driver_fakes::FakeRam;
use driver_fakes::Layout;
use driver_fakes::Owner;
use driver_fakes::Registers;
use driver_fakes::feature_sets;
use virtio_spec::balloon;
use virtio_spec::balloon::feature::*;
use virtio_spec::balloon::stat;
use virtio_spec::feature;
use zerocopy::IntoBytes;

pub const RAM: usize = 4096;
pub const FIRST_PFN: u32 = 0x100;
pub const ALL: u64 = MUST_TELL_HOST | STATS_VQ | DEFLATE_ON_OOM | FREE_PAGE_HINT | PAGE_REPORTING;

pub struct Rig {
    pub platform: FakePlatform,
    pub function: FakeFunction,
    pub driver: BalloonDriver<FakeFunction>,
    pub pages: FakePages,
    pub balloon: FakeBalloon,
    /// Of a reset that was not followed by a restart yet.
    pub proof: Option<Quiesced>,
}

pub fn registers(features: u64) -> Registers {
    let config = balloon::Config::default();
    let offered = features | feature::VERSION_1;
    let queues = balloon::queue::count(features);
    Registers::new(offered, config.as_bytes().to_vec(), queues, 64)
}

pub fn function(registers: Registers) -> FakeFunction {
    FakeFunction::new(5, registers, Layout::default())
}

pub fn options() -> Options {
    Options {
        queue_size: 32,
        batch_pages: 64,
        batches: 4,
        report_blocks: 8,
        ..Options::default()
    }
}

pub fn start(
    function: &FakeFunction,
    platform: &FakePlatform,
    options: Options,
) -> Result<BalloonDriver<FakeFunction>, Error> {
    BalloonDriver::start(platform, function.clone(), &FakeInterrupts(3), options).map_err(
        |failure: StartFailure| {
            platform.release_all(failure.memory);
            assert_eq!(
                platform.arena().live(),
                0,
                "memory was lost in a failed start"
            );
            failure.error
        },
    )
}

pub fn rig_with(seed: u64, registers: Registers, options: Options) -> Rig {
    let platform = FakePlatform::new(seed);
    let function = function(registers);
    let driver = start(&function, &platform, options).unwrap();
    let ram = FakeRam::new(FIRST_PFN, RAM);
    let mut pages = FakePages::new(ram.clone(), seed ^ 2);
    let mut statistics = Statistics::default();
    statistics.set(stat::MEMTOT, RAM as u64 * 4096);
    statistics.set(stat::MEMFREE, 1);
    pages.statistics = statistics;
    if let Some(poison) = options.poison {
        pages.rely_on_poison(poison);
    }
    let memory = platform.arena().device_memory();
    let balloon = FakeBalloon::new(function.clone(), memory, ram, seed ^ 1);
    Rig {
        platform,
        function,
        driver,
        pages,
        balloon,
        proof: None,
    }
}

pub fn rig(seed: u64, features: u64) -> Rig {
    rig_with(seed, registers(features), options())
}

/// Every combination of the ring features that the balloon uses.
pub fn ring_feature_sets() -> Vec<u64> {
    feature_sets(&[
        feature::RING_PACKED,
        feature::RING_EVENT_IDX,
        feature::NOTIFICATION_DATA,
        feature::IN_ORDER,
    ])
}

impl Rig {
    /// The device wants this many pages.
    pub fn want(&mut self, pages: u32) {
        self.balloon.want(pages);
        self.driver.config_changed(&self.platform).unwrap();
    }

    /// Lets both sides work until nothing is on its way, and returns how that ended.
    pub fn settle(&mut self) -> Progress {
        for _ in 0..2000 {
            let progress = self.driver.work(&mut self.pages).unwrap();
            let served = self.balloon.serve();
            let waits = self.driver.arm();
            if progress != Progress::Waiting && served == 0 && !waits {
                return progress;
            }
        }
        panic!("it never settles");
    }

    /// Pages in the balloon, on which all three have to agree.
    pub fn inside(&self) -> usize {
        let ledger = self.pages.ram().count(Owner::Ballooned);
        assert_eq!(self.driver.actual() as usize, ledger);
        assert_eq!(self.balloon.ballooned(), ledger);
        assert_eq!(self.balloon.config().actual.get() as usize, ledger);
        ledger
    }

    /// Resets the device and empties the balloon.
    pub fn reset(&mut self) {
        self.driver.begin_reset(&self.platform);
        let ResetProgress::Done(proof) = self.driver.poll_reset(&self.platform) else {
            panic!("the reset is not done")
        };
        let mut steps = 0;
        while !self.driver.drain(&proof, &mut self.pages).unwrap() {
            steps += 1;
            assert!(steps < 1000, "draining never ends");
        }
        let ram = self.pages.ram();
        assert_eq!(ram.count(Owner::Free) + ram.count(Owner::Used), RAM);
        self.balloon.serve();
        self.proof = Some(proof);
    }

    /// Starts again after [`Rig::reset`].
    pub fn restart(&mut self) -> Result<(), Error> {
        let proof = self.proof.take().expect("there was no reset");
        self.driver.restart(&self.platform, proof)
    }

    /// Takes the driver apart; nothing may be left behind, and the guest's data is intact.
    pub fn finish(mut self) {
        self.reset();
        self.pages.verify_and_free(RAM);
        assert_eq!(self.pages.ram().count(Owner::Free), RAM);
        let proof = self.proof.take().unwrap();
        let memory = self.driver.into_memory(&proof);
        let memory = memory.expect("something is outstanding");
        self.platform.release_all(memory);
        assert_eq!(self.platform.arena().live(), 0);
        assert_eq!(self.platform.arena().faults(), 0);
    }
}
