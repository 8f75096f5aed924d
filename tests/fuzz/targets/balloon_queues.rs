//! Messages of any shape to all five queues of a balloon: each comes back, and only pages that were named are lost.
#![no_main]

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use balloon_backend::BalloonDevice;
use balloon_backend::BalloonSpec;
use device_model::Device;
use device_model::Queue;
use device_model::QueueCounters;
use device_model::QueueHandler;
use device_model::QueueSetup;
use device_model::RingAddresses;
use guest_memory::GuestMemory;
use guest_memory::RegionSpec;
use libfuzzer_sys::fuzz_target;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use paravane_fuzz::Decisions;
use virtio_spec::feature::RING_PACKED;
use virtqueue::DriverQueue;
use virtqueue::QueueConfig;
use virtqueue::QueueState;
use virtqueue::Rings;
use virtqueue::Segment;

const PAGE: u64 = 4096;
/// Bytes of each of two regions.
const REGION: u64 = 1 << 20;
/// Where rings and messages lie: beyond any page number, for a guest that gives up its rings only harms itself.
const RINGS: u64 = 1 << 45;
const MESSAGES: u64 = RINGS + 0x80000;
/// Where the pages lie.
const UPPER: u64 = 2 * REGION;
const END: u64 = UPPER + REGION;

struct Lane {
    driver: DriverQueue,
    queue: Queue,
    handler: Box<dyn QueueHandler>,
    /// Chains that did not come back.
    lent: HashSet<u16>,
}

/// A balloon, its driver and memory, made once: what one input leaves behind is the next one's start.
struct World {
    device: Arc<BalloonDevice>,
    features: u64,
    memory: Arc<GuestMemory>,
    lanes: Vec<Lane>,
    /// Pages of the upper region that a message named.
    named: HashSet<u64>,
}

fn region(guest_addr: u64) -> (RegionSpec, OwnedFd) {
    let fd = memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC).expect("memory");
    nix::unistd::ftruncate(&fd, REGION as i64).expect("memory");
    let spec = RegionSpec {
        guest_addr,
        size: REGION,
        user_addr: guest_addr,
        mmap_offset: 0,
    };
    (spec, fd)
}

impl World {
    fn new(packed: bool) -> Self {
        let spec = BalloonSpec {
            free_page_hint: true,
            ..BalloonSpec::default()
        };
        let device = BalloonDevice::new(spec).expect("a balloon");
        let features = device.features() & !if packed { 0 } else { RING_PACKED };
        device.acked(features);
        let memory = GuestMemory::new(vec![region(RINGS), region(UPPER)]).expect("memory");
        let memory = Arc::new(memory);
        let lanes = (0..device.queue_count()).map(|index| {
            let handler = device.start_queue(index, features).expect("a handler");
            lane(
                RINGS + u64::from(index) * 0x10000,
                features,
                &memory,
                handler,
            )
        });
        let mut world = Self {
            lanes: lanes.collect(),
            features,
            device,
            memory,
            named: (UPPER / PAGE..END / PAGE).collect(),
        };
        world.check();
        world
    }

    fn feed(&mut self, decide: &mut Decisions<'_>) {
        while !decide.0.is_empty() {
            let shape = decide.byte();
            match shape >> 5 {
                0..5 => self.message(usize::from(shape >> 5), shape, decide),
                5 => {
                    let offset = u32::from(decide.byte() % 20);
                    let bytes = decide.bytes(usize::from(shape & 7));
                    let _ = self.device.write_config(offset, bytes);
                }
                6 if shape & 1 != 0 => drop(self.device.start_hints()),
                6 => self.device.stop_hints(),
                _ if shape & 3 == 0 => self.device.request_statistics(),
                _ => self.device.inhibit(shape & 1 != 0),
            }
        }
        self.check();
    }

