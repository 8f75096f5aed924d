//! Storms of requests from the real driver core to the real block backend, with deaths of the backend and resets of the device, by seed.
//!
//! Rule: a shadow model knows what each sector must hold; every request completes exactly once; at the end the image itself is compared.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use block_backend::BlockDevice;
use block_backend::BlockSpec;
use block_backend::EngineChoice;
use block_backend::LockChoice;
use block_driver::BlockDriver;
use block_driver::BlockQueue;
use block_driver::ConfigChange;
use block_driver::Operation;
use block_driver::Options;
use block_driver::Refusal;
use block_driver::Request;
use block_driver::RequestError;
use block_driver::ResetProgress;
use block_driver::WANTED_FEATURES;
use driver_fakes::FakeBar;
use driver_fakes::FakeBuffer;
use driver_fakes::FakeFunction;
use driver_fakes::FakeInterrupts;
use driver_fakes::FakePlatform;
use driver_fakes::Random;
use driver_fakes::feature_sets;
use loopback::Backend;
use loopback::shared_arena;
use virtio_spec::feature;

const DISK: usize = 1 << 20;
const QUEUES: u16 = 2;

#[derive(Clone, Copy, Debug)]
struct Setting {
    seed: u64,
    features: u64,
    engine: EngineChoice,
    block: u32,
    /// The backend dies one time in this many rounds; 0: never.
    kill_one_in: u64,
    /// The driver resets the device one time in this many rounds; 0: never.
    reset_one_in: u64,
}

struct Out {
    sector: u64,
    sectors: u64,
    data: Option<Vec<u8>>,
    discard: bool,
}

struct Storm {
    image: tempfile::NamedTempFile,
    device: Arc<BlockDevice>,
    backend: Backend,
    platform: FakePlatform,
    driver: BlockDriver<FakeFunction>,
    queues: Vec<BlockQueue<FakePlatform, FakeBar>>,
    setting: Setting,
    random: Random,
    shadow: Vec<u8>,
    outstanding: HashMap<u64, Out>,
    next: u64,
    completed: u64,
    kills: u64,
}

fn spec(image: &tempfile::NamedTempFile, setting: &Setting) -> BlockSpec {
    BlockSpec {
        path: Some(image.path().to_path_buf()),
        engine: setting.engine,
        block_size: setting.block,
        num_queues: QUEUES,
        queue_size: 64,
        lock: LockChoice::Off,
        in_order: setting.features & feature::IN_ORDER != 0,
        ..BlockSpec::default()
    }
}

impl Storm {
    fn new(setting: Setting) -> Self {
        let mut image = match setting.engine {
            EngineChoice::Map => tempfile::NamedTempFile::new_in("/dev/shm").unwrap(),
            _ => tempfile::NamedTempFile::new().unwrap(),
        };
        let mut shadow = vec![0; DISK];
        let mut random = Random::new(setting.seed);
        shadow
            .chunks_mut(8)
            .for_each(|bytes| bytes.copy_from_slice(&random.next_u64().to_le_bytes()));
        image.write_all(&shadow).unwrap();
        let (memory, arena) = shared_arena(16 << 20).unwrap();
        let mut platform = FakePlatform::with_arena(setting.seed, arena);
        platform.exhausted_one_in = 60;
        platform.odd_pieces = setting.seed.is_multiple_of(3);
        let device = BlockDevice::open(spec(&image, &setting)).unwrap();
        let (backend, function) = Backend::new(device.clone(), memory).unwrap();
        let options = Options {
            queues: QUEUES,
            queue_size: 32,
            features: WANTED_FEATURES & !RING_BITS | setting.features,
            ..Options::default()
        };
        let (driver, queues) = BlockDriver::start(&platform, function, &FakeInterrupts(3), options)
            .map_err(|f| f.error)
            .unwrap();
        assert_eq!(driver.features() & RING_BITS, setting.features);
        Self {
            image,
            device,
            backend,
            platform,
            driver,
            queues,
            setting,
            random,
            shadow,
            outstanding: HashMap::new(),
            next: 0,
            completed: 0,
            kills: 0,
        }
    }

