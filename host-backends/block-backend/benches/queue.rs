//! What a request costs in the handler, beyond moving its bytes: rings, parsing, engine, completion, in one thread with
//! the driver half, so that no scheduling is measured.
//!
//! `cargo bench -p block-backend [IMAGE...]`: a memory disk always, then each image with every engine that serves it.
#![expect(clippy::print_stdout, reason = "a benchmark says what it measured")]
#![expect(
    clippy::expect_used,
    reason = "a benchmark ends at the first thing that is wrong"
)]

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use block_backend::BlockDevice;
use block_backend::BlockSpec;
use block_backend::EngineChoice;
use device_model::Device;
use device_model::Queue;
use device_model::QueueCounters;
use device_model::QueueHandler;
use device_model::QueueSetup;
use device_model::RingAddresses;
use guest_memory::GuestMemory;
use guest_memory::RegionSpec;
use virtio_spec::block::RequestHeader;
use virtio_spec::block::feature as block;
use virtio_spec::feature as ring;
use virtqueue::DriverQueue;
use virtqueue::QueueConfig;
use virtqueue::QueueState;
use virtqueue::Rings;
use virtqueue::Segment;
use zerocopy::IntoBytes;

const RAM: u64 = 128 << 20;
const BUFFERS: u64 = 1 << 20;
const FEATURES: u64 = ring::VERSION_1 | ring::RING_EVENT_IDX | block::FLUSH;
const TIME: Duration = Duration::from_millis(400);

struct Bench {
    device: Arc<BlockDevice>,
    memory: Arc<GuestMemory>,
    driver: DriverQueue,
    queue: Queue,
    handler: Box<dyn QueueHandler>,
    random: u64,
}

impl Bench {
    fn new(spec: BlockSpec, packed: bool) -> Self {
        let device = BlockDevice::open(spec).expect("a disk");
        let features = FEATURES | if packed { ring::RING_PACKED } else { 0 };
        device.acked(features);
        let fd = host_os::memfd::create("guest", RAM).expect("memory");
        let region = RegionSpec {
            guest_addr: 0,
            size: RAM,
            user_addr: 0x1000,
            mmap_offset: 0,
        };
        let memory = Arc::new(GuestMemory::new(vec![(region, fd)]).expect("memory"));
        let config = QueueConfig::from_features(256, features).expect("a ring");
        let layout = config.layout();
        let addresses = RingAddresses {
            descriptors: 0x1000,
            driver: 0x11000,
            device: 0x21000,
            log: None,
        };
        let area = |addr, len| memory.user_ring(addr, len).expect("ring memory");
        let rings = Rings {
            descriptors: area(addresses.descriptors, layout.descriptors.size),
            driver: area(addresses.driver, layout.driver.size),
            device: area(addresses.device, layout.device.size),
        };
        let driver = DriverQueue::new(config, rings).expect("a driver");
        let queue = Queue::new(QueueSetup {
            base: QueueState::fresh(config.format).encode(config.format),
            config,
            addresses,
            memory: Arc::clone(&memory),
            record: None,
            call: None,
            counters: Arc::new(QueueCounters::default()),
        });
        let handler = device.start_queue(0, features).expect("a handler");
        Self {
            device,
            memory,
            driver,
            queue: queue.expect("a queue"),
            handler,
            random: 88_172_645_463_325_252,
        }
    }

    fn offset(&mut self, len: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % (self.device.size() / len) * len
    }

    fn add(&mut self, kind: u32, slot: u64, len: u64) {
        let sector = self.offset(len.max(512)) / 512;
        self.add_at(kind, slot, len, sector);
    }

    fn add_at(&mut self, kind: u32, slot: u64, len: u64, sector: u64) {
        let header = RequestHeader {
            request_type: kind.into(),
            reserved: 0.into(),
            sector: sector.into(),
        };
        let head = 0x40000 + slot * 64;
        self.memory.write(head, header.as_bytes()).expect("memory");
        let head_part = Segment {
            addr: head,
            len: 16,
        };
        let data = Segment {
            addr: BUFFERS + slot * len,
            len: u32::try_from(len).expect("a length"),
        };
        let status = Segment {
            addr: head + 32,
            len: 1,
        };
        let added = match (kind, len) {
            (_, 0) => self.driver.add(&[head_part], &[status], None),
            (0, _) => self.driver.add(&[head_part], &[data, status], None),
            _ => self.driver.add(&[head_part, data], &[status], None),
        };
        added.expect("room in the ring");
    }

    /// Writes the whole disk once, so that every page exists.
    fn fill(&mut self) {
        let len = 1 << 20;
        for at in 0..self.device.size() / len {
            self.add_at(1, 0, len, at * len / 512);
            self.finish(1);
        }
    }

    fn finish(&mut self, count: u64) {
        let _ = self.driver.publish();
        let mut back = 0;
        while back < count {
            self.handler
                .run(&mut self.queue, &self.memory)
                .expect("a run");
            while let Some(used) = self.driver.pop().expect("a sound ring") {
                assert!(used.written > 0);
                back += 1;
            }
        }
    }

    /// Nanoseconds per request.
    fn measure(&mut self, kind: u32, len: u64, depth: u64) -> f64 {
        let (start, mut done) = (Instant::now(), 0_u64);
        while start.elapsed() < TIME {
            for slot in 0..depth {
                self.add(kind, slot, len);
            }
            self.finish(depth);
            done += depth;
        }
        start.elapsed().as_nanos() as f64 / done as f64
    }
}

fn report(name: &str, spec: &BlockSpec) {
    for packed in [false, true] {
        let mut bench = Bench::new(spec.clone(), packed);
        bench.fill();
        let ring = if packed { "packed" } else { "split" };
        println!(
            "{name}, engine {}, {ring} ring; ns per request",
            bench.device.engine()
        );
        println!("  {:24} {:>9} {:>9}", "", "depth 1", "depth 32");
        for (what, kind, len) in [
            ("GET_ID (no disk at all)", 8, 0),
            ("read 512", 0, 512),
            ("read 4096", 0, 4096),
            ("write 4096", 1, 4096),
            ("read 65536", 0, 65536),
        ] {
            let costs = [1, 32].map(|depth| bench.measure(kind, len, depth));
            println!("  {what:24} {:9.0} {:9.0}", costs[0], costs[1]);
        }
    }
}

fn main() {
    report(
        "memory disk of 1 MiB (in the CPU's cache)",
        &BlockSpec::memory(1 << 20),
    );
    report("memory disk of 256 MiB", &BlockSpec::memory(256 << 20));
    let images = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"));
    for image in images {
        for engine in [EngineChoice::Map, EngineChoice::Uring, EngineChoice::Sync] {
            let spec = BlockSpec {
                engine,
                ..BlockSpec::image(&image)
            };
            if BlockDevice::open(spec.clone()).is_ok() {
                report(&image, &spec);
            }
        }
    }
}
