//! Two real network drivers on the real network backend, joined by its switch.
//!
//! Rule: one seed decides everything.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod frames;

use std::sync::Arc;

use driver_fakes::FakeBar;
use driver_fakes::FakeBuffer;
use driver_fakes::FakeFunction;
use driver_fakes::FakeInterrupts;
use driver_fakes::FakePlatform;
use frames::Arrived;
use frames::Mac;
use loopback::Backend;
use loopback::shared_arena;
use net_backend::Fabric;
use net_backend::NetDevice;
use net_backend::NetSpec;
use net_driver::Answer;
use net_driver::Command;
use net_driver::ConfigChange;
use net_driver::ControlQueue;
use net_driver::Hash;
use net_driver::NetDriver;
use net_driver::Offload;
use net_driver::Options;
use net_driver::Queues;
use net_driver::ReceiveQueue;
use net_driver::Refusal;
use net_driver::ResetProgress;
use net_driver::Transmit;
use net_driver::TransmitQueue;

pub const PAIRS: u16 = 2;

/// One guest and its network card.
pub struct Side {
    pub device: Arc<NetDevice>,
    pub backend: Backend,
    pub platform: FakePlatform,
    pub driver: NetDriver<FakeFunction>,
    pub receive: Vec<ReceiveQueue<FakePlatform, FakeBar>>,
    pub transmit: Vec<TransmitQueue<FakePlatform, FakeBar>>,
    pub control: Option<ControlQueue<FakeBar>>,
    pub arrived: Arrived,
    /// Of the frame that arrived last.
    pub last_hash: Option<Hash>,
    /// Bytes of a receive buffer.
    pub buffer: usize,
    /// What was sent and not known to have left: base and length.
    pub lost: Vec<(u32, usize)>,
    next: u64,
}

impl Side {
    /// A card on the switch of `fabric` and a driver that wants `features`.
    pub fn new(name: &str, seed: u64, fabric: &Fabric, spec: NetSpec, features: u64) -> Self {
        let (memory, arena) = shared_arena(64 << 20).unwrap();
        let platform = FakePlatform::with_arena(seed, arena);
        let device = NetDevice::open(name, spec, fabric).unwrap();
        let (backend, function) = Backend::new(device.clone(), memory).unwrap();
        let options = Options {
            pairs: PAIRS,
            receive_size: 256,
            transmit_size: 128,
            receive_segments: 250,
            transmit_segments: 120,
            features,
        };
        let started = NetDriver::start(&platform, function, &FakeInterrupts(0), options);
        let started = started.unwrap_or_else(|failure| panic!("{}", failure.error));
        let buffer = started.driver.info().buffer_min.max(2048);
        let mut side = Self {
            device,
            backend,
            platform,
            driver: started.driver,
            receive: started.receive,
            transmit: started.transmit,
            control: started.control,
            arrived: Arrived::default(),
            last_hash: None,
            buffer,
            lost: Vec::new(),
            next: 0,
        };
        side.open();
        side
    }

    /// What a driver does once it runs: posts buffers, uses all pairs.
    pub fn open(&mut self) {
        self.serve();
        if self.driver.pairs() > 1 && self.driver.features() & virtio_spec::net::feature::MQ != 0 {
            let answer = self.command(&Command::Pairs(self.driver.pairs()));
            assert_eq!(answer.result, Ok(None));
        }
        self.post();
        self.serve();
    }

    pub fn mac(&self) -> Mac {
        self.driver.info().mac.unwrap_or(self.device.mac().0)
    }

    /// Lets all queues of the device work once.
    pub fn serve(&mut self) {
        let pairs = self.driver.info().pairs_max;
        for index in 0..=2 * pairs {
            self.backend.serve(index).unwrap();
        }
    }

    pub fn command(&mut self, command: &Command<'_>) -> Answer {
        let control = self.control.as_mut().expect("no control queue");
        control.submit(command, 1).unwrap();
        self.serve();
        let control = self.control.as_mut().expect("no control queue");
        control.poll().unwrap().expect("no answer")
    }

    /// Fills the receive queues.
    pub fn post(&mut self) {
        for queue in &mut self.receive {
            for _ in 0..64 {
                let buffer = FakeBuffer::zeroed(self.buffer);
                self.next += 1;
                if let Err(rejected) = queue.post(&self.platform, buffer, self.next) {
                    assert_eq!(rejected.reason, Refusal::Busy);
                    break;
                }
                if queue.in_flight() >= 64 {
                    break;
                }
            }
            queue.kick();
        }
    }

    /// Sends a frame; `false` when there is no room.
    pub fn send(&mut self, pair: usize, plan: &frames::Plan, headroom: bool) -> bool {
        let (frame, offload) = frames::build(plan);
        self.send_bytes(pair, frame, offload, headroom, plan.base, plan.len)
    }

