//! Requests of any shape to a disk in memory: each comes back once, with a status, within its buffers.
#![no_main]

use std::os::fd::OwnedFd;
use std::sync::Arc;

use block_backend::BlockDevice;
use block_backend::BlockSpec;
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
use virtio_spec::feature::RING_EVENT_IDX;
use virtio_spec::feature::RING_INDIRECT_DESC;
use virtio_spec::feature::RING_PACKED;
use virtio_spec::feature::VERSION_1;
use virtqueue::DriverQueue;
use virtqueue::QueueConfig;
use virtqueue::QueueState;
use virtqueue::Rings;
use virtqueue::Segment;

/// Bytes of guest memory, from address 0; above is a hole.
const MEMORY: u64 = 1 << 20;
/// Where requests lie; below are the rings.
const REQUESTS: u64 = 0x10000;
/// Bytes of the disk.
const DISK: u64 = 1 << 20;

/// A disk, a driver and memory, made once: what one input leaves behind is the next one's start.
struct World {
    memory: Arc<GuestMemory>,
    driver: DriverQueue,
    queue: Queue,
    handler: Box<dyn QueueHandler>,
}

impl World {
    fn new(packed: bool) -> Self {
        let device = BlockDevice::open(BlockSpec::memory(DISK)).expect("a disk in memory");
        let ring = VERSION_1 | RING_INDIRECT_DESC | RING_EVENT_IDX;
        let other = if packed { 0 } else { RING_PACKED };
        let features = device.features() & (ring | RING_PACKED | 0xff_ffff) & !other;
        device.acked(features);
        let fd: OwnedFd = memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC).expect("memory");
        nix::unistd::ftruncate(&fd, MEMORY as i64).expect("memory");
        let region = RegionSpec {
            guest_addr: 0,
            size: MEMORY,
            user_addr: 0,
            mmap_offset: 0,
        };
        let memory = Arc::new(GuestMemory::new(vec![(region, fd)]).expect("memory"));
        let config = QueueConfig::from_features(64, features).expect("parameters");
        let layout = config.layout();
        let addresses = RingAddresses {
            descriptors: 0,
            driver: 0x4000,
            device: 0x8000,
            log: None,
        };
        let area = |at, len| memory.user_ring(at, len).expect("memory");
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
        let queue = queue.expect("a queue");
        let handler = device.start_queue(0, features).expect("a handler");
        Self {
            memory,
            driver,
            queue,
            handler,
        }
    }

    fn feed(&mut self, decide: &mut Decisions<'_>) {
        let mut at = REQUESTS;
        let mut lent = Vec::new();
        while !decide.0.is_empty() && lent.len() < 8 {
            let shape = decide.byte();
            let header = self.segment(decide, &mut at, 16, shape & 64 != 0);
            let mut readable = vec![header];
            let mut writable = Vec::new();
            for _ in 0..shape & 3 {
                let len = decide.word();
                readable.push(self.segment(decide, &mut at, len, shape & 128 != 0));
            }
            for _ in 0..shape >> 2 & 3 {
                let len = decide.word();
                writable.push(self.segment(decide, &mut at, len, shape & 128 != 0));
            }
            if shape & 32 == 0 {
                writable.push(self.segment(decide, &mut at, 1, false));
            }
            if let Ok(id) = self.driver.add(&readable, &writable, None) {
                lent.push(id);
            }
        }
        let _ = self.driver.publish();
        self.handler
            .run(&mut self.queue, &self.memory)
            .expect("the queue lives");
        self.handler
            .drain(&mut self.queue, &self.memory)
            .expect("the queue lives");
        while let Some(used) = self.driver.pop().expect("a sound ring") {
            let at = lent
                .iter()
                .position(|id| *id == used.id)
                .expect("each comes back once");
            lent.swap_remove(at);
        }
        assert!(lent.is_empty(), "{lent:?} did not come back");
        assert_eq!(
            self.driver.overruns(),
            0,
            "used lengths stay within the buffers"
        );
    }

    /// Memory with bytes of the input, or somewhere near the end of memory and beyond.
    fn segment(&self, decide: &mut Decisions<'_>, at: &mut u64, len: u16, wild: bool) -> Segment {
        let len = u32::from(len % 8192);
        if wild && decide.byte() & 3 == 0 {
            return Segment {
                addr: MEMORY - 4096 + u64::from(decide.word()),
                len,
            };
        }
        let addr = *at;
        *at += u64::from(len).next_multiple_of(16);
        if *at < MEMORY {
            let bytes = decide.bytes(len.min(64) as usize);
            self.memory.write(addr, bytes).expect("memory");
        }
        Segment { addr, len }
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
