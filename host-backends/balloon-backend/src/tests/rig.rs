//! A driver, its guest memory and the queues of a balloon, so that a test is a few lines.
//!
//! Rule: every page of guest memory holds its own address, so that one that was lost or exchanged shows.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use device_model::Device;
use device_model::Queue;
use device_model::QueueCounters;
use device_model::QueueHandler;
use device_model::QueueSetup;
use device_model::RingAddresses;
use guest_memory::GuestMemory;
use guest_memory::RegionSpec;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use virtio_spec::balloon::PAGE_SIZE;
use virtqueue::DriverQueue;
use virtqueue::QueueConfig;
use virtqueue::QueueState;
use virtqueue::Rings;
use virtqueue::Segment;

use crate::BalloonDevice;
use crate::BalloonSpec;
use crate::Metrics;

/// Bytes of each region.
pub const REGION: u64 = 16 << 20;
/// Where the first region starts; queues and messages lie in its first half.
pub const LOW: u64 = 0;
/// Where the second region starts, after a hole of 4 MiB.
pub const HIGH: u64 = 20 << 20;
/// Where the second and the third region meet.
pub const BORDER: u64 = HIGH + REGION;
/// End of guest memory.
pub const END: u64 = BORDER + REGION;
/// Queue indices with every feature.
pub const INFLATE: usize = 0;
pub const DEFLATE: usize = 1;
pub const STATS: usize = 2;
pub const HINTS: usize = 3;
pub const REPORTS: usize = 4;
const USER: u64 = 0x7000_0000_0000;
const SCRATCH: u64 = 1 << 20;
const SCRATCH_END: u64 = 8 << 20;

/// One queue with both its ends.
pub struct Lane {
    pub driver: DriverQueue,
    pub queue: Queue,
    pub handler: Box<dyn QueueHandler>,
    /// Chains that came back, in order.
    pub back: Vec<u16>,
}

/// The rig.
pub struct Rig {
    pub device: Arc<BalloonDevice>,
    pub memory: Arc<GuestMemory>,
    pub lanes: Vec<Lane>,
    next: u64,
}

pub fn memfd(size: u64, flags: MFdFlags) -> OwnedFd {
    let fd = memfd_create(c"guest", flags | MFdFlags::MFD_CLOEXEC).expect("memory");
    nix::unistd::ftruncate(&fd, i64::try_from(size).expect("a size")).expect("memory");
    fd
}

pub fn region(guest_addr: u64) -> (RegionSpec, OwnedFd) {
    let spec = RegionSpec {
        guest_addr,
        size: REGION,
        user_addr: USER + guest_addr,
        mmap_offset: 0,
    };
    (spec, memfd(REGION, MFdFlags::empty()))
}

/// A specification with every feature.
pub fn everything() -> BalloonSpec {
    BalloonSpec {
        free_page_hint: true,
        ..BalloonSpec::default()
    }
}

impl Rig {
    /// A driver that accepts all that `spec` offers, on a split ring.
    pub fn new(spec: BalloonSpec) -> Self {
        let spec = BalloonSpec {
            packed: false,
            ..spec
        };
        Self::with(spec, u64::MAX)
    }

    /// A driver that accepts `features` as far as they are offered.
    pub fn with(spec: BalloonSpec, features: u64) -> Self {
        let regions = vec![region(LOW), region(HIGH), region(BORDER)];
        let memory = GuestMemory::new(regions).expect("guest memory");
        Self::on(
            BalloonDevice::new(spec).expect("a balloon"),
            memory,
            features,
        )
    }

    /// A driver of `device` on `memory`, which is filled.
    pub fn on(device: Arc<BalloonDevice>, memory: GuestMemory, features: u64) -> Self {
        let memory = Arc::new(memory);
        for spec in memory.regions() {
            for page in (spec.guest_addr..spec.guest_addr + spec.size).step_by(4096) {
                memory
                    .write(page, &(page + 1).to_le_bytes())
                    .expect("memory");
            }
        }
        let mut rig = Self {
            device,
            memory,
            lanes: Vec::new(),
            next: SCRATCH,
        };
        rig.boot(features);
        rig
    }

    /// A new driver: rings at their beginning, features settled, every queue started.
    pub fn boot(&mut self, features: u64) {
        let features = features & self.device.features();
        self.lanes.clear();
        self.memory
            .write(0, &vec![0; SCRATCH as usize])
            .expect("memory");
        self.device.acked(features);
        for index in 0..self.device.queue_count() {
            if let Ok(handler) = self.device.start_queue(index, features) {
                let lane = self.lane(index.into(), features, handler);
                self.lanes.push(lane);
            }
        }
        for at in 0..self.lanes.len() {
            self.kick(at);
        }
    }

