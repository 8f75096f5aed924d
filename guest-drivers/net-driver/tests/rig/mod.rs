//! A network driver and a fake device, joined for a test.
//!
//! Rule: one seed decides everything.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeSet;

use driver_fakes::FakeBar;
use driver_fakes::FakeBuffer;
use driver_fakes::FakeFunction;
use driver_fakes::FakeInterrupts;
use driver_fakes::FakeNet;
use driver_fakes::FakePlatform;
use driver_fakes::Layout;
use driver_fakes::Registers;
use driver_fakes::feature_sets;
use net_driver::Answer;
use net_driver::Command;
use net_driver::ControlQueue;
use net_driver::Discard;
use net_driver::Error;
use net_driver::Frame;
use net_driver::NetDriver;
use net_driver::Offload;
use net_driver::Options;
use net_driver::Queues;
use net_driver::Quiesced;
use net_driver::ReceiveQueue;
use net_driver::ResetProgress;
use net_driver::Transmit;
use net_driver::TransmitQueue;
use net_driver::WANTED_FEATURES;
use virtio_spec::feature;
use virtio_spec::net;
use virtio_spec::net::HashHeader;
use virtio_spec::net::Header;
use virtio_spec::net::rss::hash_type;
use zerocopy::IntoBytes;

pub const ADDRESS: [u8; 6] = [2, 0, 0, 0, 0, 7];
pub const PAIRS: u16 = 2;
/// Network features, without those of the ring.
pub const NET_FEATURES: u64 = WANTED_FEATURES & !feature::RING_AND_TRANSPORT;

pub struct Rig {
    pub platform: FakePlatform,
    pub function: FakeFunction,
    pub driver: NetDriver<FakeFunction>,
    pub receive: Vec<ReceiveQueue<FakePlatform, FakeBar>>,
    pub transmit: Vec<TransmitQueue<FakePlatform, FakeBar>>,
    pub control: Option<ControlQueue<FakeBar>>,
    pub device: FakeNet,
    /// Of a reset that was not followed by a restart yet.
    pub proof: Option<Quiesced>,
}

pub fn config() -> net::Config {
    net::Config {
        mac: ADDRESS,
        status: net::status::LINK_UP.into(),
        max_virtqueue_pairs: PAIRS.into(),
        mtu: 1500.into(),
        speed: 10_000.into(),
        duplex: net::duplex::FULL,
        rss_max_key_size: 40,
        rss_max_indirection_table_length: 128.into(),
        supported_hash_types: hash_type::ALL.into(),
        ..Default::default()
    }
}

pub fn registers(features: u64, config: net::Config) -> Registers {
    let offered = features | feature::VERSION_1;
    Registers::new(offered, config.as_bytes().to_vec(), 2 * PAIRS + 1, 64)
}

pub fn options() -> Options {
    Options {
        pairs: PAIRS,
        receive_size: 32,
        transmit_size: 32,
        receive_segments: 200,
        transmit_segments: 200,
        features: WANTED_FEATURES,
    }
}

pub fn function(registers: Registers) -> FakeFunction {
    FakeFunction::new(1, registers, Layout::default())
}

/// Starts a driver that is expected to fail; no memory may be lost.
pub fn refused(registers: Registers) -> Error {
    let platform = FakePlatform::new(1);
    let started = NetDriver::start(
        &platform,
        function(registers),
        &FakeInterrupts(3),
        options(),
    );
    let failure = started.err().expect("the driver started");
    platform.release_all(failure.memory);
    assert_eq!(platform.arena().live(), 0, "memory was lost");
    failure.error
}

pub fn rig_with(seed: u64, registers: Registers) -> Rig {
    let platform = FakePlatform::new(seed);
    let function = function(registers);
    let started = NetDriver::start(&platform, function.clone(), &FakeInterrupts(3), options());
    let started = started.unwrap_or_else(|failure| panic!("{}", failure.error));
    let memory = platform.arena().device_memory();
    Rig {
        device: FakeNet::new(function.clone(), memory, seed ^ 1),
        platform,
        function,
        driver: started.driver,
        receive: started.receive,
        transmit: started.transmit,
        control: started.control,
        proof: None,
    }
}

pub fn rig(seed: u64, features: u64) -> Rig {
    rig_with(seed, registers(features, config()))
}

/// Every combination of the ring features.
pub fn ring_feature_sets() -> Vec<u64> {
    feature_sets(&[
        feature::RING_PACKED,
        feature::RING_EVENT_IDX,
        feature::RING_INDIRECT_DESC,
        feature::NOTIFICATION_DATA,
        feature::RING_RESET,
        feature::IN_ORDER,
    ])
}

/// A frame that can be told from others.
pub fn frame(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at as u8).wrapping_mul(31) ^ seed)
        .collect()
}

pub fn send(frame: Vec<u8>, cookie: u64) -> Transmit<FakeBuffer> {
    Transmit {
        buffer: FakeBuffer::new(frame),
        headroom: false,
        offload: Offload::default(),
        cookie,
    }
}