    /// One chain to queue `at`.
    fn message(&mut self, at: usize, shape: u8, decide: &mut Decisions<'_>) {
        let mut readable = Vec::new();
        let mut writable = Vec::new();
        let mut place = MESSAGES;
        for _ in 0..=shape & 3 {
            if at >= 3 && shape & 4 == 0 {
                // Free pages, anywhere near memory.
                let addr = u64::from(decide.word()) * 64;
                let len = u32::from(decide.word()) + 1;
                self.name(addr, u64::from(len));
                writable.push(Segment { addr, len });
                continue;
            }
            // Numbers, statistics, commands: the input's own bytes.
            let len = usize::from(decide.byte()) + 1;
            let bytes = decide.bytes(len).to_vec();
            self.memory.write(place, &bytes).expect("memory");
            // Any cut of the bytes at hand can be a number, and so can what lies behind them.
            for window in bytes.windows(4) {
                let number = u32::from_le_bytes([window[0], window[1], window[2], window[3]]);
                self.named.insert(number.into());
            }
            let segment = Segment {
                addr: place,
                len: bytes.len() as u32,
            };
            place += segment.len as u64;
            if segment.len != 0 {
                readable.push(segment);
            }
        }
        // A number may lie across two segments, which are neighbours here.
        let mut all = vec![0; (place - MESSAGES) as usize];
        self.memory.read(MESSAGES, &mut all).expect("memory");
        // The last one may go on in the zeroes at the region's end.
        all.extend([0; 3]);
        for window in all.windows(4) {
            let number = u32::from_le_bytes([window[0], window[1], window[2], window[3]]);
            self.named.insert(number.into());
        }
        if shape & 8 != 0 {
            readable.push(Segment {
                addr: RINGS + REGION - u64::from(decide.byte()),
                len: u32::from(decide.word()) + 1,
            });
        }
        let Some(lane) = self.lanes.get_mut(at) else {
            return;
        };
        if let Ok(id) = lane.driver.add(&readable, &writable, None) {
            lane.lent.insert(id);
        }
        let _ = lane.driver.publish();
        lane.handler
            .run(&mut lane.queue, &self.memory)
            .expect("the queue lives");
        while let Some(used) = lane.driver.pop().expect("a sound ring") {
            assert_eq!(used.written, 0);
            assert!(lane.lent.remove(&used.id), "each comes back once");
        }
        // The statistics' buffer stays with the device.
        let kept = lane.handler.in_flight();
        assert!(kept <= usize::from(at == 2) && lane.lent.len() == kept);
        assert_eq!(lane.driver.overruns(), 0);
    }

    fn name(&mut self, addr: u64, len: u64) {
        self.named.extend(addr / PAGE..=(addr + len) / PAGE);
    }

    /// Pages that nobody named are as they were; all others become so again.
    fn check(&mut self) {
        // What was held back goes now, while it is known who named it.
        self.device.inhibit(false);
        assert!(self.device.ballooned() <= 2 * REGION);
        for page in UPPER / PAGE..END / PAGE {
            let word = (page * PAGE + 1).to_le_bytes();
            let mut bytes = [0; 8];
            self.memory.read(page * PAGE, &mut bytes).expect("memory");
            if !self.named.contains(&page) {
                assert_eq!(bytes, word, "page {page:#x} was lost");
            } else if bytes != word {
                assert_eq!(bytes, [0; 8]);
                self.memory.write(page * PAGE, &word).expect("memory");
            }
        }
        self.named.clear();
        // From now on the guest uses all of them: its balloon is empty.
        self.device.reset();
        self.device.acked(self.features);
    }
}

fn lane(
    base: u64,
    features: u64,
    memory: &Arc<GuestMemory>,
    handler: Box<dyn QueueHandler>,
) -> Lane {
    let config = QueueConfig::from_features(64, features).expect("parameters");
    let layout = config.layout();
    let addresses = RingAddresses {
        descriptors: base,
        driver: base + 0x4000,
        device: base + 0x8000,
        log: None,
    };
    let area = |at, len| memory.user_ring(at, len).expect("memory");
    let rings = Rings {
        descriptors: area(addresses.descriptors, layout.descriptors.size),
        driver: area(addresses.driver, layout.driver.size),
        device: area(addresses.device, layout.device.size),
    };
    let queue = Queue::new(QueueSetup {
        base: QueueState::fresh(config.format).encode(config.format),
        config,
        addresses,
        memory: Arc::clone(memory),
        record: None,
        call: None,
        counters: Arc::new(QueueCounters::default()),
    });
    Lane {
        driver: DriverQueue::new(config, rings).expect("a driver"),
        queue: queue.expect("a queue"),
        handler,
        lent: HashSet::new(),
    }
}

thread_local! {
    static WORLDS: std::cell::RefCell<[World; 2]> =
        std::cell::RefCell::new([World::new(false), World::new(true)]);
}

fuzz_target!(|data: &[u8]| {
    let mut decide = Decisions(data);
    let which = usize::from(decide.byte() & 1);
    WORLDS.with_borrow_mut(|worlds| worlds[which].feed(&mut decide));
});