    fn lane(&self, index: u64, features: u64, handler: Box<dyn QueueHandler>) -> Lane {
        let size = self.device.queue_size_max().min(64);
        let config = QueueConfig::from_features(size, features).expect("ring parameters");
        let layout = config.layout();
        let base = USER + index * 0x10000;
        let addresses = RingAddresses {
            descriptors: base,
            driver: base + 0x4000,
            device: base + 0x8000,
            log: None,
        };
        let area = |addr, len| self.memory.user_ring(addr, len).expect("ring memory");
        let rings = Rings {
            descriptors: area(addresses.descriptors, layout.descriptors.size),
            driver: area(addresses.driver, layout.driver.size),
            device: area(addresses.device, layout.device.size),
        };
        let queue = Queue::new(QueueSetup {
            base: QueueState::fresh(config.format).encode(config.format),
            config,
            addresses,
            memory: Arc::clone(&self.memory),
            record: None,
            call: None,
            counters: Arc::new(QueueCounters::default()),
        });
        Lane {
            driver: DriverQueue::new(config, rings).expect("a driver"),
            queue: queue.expect("a queue"),
            handler,
            back: Vec::new(),
        }
    }

    /// Guest memory with `bytes` in it; used over and over.
    pub fn place(&mut self, bytes: &[u8]) -> Segment {
        let len = (bytes.len() as u64).next_multiple_of(16).max(16);
        if self.next + len > SCRATCH_END {
            self.next = SCRATCH;
        }
        let addr = self.next;
        self.next += len;
        self.memory.write(addr, bytes).expect("guest memory");
        Segment {
            addr,
            len: u32::try_from(bytes.len()).expect("a length"),
        }
    }

    /// Puts a chain into queue `at` and runs it; returns the chain's id.
    pub fn send(&mut self, at: usize, readable: &[Segment], writable: &[Segment]) -> u16 {
        let lane = self.lanes.get_mut(at).expect("a queue");
        let id = lane
            .driver
            .add(readable, writable, None)
            .expect("room in the ring");
        self.kick(at);
        id
    }

    /// Lets queue `at` run.
    pub fn kick(&mut self, at: usize) {
        let lane = self.lanes.get_mut(at).expect("a queue");
        let _ = lane.driver.publish();
        lane.handler
            .run(&mut lane.queue, &self.memory)
            .expect("the queue lives");
        while let Some(used) = lane.driver.pop().expect("a sound ring") {
            assert_eq!(used.written, 0, "a balloon writes nothing");
            lane.back.push(used.id);
        }
    }

    /// Sends page numbers in one chain; they must come back at once.
    pub fn pages(&mut self, at: usize, pages: impl IntoIterator<Item = u32>) {
        let bytes: Vec<u8> = pages.into_iter().flat_map(u32::to_le_bytes).collect();
        let segment = self.place(&bytes);
        let id = self.send(at, &[segment], &[]);
        assert_eq!(self.lanes[at].back.pop(), Some(id));
    }

    /// Fills the page at `addr` again, as a guest does that uses it.
    pub fn touch(&self, pages: std::ops::Range<u64>) {
        for page in pages {
            let addr = page * PAGE_SIZE;
            self.memory
                .write(addr, &(addr + 1).to_le_bytes())
                .expect("memory");
        }
    }

    /// Whether the page still has its content; if not, it must be all zeroes.
    pub fn kept(&self, page: u64) -> bool {
        let mut bytes = [0; 8];
        self.memory
            .read(page * PAGE_SIZE, &mut bytes)
            .expect("memory");
        let kept = bytes == (page * PAGE_SIZE + 1).to_le_bytes();
        assert!(kept || bytes == [0; 8], "page {page:#x} holds {bytes:x?}");
        kept
    }

    /// Asserts that of all guest memory beside messages and rings exactly the pages in `gone` were lost.
    pub fn only_lost(&self, gone: impl Fn(u64) -> bool) {
        let spans = [(SCRATCH_END, REGION), (HIGH, END)];
        for page in spans.iter().flat_map(|(from, to)| from / 4096..to / 4096) {
            assert_eq!(self.kept(page), !gone(page), "page {page:#x}");
        }
    }

    pub fn resident(&self) -> u64 {
        self.device.resident().expect("queues run")
    }

    pub fn metrics(&self) -> Metrics {
        self.device.metrics()
    }
}