/// A received frame, put together.
#[derive(Debug, PartialEq, Eq)]
pub struct Got {
    pub frame: Result<Frame, Discard>,
    pub bytes: Vec<u8>,
    pub cookies: Vec<u64>,
}

impl Rig {
    /// Posts `count` buffers of `len` bytes, with cookies from `first` on.
    pub fn post(&mut self, pair: usize, count: u64, len: usize, first: u64) {
        for cookie in first..first + count {
            let buffer = FakeBuffer::zeroed(len);
            let posted = self.receive[pair].post(&self.platform, buffer, cookie);
            posted.map_err(|rejected| rejected.reason).unwrap();
        }
        self.receive[pair].kick();
    }

    /// The next frame of a pair.
    pub fn poll(&mut self, pair: usize) -> Result<Option<Got>, Error> {
        let Some(received) = self.receive[pair].poll(&self.platform)? else {
            return Ok(None);
        };
        let mut got = Got {
            frame: received.frame,
            bytes: Vec::new(),
            cookies: Vec::new(),
        };
        for part in received.buffers {
            let (start, len) = (part.offset as usize, part.len as usize);
            got.bytes.extend(&part.buffer.data[start..start + len]);
            got.cookies.push(part.cookie);
        }
        Ok(Some(got))
    }

    pub fn got(&mut self, pair: usize) -> Got {
        self.poll(pair).unwrap().expect("nothing arrived")
    }

    /// The header that a device would write.
    pub fn header(&self, header: Header) -> Vec<u8> {
        let whole = HashHeader {
            header,
            hash_value: 77.into(),
            hash_report: 1.into(),
            padding: 0.into(),
        };
        let size = net::header_size(self.driver.features());
        whole.as_bytes()[..size].to_vec()
    }

    pub fn deliver(&mut self, pair: u16, header: Header, frame: &[u8]) -> bool {
        let header = self.header(header);
        self.device.deliver(pair, &header, frame)
    }

    /// Gives a command and returns its answer.
    pub fn command(&mut self, command: &Command<'_>) -> Answer {
        let control = self.control.as_mut().expect("no control queue");
        control.submit(command, 5).unwrap();
        self.device.serve();
        control.poll().unwrap().expect("no answer")
    }

    /// Resets, takes everything back, and returns the cookies of receive and of transmit buffers.
    pub fn reset(&mut self) -> (BTreeSet<u64>, BTreeSet<u64>) {
        self.driver.begin_reset(&self.platform);
        let ResetProgress::Done(proof) = self.driver.poll_reset(&self.platform) else {
            panic!("the reset is not done")
        };
        let (mut receive, mut transmit) = (BTreeSet::new(), BTreeSet::new());
        for queue in &mut self.receive {
            while let Some(received) = queue.take_outstanding(&self.platform, &proof).unwrap() {
                for part in received.buffers {
                    assert!(receive.insert(part.cookie), "returned twice");
                }
            }
        }
        for queue in &mut self.transmit {
            while let Some(sent) = queue.take_outstanding(&self.platform, &proof).unwrap() {
                assert!(transmit.insert(sent.cookie), "returned twice");
            }
        }
        if let Some(control) = &mut self.control {
            while control.take_outstanding(&proof).unwrap().is_some() {}
        }
        assert_eq!(self.platform.mapped(), 0);
        self.proof = Some(proof);
        (receive, transmit)
    }

    /// Starts again after [`Rig::reset`].
    pub fn restart(&mut self) -> Result<(), Error> {
        let proof = self.proof.take().expect("there was no reset");
        let queues = Queues {
            receive: &mut self.receive,
            transmit: &mut self.transmit,
            control: self.control.as_mut(),
        };
        self.driver.restart(&self.platform, proof, queues)
    }

    /// One frame each way.
    pub fn works(&mut self) {
        self.post(0, 1, 65609, 900);
        assert!(self.deliver(0, Header::default(), &frame(100, 3)));
        let got = self.got(0);
        assert_eq!((got.bytes, got.cookies), (frame(100, 3), vec![900]));
        let sent = self.transmit[0].submit(&self.platform, send(frame(90, 4), 901));
        sent.map_err(|rejected| rejected.reason).unwrap();
        self.transmit[0].kick();
        self.device.serve();
        let back = self.transmit[0].poll(&self.platform).unwrap().unwrap();
        assert_eq!((back.cookie, back.taken), (901, true));
        assert_eq!(self.device.sent.pop_back().unwrap().frame, frame(90, 4));
    }

    /// Takes the driver apart; nothing may be left behind.
    pub fn finish(mut self) {
        self.reset();
        let proof = self.proof.take().unwrap();
        let apart = "something is outstanding";
        for queue in self.receive.drain(..) {
            self.platform
                .release_all(queue.into_memory(&proof).expect(apart));
        }
        for queue in self.transmit.drain(..) {
            self.platform
                .release_all(queue.into_memory(&proof).expect(apart));
        }
        if let Some(queue) = self.control.take() {
            self.platform
                .release_all(queue.into_memory(&proof).expect(apart));
        }
        assert_eq!(self.platform.arena().live(), 0);
        assert_eq!(self.platform.arena().faults(), 0);
    }
}
