//! A network device that says anything: received lengths, buffer counts, headers, answers, used rings. The driver keeps every buffer apart,
//! hands up only what is sound, and works again after a reset.
#![no_main]

use std::collections::BTreeSet;

use driver_fakes::Arena;
use driver_fakes::FakeBuffer;
use driver_fakes::FakeFunction;
use driver_fakes::FakeInterrupts;
use driver_fakes::FakeNet;
use driver_fakes::FakePlatform;
use driver_fakes::Layout;
use driver_fakes::NetHabits;
use driver_fakes::Registers;
use libfuzzer_sys::fuzz_target;
use net_driver::Checksum;
use net_driver::Command;
use net_driver::Frame;
use net_driver::NetDriver;
use net_driver::Offload;
use net_driver::Options;
use net_driver::Queues;
use net_driver::ReceivedBuffer;
use net_driver::Quiesced;
use net_driver::ResetProgress;
use net_driver::Started;
use net_driver::Transmit;
use net_driver::WANTED_FEATURES;
use paravane_fuzz::Decisions;
use virtio_spec::feature;
use virtio_spec::net::feature::CTRL_VQ;
use virtio_spec::net::feature::MQ;
use virtio_spec::net::feature::RSS;

/// Steps of one input.
const STEPS: usize = 64;
/// Receive, transmit, control.
const QUEUES: u16 = 3;
/// Bytes of DMA memory.
const ARENA: usize = 1 << 20;
/// Bytes of the configuration space.
const CONFIG: usize = 28;

struct World {
    platform: FakePlatform,
    started: Started<FakePlatform, FakeFunction>,
    device: FakeNet,
    /// Cookies of receive buffers and of frames that are out.
    posted: BTreeSet<u64>,
    sent: BTreeSet<u64>,
    next: u64,
    /// The rings hold lies: the device's own half of them is not to be believed any more.
    lied: bool,
}

impl World {
    fn new(decisions: &mut Decisions<'_>) -> Option<Self> {
        let masks = [
            decisions.byte(),
            decisions.byte(),
            decisions.byte(),
            decisions.byte(),
        ];
        // Each bit of the mask takes away some features; without control queue there are no several pairs.
        let spread = |at: usize| u64::from(masks[at]) * 0x0101_0101_0101_0101;
        let net = WANTED_FEATURES & !feature::RING_AND_TRANSPORT & !(spread(0) & spread(1));
        let ring = WANTED_FEATURES & feature::RING_AND_TRANSPORT & spread(2);
        let offered = net & !(MQ | RSS) | CTRL_VQ | ring | feature::VERSION_1;
        // A configuration that is mostly usable.
        let mut config = vec![
            2, 0, 0, 0, 0, 7, 1, 0, 1, 0, 0xdc, 5, 0, 0, 0, 0, 1, 40, 128, 0, 0xff, 1, 0, 0,
        ];
        config.resize(CONFIG, 0);
        if masks[3] & 1 != 0 {
            let at = usize::from(decisions.byte()) % CONFIG;
            config[at] = decisions.byte();
        }
        let registers = Registers::new(offered, config, QUEUES, 16);
        let function = FakeFunction::new(1, registers, Layout::default());
        let platform = FakePlatform::with_arena(u64::from(masks[3]), Arena::new(ARENA, 0x10_0000));
        let options = Options {
            receive_size: 16,
            transmit_size: 16,
            receive_segments: 20,
            transmit_segments: 16,
            features: WANTED_FEATURES,
            ..Options::default()
        };
        let started = NetDriver::start(&platform, function.clone(), &FakeInterrupts(2), options);
        let started = match started {
            Ok(started) => started,
            Err(failure) => {
                platform.release_all(failure.memory);
                assert_eq!(platform.arena().live(), 0);
                return None;
            }
        };
        let device = FakeNet::new(function, platform.arena().device_memory(), 1);
        Some(Self {
            platform,
            started,
            device,
            posted: BTreeSet::new(),
            sent: BTreeSet::new(),
            next: 0,
            lied: false,
        })
    }

    fn post(&mut self) {
        let len = self.started.driver.info().buffer_min.max(300);
        let queue = &mut self.started.receive[0];
        self.next += 1;
        let buffer = FakeBuffer::zeroed(len);
        if queue.post(&self.platform, buffer, self.next).is_ok() {
            self.posted.insert(self.next);
        }
        queue.kick();
    }

    fn send(&mut self, len: usize) {
        let queue = &mut self.started.transmit[0];
        self.next += 1;
        let request = Transmit {
            buffer: FakeBuffer::zeroed(len),
            headroom: len % 2 == 0,
            offload: Offload::default(),
            cookie: self.next,
        };
        if queue.submit(&self.platform, request).is_ok() {
            self.sent.insert(self.next);
        }
        queue.kick();
    }

    fn step(&mut self, decisions: &mut Decisions<'_>) {
        match decisions.byte() % 10 {
            0 | 1 => self.post(),
            2 => self.send(usize::from(decisions.byte()) * 2),
            3 => {
                let command = match decisions.byte() % 3 {
                    0 => Command::ReadCoalescing(0),
                    1 => Command::AddVlan(decisions.word()),
                    _ => Command::AnnounceAck,
                };
                if let Some(control) = &mut self.started.control {
                    let _ = control.submit(&command, 0);
                }
            }
            4 | 5 => self.deliver(decisions),
            6 => {
                if !self.lied {
                    self.device.habits.ack = Some(decisions.byte()).filter(|ack| *ack > 1);
                    self.device.habits.forgets_ack = decisions.byte() == 7;
                    self.device.serve();
                }
            }
            7 => self.lie(decisions),
            8 => self.poll(),
            _ => {
                let proof = self.reset();
                self.restart(proof);
            }
        }
    }