    fn submit(&mut self) {
        let per_block = u64::from(self.setting.block) / 512;
        let sectors = (1 + self.random.below(16 / per_block.min(8))) * per_block;
        let sector = self.random.below((DISK as u64 / 512 - sectors) / per_block) * per_block;
        let clash = |out: &Out| sector < out.sector + out.sectors && out.sector < sector + sectors;
        if self.outstanding.values().any(clash) {
            return;
        }
        let bytes = sectors as usize * 512;
        let kind = self.random.below(10);
        let (operation, buffer, data) = match kind {
            0 => (Operation::Flush, None, None),
            1 => (
                Operation::WriteZeroes {
                    sector,
                    sectors,
                    unmap: sector.is_multiple_of(2),
                },
                None,
                Some(vec![0; bytes]),
            ),
            2 => (Operation::Discard { sector, sectors }, None, None),
            3..=5 => {
                let fill = self.random.next_u64().to_le_bytes();
                let data: Vec<u8> = (0..bytes).map(|i| fill[i % 8] ^ (i / 8) as u8).collect();
                (
                    Operation::Write { sector },
                    Some(FakeBuffer::new(data.clone())),
                    Some(data),
                )
            }
            _ => (
                Operation::Read { sector },
                Some(FakeBuffer::zeroed(bytes)),
                None,
            ),
        };
        let queue = self.random.index(self.queues.len());
        let request = Request {
            operation,
            buffer,
            cookie: self.next,
        };
        if self.try_submit(queue, request) {
            let out = Out {
                sector,
                sectors: if kind == 0 { 0 } else { sectors },
                data,
                discard: kind == 2,
            };
            self.outstanding.insert(self.next, out);
            self.next += 1;
        }
    }

    fn try_submit(&mut self, queue: usize, request: Request<FakeBuffer>) -> bool {
        match self.queues[queue].submit(&self.platform, request) {
            Ok(()) => true,
            Err(rejected) => {
                assert!(
                    matches!(rejected.reason, Refusal::Busy | Refusal::TooLarge),
                    "{}",
                    rejected.reason
                );
                false
            }
        }
    }

    fn collect(&mut self, queue: usize) {
        while let Some(done) = self.queues[queue].poll(&self.platform).unwrap() {
            assert!(
                done.result.is_ok(),
                "{:?} failed: {:?}",
                done.operation,
                done.result
            );
            self.finish(done.cookie, done.operation, done.buffer);
        }
    }

    fn finish(&mut self, cookie: u64, operation: Operation, buffer: Option<FakeBuffer>) {
        let out = self
            .outstanding
            .remove(&cookie)
            .expect("a request completed twice");
        self.completed += 1;
        let range = out.sector as usize * 512..(out.sector + out.sectors) as usize * 512;
        match (out.data, operation) {
            (Some(data), _) => self.shadow[range].copy_from_slice(&data),
            (None, Operation::Read { .. }) => {
                assert!(
                    buffer.unwrap().data == self.shadow[range],
                    "sector {} reads wrong",
                    out.sector
                );
            }
            (None, _) if out.discard => self.learn(range),
            (None, _) => {}
        }
    }

    /// After a discard each sector is zero or as before; the image says which.
    fn learn(&mut self, range: std::ops::Range<usize>) {
        let now = std::fs::read(self.image.path()).unwrap();
        for start in range.step_by(512) {
            let (now, model) = (
                &now[start..start + 512],
                &mut self.shadow[start..start + 512],
            );
            assert!(
                now.iter().all(|&byte| byte == 0) || now == &*model,
                "a discard invented data"
            );
            model.copy_from_slice(now);
        }
    }

    fn kill(&mut self) {
        let taken = self.random.index(5);
        let staged = self.random.index(3);
        self.backend.kill(taken, staged).unwrap();
        self.kills += 1;
    }

