//! Guests with memory, rings and a port, so that a test is a few lines; and a link that a test holds the other end of.
//!
//! Rule: every buffer lies in fresh memory filled with a canary, so that a byte written too many or too few shows.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;

use device_model::Queue;
use device_model::QueueCounters;
use device_model::QueueHandler;
use device_model::QueueSetup;
use device_model::RingAddresses;
use device_model::Shelf;
use guest_memory::GuestMemory;
use guest_memory::IoVecs;
use guest_memory::RegionSpec;
use host_os::EventFd;
use host_os::sync::lock;
use net_link::Capabilities;
use net_link::Link;
use net_link::Offloads;
use net_link::Sent;
use nix::sys::uio::RemoteIoVec;
use nix::sys::uio::process_vm_readv;
use nix::sys::uio::process_vm_writev;
use nix::unistd::Pid;
use virtio_spec::feature as ring;
use virtio_spec::net::HEADER_SIZE;
use virtio_spec::net::Header;
use virtio_spec::net::feature as net;
use virtio_spec::net::header_size;
use virtqueue::DriverQueue;
use virtqueue::QueueConfig;
use virtqueue::Rings;
use virtqueue::Segment;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;

use crate::MacAddress;
use crate::Totals;
use crate::control::guest_offloads;
use crate::port::Policy;
use crate::port::Port;
use crate::port::PortState;
use crate::switch::Switch;

/// What fresh memory holds.
pub const CANARY: u8 = 0xa5;
/// First guest address that is memory; below is a hole.
pub const MEMORY: u64 = 1 << 20;
/// Bytes of each of the two neighbouring regions.
pub const REGION: u64 = 16 << 20;
/// Where the regions meet; another hole is behind the second.
pub const BORDER: u64 = MEMORY + REGION;
/// Front-end address of a guest address.
const USER: u64 = 0x7000_0000_0000;
/// A driver of the plain kind.
pub const PLAIN: u64 = ring::VERSION_1 | ring::RING_INDIRECT_DESC | ring::RING_EVENT_IDX;
/// A legacy driver, whose header has 10 bytes.
pub const LEGACY: u64 = ring::RING_INDIRECT_DESC | ring::RING_EVENT_IDX;
/// One with mergeable buffers.
pub const MERGEABLE: u64 = PLAIN | net::MRG_RXBUF;
/// Everything that may be left to the other side.
pub const OFFLOADS: u64 = net::CSUM
    | net::HOST_TSO4
    | net::HOST_TSO6
    | net::HOST_ECN
    | net::HOST_USO
    | net::GUEST_CSUM
    | net::GUEST_TSO4
    | net::GUEST_TSO6
    | net::GUEST_ECN
    | net::GUEST_USO4
    | net::GUEST_USO6;

/// A frame as the guest got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub header: Header,
    /// The rest of a header of 20 bytes.
    pub hash: Vec<u8>,
    pub frame: Vec<u8>,
}

