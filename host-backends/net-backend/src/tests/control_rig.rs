//! A driver at the control queue of a card on no link, so that a test is a few lines.
//!
//! Rule: answers land in fresh memory filled with a canary, so that a byte written too many or too few shows.

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
use net_link::LinkSpec;
use virtio_spec::net::feature;
use virtqueue::DriverQueue;
use virtqueue::QueueConfig;
use virtqueue::QueueState;
use virtqueue::Rings;
use virtqueue::Segment;

use crate::Fabric;
use crate::NetDevice;
use crate::NetSpec;
use crate::receive_filter::ReceiveFilter;

/// What fresh memory holds.
pub const CANARY: u8 = 0xa5;
/// First guest address that is memory; below is a hole.
pub const MEMORY: u64 = 1 << 20;
/// Bytes of each of the two neighbouring regions.
const REGION: u64 = 1 << 20;
/// Where the regions meet.
pub const BORDER: u64 = MEMORY + REGION;
/// Front-end address of a guest address.
const USER: u64 = 0x7000_0000_0000;
/// Where a test's buffers begin.
const BUFFERS: u64 = MEMORY + 0x10000;

/// The rig.
pub struct Rig {
    pub device: Arc<NetDevice>,
    memory: Arc<GuestMemory>,
    driver: DriverQueue,
    queue: Queue,
    handler: Box<dyn QueueHandler>,
    next: u64,
}

fn region(guest_addr: u64) -> (RegionSpec, OwnedFd) {
    let fd = host_os::memfd::create("guest", REGION).expect("memory");
    let spec = RegionSpec {
        guest_addr,
        size: REGION,
        user_addr: USER + guest_addr,
        mmap_offset: 0,
    };
    (spec, fd)
}

/// A card with four queue pairs on no link.
pub fn spec() -> NetSpec {
    NetSpec {
        queue_pairs: 4,
        mac: Some("52:54:00:00:00:01".parse().expect("an address")),
        // Its driver may take another.
        mac_filter: Some(false),
        ..NetSpec::on(LinkSpec::Null)
    }
}

/// What `spec` opens.
pub fn card(spec: NetSpec) -> Arc<NetDevice> {
    NetDevice::open("card", spec, &Fabric::default()).expect("a card")
}

impl Rig {
    /// All features of a card of [`spec`].
    pub fn new() -> Self {
        Self::without(0)
    }

    /// All features but these.
    pub fn without(features: u64) -> Self {
        let device = card(spec());
        let features = device.features() & !features;
        Self::on(device, features)
    }

    /// A driver with `features` on `device`.
    pub fn on(device: Arc<NetDevice>, features: u64) -> Self {
        device.acked(features);
        let memory = GuestMemory::new(vec![region(MEMORY), region(BORDER)]).expect("guest memory");
        let memory = Arc::new(memory);
        let config = QueueConfig::from_features(64, features).expect("ring parameters");
        let layout = config.layout();
        let addresses = RingAddresses {
            descriptors: USER + MEMORY,
            driver: USER + MEMORY + 0x4000,
            device: USER + MEMORY + 0x8000,
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
        let several = features & (feature::MQ | feature::RSS) != 0;
        let control = if several { 8 } else { 2 };
        let handler = device.start_queue(control, features).expect("a handler");
        Self {
            device,
            driver,
            queue: queue.expect("a queue"),
            handler,
            memory,
            next: BUFFERS,
        }
    }

    /// Guest memory with `bytes` in it.
    pub fn place(&mut self, bytes: &[u8]) -> Segment {
        if self.next + bytes.len() as u64 > BORDER {
            self.next = BUFFERS;
        }
        let addr = self.next;
        self.next += (bytes.len() as u64 + 8).next_multiple_of(64);
        self.place_at(addr, bytes)
    }

    /// Memory at `addr` with `bytes` in it.
    pub fn place_at(&mut self, addr: u64, bytes: &[u8]) -> Segment {
        self.memory.write(addr, bytes).expect("guest memory");
        Segment {
            addr,
            len: u32::try_from(bytes.len()).expect("a length"),
        }
    }

    /// Sends a chain; the used length.
    pub fn chain(&mut self, readable: &[Segment], writable: &[Segment]) -> u32 {
        self.driver
            .add(readable, writable, None)
            .expect("room in the ring");
        let _ = self.driver.publish();
        self.handler
            .run(&mut self.queue, &self.memory)
            .expect("the queue lives");
        let used = self.driver.pop().expect("a sound ring");
        assert_eq!(self.driver.overruns(), 0, "no more written than room");
        used.expect("every chain comes back").written
    }

    /// What stands at `segment`.
    pub fn read(&self, segment: Segment) -> Vec<u8> {
        let mut bytes = vec![0; segment.len as usize];
        self.memory
            .read(segment.addr, &mut bytes)
            .expect("guest memory");
        bytes
    }

    /// Sends the segments as a request, with room for one byte; its value.
    pub fn send(&mut self, readable: &[Segment]) -> u8 {
        let answer = self.place(&[CANARY; 2]);
        let room = Segment { len: 1, ..answer };
        assert_eq!(self.chain(readable, &[room]), 1);
        let bytes = self.read(answer);
        assert_eq!(bytes[1], CANARY);
        bytes[0]
    }

    /// Sends a request of class and command; OK is 0, ERR 1.
    pub fn ask(&mut self, class: u8, command: u8, body: &[u8]) -> u8 {
        let request = self.place(&[&[class, command], body].concat());
        self.send(&[request])
    }

    /// The filter that the frame path uses now.
    pub fn filter(&self) -> ReceiveFilter {
        self.device.port().state().receive.clone()
    }
}