    fn deliver(&mut self, decisions: &mut Decisions<'_>) {
        let bits = decisions.byte();
        let mut claim = |bit: u8| (bits & bit != 0).then(|| decisions.word());
        let (count, first, rest) = (claim(1), claim(2), claim(4));
        let header = decisions.bytes(20).to_vec();
        let len = usize::from(decisions.word()) % 2000;
        if self.lied || header.len() < 20 {
            return;
        }
        let size = self.started.driver.info().header_size;
        self.device.habits = NetHabits {
            num_buffers: count,
            first_written: first.map(u32::from),
            rest_written: rest.map(u32::from),
            ..NetHabits::default()
        };
        self.device.deliver(0, &header[..size], &vec![0x5a; len]);
    }

    /// Writes into what the device may write of a ring.
    fn lie(&mut self, decisions: &mut Decisions<'_>) {
        let bits = decisions.byte();
        let Some(rings) = self.device.rings(u16::from(bits) % QUEUES) else {
            return;
        };
        let area = if bits & 0x80 == 0 {
            rings.device
        } else {
            rings.descriptors
        };
        let at = usize::from(decisions.word()) % area.len();
        let bytes = decisions.bytes(usize::from(bits >> 4 & 7) + 1);
        let end = bytes.len().min(area.len() - at);
        area.write(at, &bytes[..end]);
        self.lied = true;
    }

    fn poll(&mut self) {
        while let Ok(Some(received)) = self.started.receive[0].poll(&self.platform) {
            let parts: Vec<_> = received.buffers.collect();
            if let Ok(frame) = &received.frame {
                check(frame, &parts);
            }
            for part in parts {
                assert!(self.posted.remove(&part.cookie), "received twice");
            }
        }
        while let Ok(Some(back)) = self.started.transmit[0].poll(&self.platform) {
            assert!(self.sent.remove(&back.cookie), "sent twice");
        }
        if let Some(control) = &mut self.started.control {
            while let Ok(Some(_)) = control.poll() {}
            let _ = control.arm();
        }
        let _ = self.started.receive[0].arm() | self.started.transmit[0].arm();
    }

    fn reset(&mut self) -> Quiesced {
        let started = &mut self.started;
        started.driver.begin_reset(&self.platform);
        let ResetProgress::Done(proof) = started.driver.poll_reset(&self.platform) else {
            panic!("the reset is not done");
        };
        while let Some(received) = started.receive[0].take_outstanding(&self.platform, &proof).expect("the proof is of this reset") {
            for part in received.buffers {
                assert!(self.posted.remove(&part.cookie), "returned twice");
            }
        }
        while let Some(back) = started.transmit[0].take_outstanding(&self.platform, &proof).expect("the proof is of this reset") {
            assert!(self.sent.remove(&back.cookie), "returned twice");
        }
        if let Some(control) = &mut started.control {
            while control.take_outstanding(&proof).expect("the proof is of this reset").is_some() {}
        }
        assert!(self.posted.is_empty() && self.sent.is_empty(), "lost");
        assert_eq!(self.platform.mapped(), 0);
        assert_eq!(self.platform.arena().faults(), 0);
        proof
    }

    fn restart(&mut self, proof: Quiesced) {
        let queues = Queues {
            receive: &mut self.started.receive,
            transmit: &mut self.started.transmit,
            control: self.started.control.as_mut(),
        };
        let again = self.started.driver.restart(&self.platform, proof, queues);
        again.expect("the device is what it was");
        self.lied = false;
        self.device.habits = NetHabits::default();
    }
}

/// What a shell relies on.
fn check(frame: &Frame, parts: &[ReceivedBuffer<FakeBuffer>]) {
    let mut total = 0;
    for part in parts {
        let end = part.offset as usize + part.len as usize;
        assert!(end <= part.buffer.data.len(), "beyond the buffer");
        total += part.len;
    }
    assert_eq!(frame.len, total);
    assert!(total >= 14);
    if let Checksum::Partial(at) = frame.checksum {
        assert!(u32::from(at.start) + u32::from(at.offset) + 2 <= total);
    }
    assert!(frame.segmentation.is_none_or(|s| s.size > 0));
}

fuzz_target!(|data: &[u8]| {
    let mut decisions = Decisions(data);
    let Some(mut world) = World::new(&mut decisions) else {
        return;
    };
    for _ in 0..STEPS {
        if decisions.0.is_empty() {
            break;
        }
        world.step(&mut decisions);
    }
    world.poll();
    let proof = world.reset();
    world.restart(proof);
    world.post();
    if world.posted.is_empty() {
        // A buffer in more pieces than there is room for.
        world.reset();
        return;
    }
    let size = world.started.driver.info().header_size;
    if world.device.deliver(0, &vec![0; size], &[1; 60]) {
        world.poll();
        assert!(world.posted.is_empty(), "a good frame does not arrive");
    }
    world.reset();
});