    fn send_bytes(
        &mut self,
        pair: usize,
        frame: Vec<u8>,
        offload: Offload,
        headroom: bool,
        base: u32,
        len: usize,
    ) -> bool {
        let room = if headroom {
            self.driver.info().header_size
        } else {
            0
        };
        let buffer = FakeBuffer::new([vec![0; room], frame].concat());
        let cookie = u64::from(base) << 32 | len as u64;
        let request = Transmit {
            buffer,
            headroom,
            offload,
            cookie,
        };
        match self.transmit[pair].submit(&self.platform, request) {
            Ok(()) => true,
            Err(rejected) => {
                let reason = rejected.reason;
                assert!(
                    matches!(reason, Refusal::Busy | Refusal::TooLarge),
                    "{reason}"
                );
                false
            }
        }
    }

    pub fn kick(&mut self) {
        for queue in &mut self.transmit {
            queue.kick();
        }
    }

    /// Takes sent frames back and checks what has arrived; posts anew.
    pub fn collect(&mut self) {
        self.collect_for(self.mac());
    }

    /// The same for frames to another address.
    pub fn collect_for(&mut self, to: Mac) {
        for queue in &mut self.transmit {
            while let Some(sent) = queue.poll(&self.platform).unwrap() {
                assert!(sent.taken);
            }
        }
        for queue in &mut self.receive {
            while let Some(received) = queue.poll(&self.platform).unwrap() {
                let frame = received.frame.expect("a frame was discarded");
                let parts = received.buffers;
                self.last_hash = frame.hash;
                self.arrived.take(&frame, gather(parts), to);
            }
        }
        self.post();
    }

    /// Reads the configuration after a message that it changed.
    pub fn look(&mut self) -> ConfigChange {
        self.backend.show_config();
        self.driver.config_changed(&self.platform).unwrap()
    }

    /// Resets the device, takes everything back and starts again.
    pub fn reset(&mut self) {
        self.backend.drain().unwrap();
        self.driver.begin_reset(&self.platform);
        let ResetProgress::Done(proof) = self.driver.poll_reset(&self.platform) else {
            panic!("pending")
        };
        self.backend.reset().unwrap();
        let mac = self.mac();
        for queue in &mut self.receive {
            while let Some(received) = queue.take_outstanding(&self.platform, &proof).unwrap() {
                if let Ok(frame) = received.frame {
                    self.arrived.take(&frame, gather(received.buffers), mac);
                }
            }
        }
        for queue in &mut self.transmit {
            while let Some(sent) = queue.take_outstanding(&self.platform, &proof).unwrap() {
                if !sent.taken {
                    self.lost
                        .push(((sent.cookie >> 32) as u32, sent.cookie as u32 as usize));
                }
            }
        }
        if let Some(control) = &mut self.control {
            while control.take_outstanding(&proof).unwrap().is_some() {}
        }
        assert_eq!(self.platform.mapped(), 0);
        let queues = Queues {
            receive: &mut self.receive,
            transmit: &mut self.transmit,
            control: self.control.as_mut(),
        };
        self.driver.restart(&self.platform, proof, queues).unwrap();
        self.open();
    }

    /// Takes the driver apart; nothing may be left behind.
    pub fn finish(mut self) {
        self.backend.drain().unwrap();
        self.driver.begin_stop(&self.platform);
        let ResetProgress::Done(proof) = self.driver.poll_reset(&self.platform) else {
            panic!("pending")
        };
        self.backend.reset().unwrap();
        for mut queue in self.receive.drain(..) {
            while queue
                .take_outstanding(&self.platform, &proof)
                .unwrap()
                .is_some()
            {}
            self.platform
                .release_all(queue.into_memory(&proof).expect("buffers are out"));
        }
        for mut queue in self.transmit.drain(..) {
            while queue
                .take_outstanding(&self.platform, &proof)
                .unwrap()
                .is_some()
            {}
            self.platform
                .release_all(queue.into_memory(&proof).expect("frames are out"));
        }
        if let Some(queue) = self.control.take() {
            self.platform
                .release_all(queue.into_memory(&proof).expect("commands are out"));
        }
        assert_eq!(self.platform.mapped(), 0);
        assert_eq!(self.platform.arena().live(), 0);
        assert_eq!(self.platform.arena().faults(), 0);
    }
}

/// The bytes of a frame in its buffers.
fn gather(parts: impl Iterator<Item = net_driver::ReceivedBuffer<FakeBuffer>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        let start = part.offset as usize;
        bytes.extend(&part.buffer.data[start..start + part.len as usize]);
    }
    bytes
}