/// A guest with one queue pair.
pub struct Guest {
    pub port: Arc<Port>,
    pub memory: Arc<GuestMemory>,
    pub mac: [u8; 6],
    pub send: DriverQueue,
    pub receive: DriverQueue,
    pub sending: Queue,
    pub handler: Box<dyn QueueHandler>,
    pub receiver: Box<dyn QueueHandler>,
    pub shelf: Arc<dyn Shelf>,
    features: u64,
    /// Where fresh memory for buffers is.
    next: u64,
    /// Where it began.
    first: u64,
    posted: HashMap<u16, Vec<Segment>>,
    /// The file of the second region.
    second: OwnedFd,
    /// Chains that came back from the transmit queue.
    pub sent: usize,
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

/// Descriptors of a ring, unless a test needs more.
const RING: u16 = 64;

/// Bytes between the areas of a ring.
fn stride(size: u16) -> u64 {
    u64::from(size) * 0x100
}

/// A ring of `size` in `memory`, both halves.
fn queue(memory: &Arc<GuestMemory>, at: u64, size: u16, features: u64) -> (DriverQueue, Queue) {
    let config = QueueConfig::from_features(size, features).expect("ring parameters");
    let layout = config.layout();
    let addresses = RingAddresses {
        descriptors: USER + at,
        driver: USER + at + stride(size),
        device: USER + at + 2 * stride(size),
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

fn state(mac: [u8; 6], features: u64) -> PortState {
    let mut state = PortState::new(MacAddress(mac));
    state.features = features;
    state.offloads = guest_offloads(features);
    state
}

/// The address of guest `number`.
pub fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

impl Guest {
    /// A guest on `switch` with address [`mac`] of `number`.
    pub fn on_switch(switch: &Arc<Switch>, number: u8, features: u64) -> Self {
        Self::with_policy(switch, number, features, Policy::default())
    }

    /// The same with a policy.
    pub fn with_policy(switch: &Arc<Switch>, number: u8, features: u64, policy: Policy) -> Self {
        let state = state(mac(number), features);
        let name = format!("guest{number}");
        let port = Port::on_switch(&name, switch, 1, state, policy);
        Self::with_port(port.expect("a port"), number, features, RING)
    }

    /// The same with rings of `size`.
    pub fn with_rings(switch: &Arc<Switch>, number: u8, features: u64, size: u16) -> Self {
        let state = state(mac(number), features);
        let port = Port::on_switch("guest", switch, 1, state, Policy::default());
        Self::with_port(port.expect("a port"), number, features, size)
    }

    /// A guest on a link.
    pub fn on_link(link: FakeLink, features: u64) -> Self {
        Self::on_link_with(link, features, Policy::default())
    }

    /// The same with a policy.
    pub fn on_link_with(link: FakeLink, features: u64, policy: Policy) -> Self {
        let state = state(mac(1), features);
        let port = Port::on_links("guest", vec![Box::new(link)], state, policy);
        Self::with_port(port.expect("a port"), 1, features, RING)
    }

    fn with_port(port: Arc<Port>, number: u8, features: u64, size: u16) -> Self {
        let regions = vec![region(MEMORY), region(BORDER)];
        let second = regions[1].1.try_clone().expect("a descriptor");
        let memory = Arc::new(GuestMemory::new(regions).expect("guest memory"));
        let (receive, receiving) = queue(&memory, MEMORY, size, features);
        let (send, mut sending) = queue(&memory, MEMORY + 4 * stride(size), size, features);
        sending.disarm();
        let receiver = port.receive_handler(0).expect("a handler");
        let shelf = receiver.shelf().expect("a shelf");
        shelf.put(receiving);
        let handler = port.transmit_handler(0).expect("a handler");
        Self {
            port,
            memory,
            mac: mac(number),
            send,
            receive,
            sending,
            handler,
            receiver,
            shelf,
            features,
            next: MEMORY + 8 * stride(size),
            first: MEMORY + 8 * stride(size),
            posted: HashMap::new(),
            second,
            sent: 0,
        }
    }

    /// Fresh guest memory with `bytes` in it.
    pub fn place(&mut self, bytes: &[u8]) -> Segment {
        let addr = self.next;
        self.next += (bytes.len() as u64 + 64).next_multiple_of(64);
        assert!(self.next <= BORDER + REGION, "the rig has no memory left");
        self.memory.write(addr, bytes).expect("guest memory");
        Segment {
            addr,
            len: u32::try_from(bytes.len()).expect("a length"),
        }
    }

    /// Starts over with the memory of buffers; none must be in flight.
    pub fn recycle(&mut self) {
        assert!(self.posted.is_empty());
        self.next = self.first;
    }

    /// Starts over with the memory of buffers, well apart from those posted before.
    pub fn recycle_all(&mut self) {
        if self.next > BORDER {
            self.next = self.first;
        }
    }

    /// Whether another receive buffer can be posted.
    pub fn room_in_ring(&self) -> bool {
        self.posted.len() < 64
    }

    /// Fresh guest memory of `len` bytes, filled with the canary.
    pub fn room(&mut self, len: usize) -> Segment {
        self.place(&vec![CANARY; len])
    }

    /// Adds a receive buffer with parts of these lengths; whether the device wants to be told.
    pub fn post(&mut self, lengths: &[usize]) -> bool {
        let parts: Vec<Segment> = lengths.iter().map(|len| self.room(*len)).collect();
        self.post_parts(&[], &parts)
    }

    /// Adds a receive buffer; whether the device wants to be told.
    pub fn post_parts(&mut self, readable: &[Segment], parts: &[Segment]) -> bool {
        let id = self.receive.add(readable, parts, None);
        let id = id.expect("room in the ring");
        self.posted.insert(id, parts.to_vec());
        self.receive.publish()
    }

    /// Adds a chain to the transmit queue.
    pub fn queue_chain(&mut self, readable: &[Segment], writable: &[Segment]) {
        let added = self.send.add(readable, writable, None);
        added.expect("room in the ring");
    }

    /// Adds a frame to the transmit queue, in one piece.
    pub fn queue_frame(&mut self, header: &Header, frame: &[u8]) {
        let bytes = self.with_header(header, frame);
        let segment = self.place(&bytes);
        self.queue_chain(&[segment], &[]);
    }

    /// A frame behind a header of the size that was negotiated.
    pub fn with_header(&self, header: &Header, frame: &[u8]) -> Vec<u8> {
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(header_size(self.features), 0);
        bytes.extend_from_slice(frame);
        bytes
    }

    /// Lets the worker run, and takes back what was sent.
    pub fn run(&mut self) {
        let _ = self.send.publish();
        self.handler
            .run(&mut self.sending, &self.memory)
            .expect("the queue lives");
        while let Some(used) = self.send.pop().expect("a sound ring") {
            assert_eq!(used.written, 0, "nothing is written to what is sent");
            self.sent += 1;
        }
    }

    /// Sends frames and lets the worker run.
    pub fn send_all(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            self.queue_frame(&Header::default(), frame);
        }
        self.run();
    }

    /// The buffers that came back, each as what was written to it; the canary behind it is looked at.
    pub fn buffers(&mut self) -> Vec<Vec<u8>> {
        let mut buffers = Vec::new();
        while let Some(used) = self.receive.pop().expect("a sound ring") {
            let parts = self.posted.remove(&used.id);
            let mut bytes = Vec::new();
            for part in parts.expect("each chain comes back once") {
                let mut piece = vec![0; part.len as usize];
                if self.memory.read(part.addr, &mut piece).is_ok() {
                    bytes.extend(piece);
                }
            }
            let behind = bytes.split_off(used.written as usize);
            assert!(
                behind.iter().all(|byte| *byte == CANARY),
                "bytes beyond the used length are untouched"
            );
            buffers.push(bytes);
        }
        assert_eq!(self.receive.overruns(), 0, "used lengths are true");
        buffers
    }

    /// The frames that came.
    pub fn got(&mut self) -> Vec<Got> {
        let mut buffers = VecDeque::from(self.buffers());
        let mut frames = Vec::new();
        let size = header_size(self.features);
        while let Some(mut bytes) = buffers.pop_front() {
            let (mut header, _) = Header::read_from_prefix(&bytes).expect("a header in one buffer");
            if size < HEADER_SIZE {
                header.num_buffers = 0.into();
            }
            for _ in 1..header.num_buffers.get() {
                bytes.extend(buffers.pop_front().expect("as many buffers as it says"));
            }
            frames.push(Got {
                header,
                hash: bytes.get(12..size).unwrap_or_default().to_vec(),
                frame: bytes[size..].to_vec(),
            });
        }
        frames
    }

    /// Takes the second region's memory away, as a front-end can that keeps its file.
    pub fn truncate(&self) {
        nix::unistd::ftruncate(&self.second, 0).expect("a truncation");
    }

    /// Counters.
    pub fn totals(&self) -> Totals {
        self.port.totals()
    }
}

/// `len` bytes of a frame from guest `from` to guest `to`, different from place to place.
pub fn frame(from: u8, to: u8, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|at| (at / 7 + at * 13) as u8 ^ from).collect();
    let head = [&mac(to)[..], &mac(from)[..], &[0x88, 0xb5]].concat();
    for (to, from) in bytes.iter_mut().zip(head) {
        *to = from;
    }
    bytes
}

/// A frame of IPv4 and TCP with 3000 bytes of payload to be sent in segments of 1000, and its header.
pub fn large_frame(from: u8, to: u8) -> (Header, Vec<u8>) {
    let mut large = frame(from, to, 14 + 20 + 20 + 3000);
    large[12..14].copy_from_slice(&[8, 0]);
    large[14] = 0x45;
    large[16..18].copy_from_slice(&3040_u16.to_be_bytes());
    large[20..22].fill(0);
    large[23] = 6;
    large[46] = 0x50;
    let header = Header {
        flags: 1,
        gso_type: 1,
        hdr_len: 54.into(),
        gso_size: 1000.into(),
        csum_start: 34.into(),
        csum_offset: 16.into(),
        num_buffers: 0.into(),
    };
    (header, large)
}

/// What both ends of a [`FakeLink`] see.
#[derive(Default)]
pub struct Wire {
    /// Frames from the guest, with their 12-byte header.
    pub sent: Vec<Vec<u8>>,
    /// Frames for the guest, with their 12-byte header.
    pub waiting: VecDeque<Vec<u8>>,
    /// Frames that did not fit into the guest's buffers.
    pub lost: usize,
    /// How many more frames the link takes before it is full; `None` for any number.
    pub room: Option<usize>,
    /// What the guest accepts.
    pub offloads: Offloads,
    pub flushes: usize,
}

/// A link whose other end is a test's.
pub struct FakeLink {
    pub wire: Arc<Mutex<Wire>>,
    pub offloads: Offloads,
    pub ready: Arc<EventFd>,
    unsent: Vec<Vec<u8>>,
}

impl FakeLink {
    /// A link that takes over `offloads`.
    pub fn new(offloads: Offloads) -> Self {
        Self {
            wire: Arc::default(),
            offloads,
            ready: Arc::new(EventFd::new().expect("an eventfd")),
            unsent: Vec::new(),
        }
    }
}

fn remote(spans: &IoVecs) -> Vec<RemoteIoVec> {
    let each = spans.as_slice().iter();
    each.map(|span| RemoteIoVec {
        base: span.iov_base.addr(),
        len: span.iov_len,
    })
    .collect()
}

impl Link for FakeLink {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            vnet_header: true,
            offloads: self.offloads,
            receive_offloads: Offloads::ALL,
            max_frame: net_link::MAX_FRAME,
            max_pairs: 1,
        }
    }

    fn send(&mut self, head: &[u8], rest: &IoVecs) -> Result<Sent, net_link::Error> {
        let mut wire = lock(&self.wire);
        match &mut wire.room {
            Some(0) => return Ok(Sent::Full),
            Some(room) => *room -= 1,
            None => {}
        }
        let mut bytes = head.to_vec();
        let mut behind = vec![0; rest.total_len()];
        if !behind.is_empty() {
            let mut into = [IoSliceMut::new(&mut behind)];
            let read = process_vm_readv(Pid::this(), &mut into, &remote(rest));
            assert_eq!(read, Ok(rest.total_len()));
        }
        bytes.extend(behind);
        self.unsent.push(bytes);
        Ok(Sent::Sent)
    }

    fn flush(&mut self) -> Result<(), net_link::Error> {
        let mut wire = lock(&self.wire);
        wire.sent.append(&mut self.unsent);
        wire.flushes += 1;
        Ok(())
    }

    fn receive(
        &mut self,
        into: &IoVecs,
        behind: &mut [u8],
    ) -> Result<net_link::Received, net_link::Error> {
        let mut wire = lock(&self.wire);
        while let Some(frame) = wire.waiting.pop_front() {
            let inside = frame.len().min(into.total_len());
            let (inside, rest) = frame.split_at(inside);
            let Some(target) = behind.get_mut(..rest.len()) else {
                wire.lost += 1;
                continue;
            };
            target.copy_from_slice(rest);
            let mut left = inside.len();
            let mut spans = remote(into);
            for span in &mut spans {
                span.len = span.len.min(left);
                left -= span.len;
            }
            let written = process_vm_writev(Pid::this(), &[IoSlice::new(inside)], &spans);
            assert_eq!(written, Ok(inside.len()));
            return Ok(net_link::Received::Frame(frame.len()));
        }
        self.ready.drain();
        Ok(net_link::Received::Empty)
    }

    fn set_offloads(&mut self, offloads: Offloads) -> Result<(), net_link::Error> {
        lock(&self.wire).offloads = offloads;
        Ok(())
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}
