//! What a frame costs the worker that carries it from one guest to another: `cargo bench -p net-backend --bench switch`.
//!
//! Rule: drivers fill and empty their rings outside of the measured time, on the same core; what is timed is one worker's
//! `run`, from the sender's ring to the receiver's.
#![expect(clippy::print_stdout, reason = "a benchmark says what it measured")]
#![expect(
    clippy::expect_used,
    reason = "a benchmark, like a test, ends at the first surprise"
)]

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use device_model::Queue;
use device_model::QueueCounters;
use device_model::QueueHandler;
use device_model::QueueSetup;
use device_model::RingAddresses;
use guest_memory::GuestMemory;
use guest_memory::RegionSpec;
use net_backend::MacAddress;
use net_backend::port::Policy;
use net_backend::port::Port;
use net_backend::port::PortState;
use net_backend::switch::Switch;
use nix::time::ClockId;
use nix::time::clock_gettime;
use virtio_spec::feature as ring;
use virtio_spec::net::HEADER_SIZE;
use virtio_spec::net::feature as net;
use virtqueue::DriverQueue;
use virtqueue::QueueConfig;
use virtqueue::Rings;
use virtqueue::Segment;

const USER: u64 = 0x7000_0000_0000;
const BUFFERS: u64 = 1 << 20;
const SIZE: u16 = 256;
const TIME: Duration = Duration::from_millis(300);

/// One guest: memory, a transmit and a receive ring.
struct Guest {
    port: Arc<Port>,
    memory: Arc<GuestMemory>,
    send: DriverQueue,
    receive: DriverQueue,
    sending: Queue,
    handler: Box<dyn QueueHandler>,
    buffer: u64,
    mac: MacAddress,
}

fn memory() -> Arc<GuestMemory> {
    let size = 64 << 20;
    let fd = host_os::memfd::create("bench", size).expect("a memfd");
    let region = |guest_addr: u64, size: u64, mmap_offset: u64, fd: OwnedFd| {
        let spec = RegionSpec {
            guest_addr,
            size,
            user_addr: USER + guest_addr,
            mmap_offset,
        };
        (spec, fd)
    };
    // Two regions, as a PC has.
    let second = fd.try_clone().expect("a descriptor");
    let regions = vec![
        region(0, size / 2, 0, fd),
        region(1 << 32, size / 2, size / 2, second),
    ];
    Arc::new(GuestMemory::new(regions).expect("guest memory"))
}

fn queue(memory: &Arc<GuestMemory>, at: u64, features: u64) -> (DriverQueue, Queue) {
    let config = QueueConfig::from_features(SIZE, features).expect("parameters");
    let layout = config.layout();
    let addresses = RingAddresses {
        descriptors: USER + at,
        driver: USER + at + 0x4000,
        device: USER + at + 0x8000,
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
        base: virtqueue::QueueState::fresh(config.format).encode(config.format),
        config,
        addresses,
        memory: Arc::clone(memory),
        record: None,
        call: None,
        counters: Arc::new(QueueCounters::default()),
    });
    (driver, queue.expect("a queue"))
}

impl Guest {
    fn new(switch: &Arc<Switch>, number: u8, features: u64, buffer: u64) -> Self {
        let mac = MacAddress([2, 0, 0, 0, 0, number]);
        let mut state = PortState::new(mac);
        state.features = features;
        let port = Port::on_switch("bench", switch, 1, state, Policy::default()).expect("a port");
        let memory = memory();
        let (receive, receiving) = queue(&memory, 0x10000, features);
        let (send, mut sending) = queue(&memory, 0x20000, features);
        sending.disarm();
        let shelf = port.receive_handler(0).expect("a handler").shelf();
        shelf.expect("a shelf").put(receiving);
        let handler = port.transmit_handler(0).expect("a handler");
        let mut guest = Self {
            port,
            memory,
            send,
            receive,
            sending,
            handler,
            buffer,
            mac,
        };
        for _ in 0..SIZE {
            guest.refill_one(0);
        }
        let _ = guest.receive.publish();
        guest
    }

    fn refill_one(&mut self, slot: u64) {
        let segment = Segment {
            addr: BUFFERS * 16 + slot * self.buffer,
            len: self.buffer as u32,
        };
        self.receive.add(&[], &[segment], None).expect("room");
    }

    fn queue_frame(&mut self, slot: u64, len: usize, to: MacAddress) {
        let addr = BUFFERS + slot * 65_600;
        let mut head = [0; HEADER_SIZE + 14];
        head[12..18].copy_from_slice(&to.0);
        head[18..24].copy_from_slice(&self.mac.0);
        head[24] = 8;
        self.memory.write(addr, &head).expect("memory");
        let segment = Segment {
            addr,
            len: (HEADER_SIZE + len) as u32,
        };
        self.send.add(&[segment], &[], None).expect("room");
    }
}

/// CPU time of this thread: what others do on the machine counts less.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock");
    now.into()
}

/// Nanoseconds per frame of the worker.
fn measure(features: u64, len: usize, buffer: u64, batch: u64) -> f64 {
    let switch = Arc::new(Switch::new("bench"));
    let mut a = Guest::new(&switch, 1, features, buffer);
    let mut b = Guest::new(&switch, 2, features, buffer);
    let (mut busy, mut frames, mut expected) = (Duration::ZERO, 0_u64, 0);
    let start = Instant::now();
    let mut slots = 0;
    while start.elapsed() < TIME {
        for slot in 0..batch {
            a.queue_frame(slot, len, b.mac);
        }
        let _ = a.send.publish();
        let began = cpu_time();
        a.handler.run(&mut a.sending, &a.memory).expect("a run");
        busy += cpu_time() - began;
        frames += batch;
        expected += batch;
        while a.send.pop().expect("a ring").is_some() {}
        while b.receive.pop().expect("a ring").is_some() {
            b.refill_one(slots % u64::from(SIZE));
            slots += 1;
        }
        let _ = b.receive.publish();
    }
    let totals = b.port.totals();
    assert_eq!(totals.receive.frames, expected, "{totals:?}");
    busy.as_nanos() as f64 / frames as f64
}

fn main() {
    let base = ring::VERSION_1 | ring::RING_EVENT_IDX | ring::RING_INDIRECT_DESC | net::MRG_RXBUF;
    println!("ns of the worker per frame, one guest to another (M/s; GB/s)");
    for (name, features) in [
        ("split", base),
        ("packed", base | ring::RING_PACKED),
        (
            "packed, in order",
            base | ring::RING_PACKED | ring::IN_ORDER,
        ),
    ] {
        println!("{name}");
        for (len, batch) in [
            (64, 1),
            (64, 32),
            (64, 256),
            (200, 256),
            (1514, 256),
            (65_000, 4),
        ] {
            let cost = measure(features, len, 2048, batch);
            println!(
                "  {len:6} bytes, {batch:3} at once: {cost:8.1} ns  {:6.2} M/s {:6.2} GB/s",
                1000.0 / cost,
                len as f64 / cost
            );
        }
    }
}
