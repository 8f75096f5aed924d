//! A driver, its guest memory and one queue of a disk, so that a test is a few lines.
//!
//! Rule: every buffer lies in fresh memory filled with a canary, so that a byte written too many or too few shows.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use device_model::Device;
use device_model::Queue;
use device_model::QueueCounters;
use device_model::QueueHandler;
use device_model::QueueSetup;
use device_model::RingAddresses;
use guest_memory::GuestMemory;
use guest_memory::RegionSpec;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use tempfile::NamedTempFile;
use virtio_spec::block::DiscardWriteZeroes;
use virtio_spec::block::RequestHeader;
use virtio_spec::block::feature as block;
use virtio_spec::feature as ring;
use virtqueue::DriverQueue;
use virtqueue::QueueConfig;
use virtqueue::Rings;
use virtqueue::Segment;
use zerocopy::IntoBytes;

use crate::BlockDevice;
use crate::BlockSpec;

/// What fresh writable memory holds.
pub const CANARY: u8 = 0xa5;
/// First guest address that is memory; below is a hole.
pub const MEMORY: u64 = 1 << 20;
/// Bytes of each of the two neighbouring regions.
pub const REGION: u64 = 8 << 20;
/// Where the regions meet.
pub const BORDER: u64 = MEMORY + REGION;
/// Front-end address of a guest address.
const USER: u64 = 0x7000_0000_0000;
/// Requests may take this long before the test gives up.
const PATIENCE: Duration = Duration::from_secs(20);
/// All features that a driver of the default kind accepts.
pub const DRIVER: u64 = ring::VERSION_1
    | ring::RING_INDIRECT_DESC
    | ring::RING_EVENT_IDX
    | block::FLUSH
    | block::CONFIG_WCE
    | block::DISCARD
    | block::WRITE_ZEROES
    | block::RO
    | block::BLK_SIZE;

/// An image with `content`, on the file system where tests keep their files.
pub fn image_of(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("an image");
    file.write_all(content).expect("its content");
    file.flush().expect("its content");
    file
}

/// What came back of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The last writable byte.
    pub status: u8,
    /// The writable bytes before it.
    pub data: Vec<u8>,
    /// The used length.
    pub written: u32,
}

/// The rig.
pub struct Rig {
    pub device: Arc<BlockDevice>,
    pub memory: Arc<GuestMemory>,
    pub driver: DriverQueue,
    pub queue: Queue,
    pub handler: Box<dyn QueueHandler>,
    next: u64,
    pending: HashMap<u16, Vec<Segment>>,
    done: HashMap<u16, Answer>,
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

impl Rig {
    /// A disk of `spec`, driven with [`DRIVER`]'s features on a split ring.
    pub fn new(spec: BlockSpec) -> Self {
        Self::with(spec, DRIVER)
    }

    /// A disk of `spec` whose driver accepts `features` as far as they are offered.
    pub fn with(spec: BlockSpec, features: u64) -> Self {
        let device = BlockDevice::open(spec).expect("the disk opens");
        Self::on(device, features)
    }

    /// Another driver on `device`.
    pub fn on(device: Arc<BlockDevice>, features: u64) -> Self {
        let features = features & device.features();
        device.acked(features);
        let memory = GuestMemory::new(vec![region(MEMORY), region(BORDER)]).expect("guest memory");
        let memory = Arc::new(memory);
        let size = device.queue_size_max().min(64);
        let config = QueueConfig::from_features(size, features).expect("ring parameters");
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
            base: virtqueue::QueueState::fresh(config.format).encode(config.format),
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
            driver,
            queue: queue.expect("a queue"),
            handler,
            memory,
            next: MEMORY + 0x10000,
            pending: HashMap::new(),
            done: HashMap::new(),
        }
    }

    /// Fresh guest memory with `bytes` in it.
    pub fn place(&mut self, bytes: &[u8]) -> Segment {
        let addr = self.next;
        self.next += (bytes.len() as u64 + 64).next_multiple_of(512);
        assert!(self.next <= BORDER + REGION, "the rig has no memory left");
        self.memory.write(addr, bytes).expect("guest memory");
        Segment {
            addr,
            len: u32::try_from(bytes.len()).expect("a length"),
        }
    }

    /// Fresh guest memory of `len` bytes, filled with the canary.
    pub fn room(&mut self, len: usize) -> Segment {
        self.place(&vec![CANARY; len])
    }

    /// Puts the chain into the ring, unseen by the disk until [`Rig::kick`].
    pub fn add(&mut self, readable: &[Segment], writable: &[Segment]) -> u16 {
        let id = self
            .driver
            .add(readable, writable, None)
            .expect("room in the ring");
        self.pending.insert(id, writable.to_vec());
        id
    }

