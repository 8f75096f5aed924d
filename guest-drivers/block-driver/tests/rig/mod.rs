//! A driver and a fake disk, joined for a test.
//!
//! Rule: one seed decides everything.
#![allow(dead_code, reason = "each test file uses its own part")]

use block_driver::BlockDriver;
use block_driver::BlockQueue;
use block_driver::Completion;
use block_driver::Error;
use block_driver::Operation;
use block_driver::Options;
use block_driver::Quiesced;
use block_driver::Request;
use block_driver::ResetProgress;
use block_driver::StartFailure;
use driver_fakes::FakeBar;
use driver_fakes::FakeBuffer;
use driver_fakes::FakeDisk;
use driver_fakes::FakeFunction;
use driver_fakes::FakeInterrupts;
use driver_fakes::FakePlatform;
use driver_fakes::Layout;
use driver_fakes::Registers;
use driver_fakes::feature_sets;
use virtio_spec::block;
use virtio_spec::block::feature::*;
use virtio_spec::feature;
use zerocopy::IntoBytes;

pub const DISK: usize = 1 << 20;
pub const BLOCK_FEATURES: u64 =
    SIZE_MAX | SEG_MAX | BLK_SIZE | FLUSH | TOPOLOGY | CONFIG_WCE | MQ | DISCARD | WRITE_ZEROES;

pub type Queue = BlockQueue<FakePlatform, FakeBar>;

pub struct Rig {
    pub platform: FakePlatform,
    pub function: FakeFunction,
    pub driver: BlockDriver<FakeFunction>,
    pub queues: Vec<Queue>,
    pub disk: FakeDisk,
}

pub fn config() -> block::Config {
    block::Config {
        capacity: (DISK as u64 / 512).into(),
        size_max: 8192.into(),
        seg_max: 6.into(),
        blk_size: 512.into(),
        num_queues: 2.into(),
        max_discard_sectors: 64.into(),
        max_discard_seg: 1.into(),
        discard_sector_alignment: 8.into(),
        max_write_zeroes_sectors: 32.into(),
        max_write_zeroes_seg: 1.into(),
        write_zeroes_may_unmap: 1,
        writeback: 1,
        ..Default::default()
    }
}

pub fn registers(ring_features: u64, config: block::Config) -> Registers {
    let offered = BLOCK_FEATURES | feature::VERSION_1 | ring_features;
    Registers::new(offered, config.as_bytes().to_vec(), 2, 64)
}

pub fn function(registers: Registers) -> FakeFunction {
    FakeFunction::new(2, registers, Layout::default())
}

pub fn options() -> Options {
    Options {
        queues: 2,
        queue_size: 32,
        ..Options::default()
    }
}

pub fn start(
    function: &FakeFunction,
    platform: &FakePlatform,
) -> Result<(BlockDriver<FakeFunction>, Vec<Queue>), Error> {
    BlockDriver::start(platform, function.clone(), &FakeInterrupts(3), options()).map_err(
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

pub fn rig_with(seed: u64, registers: Registers) -> Rig {
    let platform = FakePlatform::new(seed);
    let function = function(registers);
    let (driver, queues) = start(&function, &platform).unwrap();
    let disk = FakeDisk::new(
        function.clone(),
        platform.arena().device_memory(),
        DISK,
        seed ^ 1,
    );
    Rig {
        platform,
        function,
        driver,
        queues,
        disk,
    }
}

pub fn rig(seed: u64, ring_features: u64) -> Rig {
    rig_with(seed, registers(ring_features, config()))
}

/// Every combination of the ring features.
pub fn ring_feature_sets() -> Vec<u64> {
    feature_sets(&[
        feature::RING_PACKED,
        feature::RING_EVENT_IDX,
        feature::RING_INDIRECT_DESC,
        feature::NOTIFICATION_DATA,
        feature::RING_RESET,
        feature::IN_ORDER,
    ])
}

pub fn read(sector: u64, len: usize, cookie: u64) -> Request<FakeBuffer> {
    Request {
        operation: Operation::Read { sector },
        buffer: Some(FakeBuffer::zeroed(len)),
        cookie,
    }
}

pub fn write(sector: u64, data: Vec<u8>, cookie: u64) -> Request<FakeBuffer> {
    Request {
        operation: Operation::Write { sector },
        buffer: Some(FakeBuffer::new(data)),
        cookie,
    }
}

pub fn plain(operation: Operation, cookie: u64) -> Request<FakeBuffer> {
    Request {
        operation,
        buffer: None,
        cookie,
    }
}

impl Rig {
    /// Submits, lets the disk work, returns the one completion.
    pub fn run(&mut self, request: Request<FakeBuffer>) -> Completion<FakeBuffer> {
        self.queues[0].submit(&self.platform, request).unwrap();
        self.queues[0].kick();
        for _ in 0..100 {
            self.disk.serve(0);
            if let Some(completion) = self.queues[0].poll(&self.platform).unwrap() {
                return completion;
            }
        }
        panic!("no completion");
    }

    /// Resets the device, which must be done at once.
    pub fn reset(&mut self) -> Quiesced {
        self.driver.begin_reset(&self.platform);
        match self.driver.poll_reset(&self.platform) {
            ResetProgress::Done(proof) => proof,
            other => panic!("{other:?}"),
        }
    }

    /// Starts again, with all queues.
    pub fn restart(&mut self, proof: Quiesced) -> Result<(), Error> {
        let mut queues: Vec<&mut Queue> = self.queues.iter_mut().collect();
        self.driver.restart(&self.platform, proof, &mut queues)
    }

    /// Takes the driver apart; nothing may be left behind.
    pub fn finish(mut self) {
        let proof = self.reset();
        for queue in self.queues.drain(..) {
            let memory = queue.into_memory(&proof).expect("requests are outstanding");
            self.platform.release_all(memory);
        }
        assert_eq!(self.platform.mapped(), 0);
        assert_eq!(self.platform.arena().live(), 0);
        assert_eq!(self.platform.arena().faults(), 0);
    }
}