    /// Resets the device and issues again what had not completed.
    fn reset(&mut self) {
        self.backend.drain().unwrap();
        self.driver.begin_reset(&self.platform);
        let ResetProgress::Done(proof) = self.driver.poll_reset(&self.platform) else {
            panic!("pending")
        };
        for queue in 0..self.queues.len() {
            self.backend.serve(queue as u16).unwrap();
        }
        let mut again = Vec::new();
        for queue in &mut self.queues {
            while let Some(done) = queue.take_outstanding(&self.platform, &proof).unwrap() {
                again.push(done);
            }
        }
        let mut queues: Vec<_> = self.queues.iter_mut().collect();
        self.driver
            .restart(&self.platform, proof, &mut queues)
            .unwrap();
        for mut done in again {
            match done.result {
                Ok(_) => self.finish(done.cookie, done.operation, done.buffer),
                Err(RequestError::Reset) => loop {
                    let request = Request {
                        operation: done.operation,
                        buffer: done.buffer.take(),
                        cookie: done.cookie,
                    };
                    match self.queues[0].submit(&self.platform, request) {
                        Ok(()) => break,
                        Err(rejected) => done.buffer = rejected.request.buffer,
                    }
                    self.queues[0].kick();
                    self.backend.serve(0).unwrap();
                    self.collect(0);
                },
                Err(other) => panic!("{other}"),
            }
        }
        self.queues[0].kick();
    }

    fn round(&mut self) {
        for _ in 0..self.random.below(6) {
            self.submit();
        }
        let queue = self.random.index(self.queues.len());
        self.queues[queue].kick();
        if self.random.one_in(2) {
            self.backend.serve(queue as u16).unwrap();
        }
        if self.setting.kill_one_in > 0 && self.random.one_in(self.setting.kill_one_in) {
            self.kill();
        }
        if self.setting.reset_one_in > 0 && self.random.one_in(self.setting.reset_one_in) {
            self.reset();
        }
        let queue = self.random.index(self.queues.len());
        self.collect(queue);
        match self.random.below(6) {
            0 => drop(self.queues[queue].arm()),
            1 => self.queues[queue].disarm(),
            2 => drop(self.backend.arm(queue as u16)),
            _ => {}
        }
    }

    fn settle(&mut self) {
        let limit = Instant::now() + Duration::from_secs(20);
        while !self.outstanding.is_empty() {
            for queue in 0..self.queues.len() {
                self.queues[queue].kick();
                self.backend.serve(queue as u16).unwrap();
                self.collect(queue);
            }
            assert!(
                Instant::now() < limit,
                "lost: {:?} in {:?}",
                self.outstanding.keys(),
                self.setting
            );
        }
    }

    fn run(mut self, rounds: u64) {
        for _ in 0..rounds {
            self.round();
        }
        self.settle();
        assert_eq!(self.completed, self.next);
        assert!(self.setting.kill_one_in == 0 || self.kills > 0);
        assert!(
            std::fs::read(self.image.path()).unwrap() == self.shadow,
            "the image is wrong in {:?}",
            self.setting
        );
        self.backend.drain().unwrap();
        self.driver.begin_stop(&self.platform);
        let ResetProgress::Done(proof) = self.driver.poll_reset(&self.platform) else {
            panic!("pending")
        };
        drop(self.backend);
        for queue in self.queues {
            self.platform
                .release_all(queue.into_memory(&proof).expect("requests are outstanding"));
        }
        assert_eq!(
            (self.platform.mapped(), self.platform.arena().live()),
            (0, 0)
        );
    }
}

const RING_BITS: u64 = feature::RING_PACKED
    | feature::RING_EVENT_IDX
    | feature::RING_INDIRECT_DESC
    | feature::NOTIFICATION_DATA
    | feature::IN_ORDER;

fn ring_feature_sets() -> impl Iterator<Item = u64> {
    feature_sets(&[
        feature::RING_PACKED,
        feature::RING_EVENT_IDX,
        feature::RING_INDIRECT_DESC,
        feature::NOTIFICATION_DATA,
    ])
    .into_iter()
}