    /// Lets the disk see what was added, and runs it once.
    pub fn kick(&mut self) {
        let _ = self.driver.publish();
        self.handler
            .run(&mut self.queue, &self.memory)
            .expect("the queue lives");
        self.collect();
    }

    fn collect(&mut self) {
        while let Some(used) = self.driver.pop().expect("a sound ring") {
            let writable = self
                .pending
                .remove(&used.id)
                .expect("each chain comes back once");
            let mut data = Vec::new();
            for segment in writable {
                let mut part = vec![0; segment.len as usize];
                if self.memory.read(segment.addr, &mut part).is_ok() {
                    data.extend(part);
                }
            }
            let status = data.pop().unwrap_or(CANARY);
            let answer = Answer {
                status,
                data,
                written: used.written,
            };
            self.done.insert(used.id, answer);
        }
        assert_eq!(
            self.driver.overruns(),
            0,
            "used lengths stay within the buffers"
        );
    }

    /// Runs the disk until chain `id` is back.
    pub fn wait(&mut self, id: u16) -> Answer {
        let start = Instant::now();
        loop {
            if let Some(answer) = self.done.remove(&id) {
                return answer;
            }
            assert!(start.elapsed() < PATIENCE, "the request hangs");
            self.kick();
            if !self.done.contains_key(&id) && self.handler.in_flight() != 0 {
                self.sleep();
            }
        }
    }

    /// Sleeps as a worker does; completions in flight must wake it.
    fn sleep(&mut self) {
        assert!(
            self.sleep_at_most(PollTimeout::from(20_000_u16)),
            "no completion wakes the worker"
        );
    }

    /// Whether a worker that lies down now is woken at once by a completion.
    pub fn wakes(&mut self) -> bool {
        self.sleep_at_most(PollTimeout::ZERO)
    }

    /// Whether a completion ended the sleep; true without a descriptor to wait for.
    fn sleep_at_most(&mut self, time: PollTimeout) -> bool {
        self.handler.before_sleep();
        let completed = self.handler.completion_fd().is_none_or(|fd| {
            let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
            poll(&mut fds, time).expect("a poll") == 1
        });
        self.handler.after_sleep(completed);
        completed
    }

    /// Sends one chain and waits for its answer.
    pub fn send(&mut self, readable: &[Segment], writable: &[Segment]) -> Answer {
        let id = self.add(readable, writable);
        self.wait(id)
    }

    /// Sends a request of `kind` with `out` to the disk and `room` bytes for the answer's data.
    pub fn request(&mut self, kind: u32, sector: u64, out: &[u8], room: usize) -> Answer {
        let mut readable = vec![self.header(kind, sector)];
        if !out.is_empty() {
            readable.push(self.place(out));
        }
        let mut writable = Vec::new();
        if room != 0 {
            writable.push(self.room(room));
        }
        writable.push(self.room(1));
        self.send(&readable, &writable)
    }

    /// A request's head in fresh memory.
    pub fn header(&mut self, kind: u32, sector: u64) -> Segment {
        let header = RequestHeader {
            request_type: kind.into(),
            reserved: 0.into(),
            sector: sector.into(),
        };
        self.place(header.as_bytes())
    }

    /// Reads; panics unless that works.
    pub fn read(&mut self, sector: u64, len: usize) -> Vec<u8> {
        let answer = self.request(0, sector, &[], len);
        assert_eq!(
            (answer.status, answer.written as usize),
            (0, len + 1),
            "read at {sector}"
        );
        answer.data
    }

    /// Writes; returns the status.
    pub fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        let answer = self.request(1, sector, data, 0);
        assert_eq!(answer.written, 1, "a write's only output is its status");
        answer.status
    }

    /// Flushes; returns the status.
    pub fn flush(&mut self) -> u8 {
        self.request(4, 0, &[], 0).status
    }

    /// Discards or zeroes; each range is sector, sectors, flags. Returns the status.
    pub fn ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
        let mut bytes = Vec::new();
        for (sector, sectors, flags) in ranges {
            let range = DiscardWriteZeroes {
                sector: (*sector).into(),
                num_sectors: (*sectors).into(),
                flags: (*flags).into(),
            };
            bytes.extend_from_slice(range.as_bytes());
        }
        self.request(kind, 0, &bytes, 0).status
    }
}

/// `len` bytes that differ from place to place and from seed to seed.
pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 + at * 13) as u8 ^ seed).collect()
}
