//! Requests of any shape to a network card's control queue: each comes back once, and the card's state stays one that
//! its frame path can work with.
#![no_main]

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
use libfuzzer_sys::fuzz_target;
use net_backend::Fabric;
use net_backend::NetDevice;
use net_backend::NetSpec;
use net_link::LinkSpec;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use paravane_fuzz::Decisions;
use virtio_spec::feature::RING_PACKED;
use virtio_spec::net::feature;
use virtqueue::DriverQueue;
use virtqueue::QueueConfig;
use virtqueue::QueueState;
use virtqueue::Rings;
use virtqueue::Segment;

/// Bytes of guest memory, from address 0; above is a hole.
const MEMORY: u64 = 1 << 20;
/// Where requests lie; below are the rings.
const REQUESTS: u64 = 0x10000;
const PAIRS: u16 = 4;
const CONTROL: u16 = 2 * PAIRS;

/// A card on no link, a driver and memory, made once.
struct World {
    card: Arc<NetDevice>,
    memory: Arc<GuestMemory>,
    driver: DriverQueue,
    queue: Queue,
    handler: Box<dyn QueueHandler>,
}

impl World {
    fn new(packed: bool) -> Self {
        let spec = NetSpec {
            queue_pairs: PAIRS,
            packed,
            ..NetSpec::on(LinkSpec::Null)
        };
        let card = NetDevice::open("card", spec, &Fabric::default()).expect("a card");
        let features = card.features();
        assert_eq!(features & RING_PACKED != 0, packed);
        card.acked(features);
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
        let handler = card.start_queue(CONTROL, features).expect("a handler");
        Self {
            card,
            memory,
            driver,
            queue: queue.expect("a queue"),
            handler,
        }
    }

    fn feed(&mut self, decide: &mut Decisions<'_>) {
        self.card.reset();
        let wanted = u64::from_le_bytes(std::array::from_fn(|_| decide.byte()));
        self.card.acked(wanted & self.card.features() | feature::MQ);
        let mut at = REQUESTS;
        let mut lent = Vec::new();
        while !decide.0.is_empty() && lent.len() < 16 {
            let shape = decide.byte();
            let len = u16::from(decide.byte()) << (shape >> 5);
            let mut readable = vec![self.segment(decide, &mut at, 2, false)];
            if len != 0 {
                readable.push(self.segment(decide, &mut at, len, shape & 1 != 0));
            }
            let mut writable = Vec::new();
            for _ in 0..shape >> 1 & 3 {
                let room = u16::from(decide.byte() & 15);
                writable.push(self.segment(decide, &mut at, room, shape & 8 != 0));
            }
            if let Ok(id) = self.driver.add(&readable, &writable, None) {
                lent.push(id);
            }
        }
        let _ = self.driver.publish();
        let run = |world: &mut Self| {
            let (queue, memory) = (&mut world.queue, &world.memory);
            world.handler.run(queue, memory).expect("the queue lives")
        };
        while run(self).any() {}
        while let Some(used) = self.driver.pop().expect("a sound ring") {
            let at = lent.iter().position(|id| *id == used.id);
            lent.swap_remove(at.expect("each comes back once"));
        }
        assert!(lent.is_empty(), "{lent:?} did not come back");
        assert_eq!(self.driver.overruns(), 0, "no more written than room");
        self.check();
    }

    fn check(&self) {
        let state = self.card.port().state();
        assert!((1..=PAIRS).contains(&state.active_pairs));
        assert!(state.receive.mac.is_station());
        if let Some(steering) = &state.steering {
            assert!(steering.highest_pair() < state.active_pairs);
            assert!(state.has(feature::RSS));
        }
        assert!(state.hasher.is_none() || state.has(feature::HASH_REPORT));
        assert!(!state.offloads.csum || state.has(feature::GUEST_CSUM));
        assert!(!state.offloads.tso4 || state.has(feature::GUEST_TSO4));
        assert!(!state.offloads.tso6 || state.has(feature::GUEST_TSO6));
        assert!(!state.offloads.uso || state.has(feature::GUEST_USO4));
        // Any frame may be asked about.
        let _ = state.receive.admits(&[0x81; 64]);
    }

    /// Memory with bytes of the input, or somewhere near the end of memory and beyond.
    fn segment(&self, decide: &mut Decisions<'_>, at: &mut u64, len: u16, wild: bool) -> Segment {
        let len = u32::from(len);
        if wild && decide.byte() & 3 == 0 {
            return Segment {
                addr: MEMORY - 4096 + u64::from(decide.word()),
                len,
            };
        }
        let addr = *at;
        *at += u64::from(len).next_multiple_of(16);
        if *at < MEMORY {
            let bytes = decide.bytes(len as usize);
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