const ENGINES: [EngineChoice; 2] = [EngineChoice::Sync, EngineChoice::Map];

fn setting(seed: u64, features: u64, engine: EngineChoice) -> Setting {
    Setting {
        seed,
        features,
        engine,
        block: 512,
        kill_one_in: 0,
        reset_one_in: 0,
    }
}

#[test]
fn every_ring_format_and_engine_reads_what_was_written() {
    for (seed, features) in ring_feature_sets().enumerate() {
        for engine in ENGINES {
            Storm::new(setting(seed as u64, features, engine)).run(120);
        }
    }
}

#[test]
fn blocks_of_4096_bytes_work_in_every_ring_format() {
    for (seed, features) in ring_feature_sets().enumerate() {
        Storm::new(Setting {
            block: 4096,
            ..setting(seed as u64, features, EngineChoice::Auto)
        })
        .run(80);
    }
}

#[test]
fn a_backend_that_dies_loses_and_doubles_nothing() {
    for (seed, features) in ring_feature_sets().enumerate() {
        for engine in ENGINES {
            Storm::new(Setting {
                kill_one_in: 6,
                ..setting(100 + seed as u64, features, engine)
            })
            .run(120);
        }
    }
}

#[test]
fn a_reset_in_the_middle_returns_every_request_once() {
    for (seed, features) in ring_feature_sets().enumerate() {
        Storm::new(Setting {
            reset_one_in: 8,
            ..setting(200 + seed as u64, features, EngineChoice::Auto)
        })
        .run(120);
    }
}

#[test]
fn deaths_and_resets_together_lose_nothing() {
    for (seed, features) in ring_feature_sets().enumerate() {
        let setting = setting(300 + seed as u64, features, EngineChoice::Map);
        Storm::new(Setting {
            kill_one_in: 7,
            reset_one_in: 9,
            ..setting
        })
        .run(120);
    }
}

#[test]
fn io_uring_completes_everything_in_any_order() {
    for seed in 0..4 {
        let features = if seed % 2 == 0 {
            0
        } else {
            feature::RING_PACKED | feature::RING_INDIRECT_DESC
        };
        Storm::new(setting(400 + seed, features, EngineChoice::Uring)).run(150);
    }
}

#[test]
fn completions_in_order_survive_io_uring_and_deaths() {
    for (seed, features) in ring_feature_sets().enumerate() {
        let features = features | feature::IN_ORDER;
        let seed = 500 + seed as u64;
        Storm::new(setting(seed, features, EngineChoice::Uring)).run(60);
        Storm::new(Setting {
            kill_one_in: 6,
            ..setting(seed, features, EngineChoice::Sync)
        })
        .run(80);
    }
}

#[test]
fn a_resize_reaches_the_driver() {
    let mut storm = Storm::new(setting(1, 0, EngineChoice::Sync));
    storm.image.as_file().set_len(DISK as u64 * 2).unwrap();
    storm.device.resize().unwrap();
    let mut config = vec![0; 8];
    device_model::Device::read_config(&*storm.device, 0, &mut config);
    storm
        .driver
        .transport()
        .function()
        .registers()
        .change_config(0, &config);
    let sectors = DISK as u64 * 2 / 512;
    assert_eq!(
        storm.driver.config_changed(&storm.platform),
        Ok(ConfigChange::Resized(sectors))
    );
    let buffer = Some(FakeBuffer::zeroed(512));
    let request = Request {
        operation: Operation::Read {
            sector: sectors - 1,
        },
        buffer,
        cookie: 0,
    };
    assert!(storm.queues[0].submit(&storm.platform, request).is_ok());
    storm.queues[0].kick();
    storm.backend.serve(0).unwrap();
    let done = storm.queues[0].poll(&storm.platform).unwrap().unwrap();
    assert!(done.result.is_ok());
    storm.driver.begin_stop(&storm.platform);
}
