//! The data side of the fake network device: keeps what is sent, delivers what it is told to, answers commands, and lies as told.
//!
//! Rule: checks what the driver sends against sec. 5.1.6.2; everything else follows from the habits and one seed.
use std::collections::HashMap;
use std::collections::VecDeque;

use virtio_spec::net;
use virtio_spec::net::Header;
use virtio_spec::net::control;
use virtio_spec::net::control::ack;
use virtio_spec::net::control::class;
use virtio_spec::net::feature;
use virtio_spec::net::gso;
use virtio_spec::net::header_flags;
use virtqueue::Rings;
use virtqueue::Token;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;

use crate::arena::DeviceMemory;
use crate::function::FakeFunction;
use crate::queues::FakeQueues;
use crate::queues::OwnedChain;
use crate::random::Random;

/// How the device serves.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetHabits {
    /// Returns sent frames in any order rather than in order of arrival.
    pub reorders: bool,
    /// Keeps a sent frame for later one time in this many; 0: never.
    pub delays_one_in: u64,
    /// Says so many buffers hold a frame.
    pub num_buffers: Option<u16>,
    /// Claims to have written so much into the first buffer of a frame.
    pub first_written: Option<u32>,
    /// Claims to have written so much into every further buffer of a frame.
    pub rest_written: Option<u32>,
    /// Claims to have written so much into frames that it has only read.
    pub sent_written: u32,
    /// Answers commands so instead of rightly.
    pub ack: Option<u8>,
    /// Does not answer commands.
    pub forgets_ack: bool,
}

/// A frame that the driver sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentFrame {
    /// The number of the pair.
    pub pair: u16,
    /// Its header.
    pub header: Header,
    /// The frame.
    pub frame: Vec<u8>,
}

/// A command that the driver gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenCommand {
    /// Class and command.
    pub what: (u8, u8),
    /// What followed.
    pub payload: Vec<u8>,
}

/// The device behind a [`FakeFunction`].
pub struct FakeNet {
    function: FakeFunction,
    queues: FakeQueues,
    /// How it serves.
    pub habits: NetHabits,
    /// Frames sent by the driver, oldest first.
    pub sent: VecDeque<SentFrame>,
    /// Commands given, oldest first.
    pub commands: VecDeque<GivenCommand>,
    /// What a question for coalescing is answered with.
    pub coalescing: (u32, u32),
    random: Random,
    posted: HashMap<u16, VecDeque<OwnedChain>>,
    held: HashMap<u16, Vec<Token>>,
}

impl FakeNet {
    /// A device.
    pub fn new(function: FakeFunction, memory: DeviceMemory, seed: u64) -> Self {
        Self {
            function: function.clone(),
            queues: FakeQueues::new(function, memory),
            habits: NetHabits::default(),
            sent: VecDeque::new(),
            commands: VecDeque::new(),
            coalescing: (0, 0),
            random: Random::new(seed),
            posted: HashMap::new(),
            held: HashMap::new(),
        }
    }

    /// The ring areas of a live queue, for tests that write lies into them.
    pub fn rings(&self, index: u16) -> Option<Rings> {
        self.queues.rings(index)
    }

    /// Changes the status and tells the driver.
    pub fn set_status(&self, status: u16) {
        let at = std::mem::offset_of!(net::Config, status);
        self.function
            .registers()
            .change_config(at, &status.to_le_bytes());
    }

    /// Serves all queues once: takes buffers, keeps sent frames and returns their buffers, answers commands. Returns how many chains it
    /// completed.
    ///
    /// # Panics
    /// When the driver broke the rules of the rings or of the network device.
    pub fn serve(&mut self) -> usize {
        let (count, features) = {
            let registers = self.function.registers();
            (registers.queues.len() as u16, registers.accepted)
        };
        let control = (features & feature::CTRL_VQ != 0).then(|| count - 1);
        (0..count)
            .map(|index| match index {
                _ if Some(index) == control => self.serve_control(index),
                _ if index % 2 == 0 => self.serve_receive(index),
                _ => self.serve_transmit(index, features),
            })
            .sum()
    }

    /// Receive buffers that the device has.
    pub fn buffers(&self, pair: u16) -> usize {
        self.posted
            .get(&net::receive_queue(pair))
            .map_or(0, VecDeque::len)
    }

    fn serve_receive(&mut self, index: u16) -> usize {
        let Some(taken) = self.queues.take(index) else {
            self.posted.remove(&index);
            return 0;
        };
        let posted = self.posted.entry(index).or_default();
        if taken.fresh {
            posted.clear();
        }
        for chain in taken.chains {
            assert!(
                chain.readable.is_empty(),
                "a receive buffer has a part to read"
            );
            posted.push_back(chain);
        }
        self.queues.arm(index);
        0
    }

    /// Delivers a frame to the driver in as many buffers as it needs, the header's `num_buffers` set as the habits say. `false` when there
    /// are not enough buffers; then it is dropped.
    pub fn deliver(&mut self, pair: u16, header: &[u8], frame: &[u8]) -> bool {
        let index = net::receive_queue(pair);
        let _ = self.serve_receive(index);
        let mergeable = self.function.registers().accepted & feature::MRG_RXBUF != 0;
        let mut bytes = [header, frame].concat();
        let posted = self.posted.entry(index).or_default();
        let (mut room, mut count) = (0, 0);
        for chain in posted.iter().take(if mergeable { usize::MAX } else { 1 }) {
            room += chain_room(chain);
            count += 1;
            if room >= bytes.len() {
                break;
            }
        }
        if room < bytes.len() {
            return false;
        }
        let chains: Vec<OwnedChain> = posted.drain(..count).collect();
        let said = self.habits.num_buffers.unwrap_or(count as u16);
        let at = std::mem::offset_of!(Header, num_buffers);
        if let Some(place) = bytes.get_mut(at..at + 2) {
            place.copy_from_slice(&said.to_le_bytes());
        }
        let mut left = bytes.as_slice();
        for (position, chain) in chains.iter().enumerate() {
            let (now, later) = left.split_at(left.len().min(chain_room(chain)));
            self.queues.scatter(&chain.writable, now);
            let claim = match position {
                0 => self.habits.first_written,
                _ => self.habits.rest_written,
            };
            let written = claim.unwrap_or(now.len() as u32);
            self.queues.complete(index, chain.token, written);
            left = later;
        }
        let _ = self.queues.publish(index);
        self.queues.arm(index);
        true
    }

    fn serve_transmit(&mut self, index: u16, features: u64) -> usize {
        let Some(taken) = self.queues.take(index) else {
            self.held.remove(&index);
            return 0;
        };
        let mut held = self.held.remove(&index).unwrap_or_default();
        if taken.fresh {
            held.clear();
        }
        for chain in taken.chains {
            assert!(
                chain.writable.is_empty(),
                "a sent frame has a part to write"
            );
            let bytes = self.queues.gather(&chain.readable);
            let sent = check_sent(index / 2, &bytes, features);
            self.sent.push_back(sent);
            held.push(chain.token);
        }
        let mut kept = Vec::new();
        let mut completed = 0;
        while !held.is_empty() {
            let position = match self.habits.reorders {
                true => self.random.index(held.len()),
                false => 0,
            };
            let token = held.remove(position);
            if self.habits.delays_one_in > 0 && self.random.one_in(self.habits.delays_one_in) {
                kept.push(token);
                continue;
            }
            self.queues.complete(index, token, self.habits.sent_written);
            completed += 1;
        }
        self.held.insert(index, kept);
        if completed > 0 {
            let _ = self.queues.publish(index);
        }
        self.queues.arm(index);
        completed
    }

    fn serve_control(&mut self, index: u16) -> usize {
        let Some(taken) = self.queues.take(index) else {
            return 0;
        };
        let completed = taken.chains.len();
        for chain in taken.chains {
            let bytes = self.queues.gather(&chain.readable);
            assert!(bytes.len() >= 2, "a command without its head");
            let what = (bytes[0], bytes[1]);
            let room = chain_room(&chain);
            let mut answer = vec![self.habits.ack.unwrap_or(ack::OK)];
            answer.extend(self.result(what));
            assert_eq!(room, answer.len(), "room for the answer to {what:?}");
            self.commands.push_back(GivenCommand {
                what,
                payload: bytes[2..].to_vec(),
            });
            if self.habits.forgets_ack {
                answer.clear();
            }
            self.queues.scatter(&chain.writable, &answer);
            self.queues
                .complete(index, chain.token, answer.len() as u32);
        }
        if completed > 0 {
            let _ = self.queues.publish(index);
        }
        self.queues.arm(index);
        completed
    }

    /// What follows the acknowledgement.
    fn result(&self, what: (u8, u8)) -> Vec<u8> {
        if what != (class::NOTF_COAL, control::coalescing::VQ_GET) {
            return Vec::new();
        }
        let values = control::Coalescing {
            max_packets: self.coalescing.0.into(),
            max_usecs: self.coalescing.1.into(),
        };
        values.as_bytes().to_vec()
    }
}

fn chain_room(chain: &OwnedChain) -> usize {
    let segments = chain.writable.iter();
    segments.map(|segment| segment.len as usize).sum()
}

/// What sec. 5.1.6.2.1 asks of the driver.
fn check_sent(pair: u16, bytes: &[u8], features: u64) -> SentFrame {
    let size = net::header_size(features);
    assert!(
        bytes.len() >= size + net::ETHERNET_HEADER_SIZE,
        "a frame without its headers"
    );
    let header = Header::read_from_prefix(bytes)
        .map(|(header, _)| header)
        .unwrap_or_default();
    let frame = bytes[size..].to_vec();
    assert_eq!(header.num_buffers.get(), 0, "num_buffers of a sent frame");
    assert_eq!(
        header.flags & !header_flags::NEEDS_CSUM,
        0,
        "flags of a sent frame"
    );
    let completes = header.flags != 0;
    assert!(!completes || features & feature::CSUM != 0);
    if completes {
        let at = usize::from(header.csum_start.get()) + usize::from(header.csum_offset.get());
        assert!(at + 2 <= frame.len(), "a checksum outside of the frame");
    }
    let need = match header.gso_type & !gso::ECN {
        gso::NONE => 0,
        gso::TCPV4 => feature::HOST_TSO4,
        gso::TCPV6 => feature::HOST_TSO6,
        gso::UDP_L4 => feature::HOST_USO,
        other => unreachable!("gso_type {other}"),
    };
    assert_eq!(features & need, need, "an offload that was not negotiated");
    if need != 0 {
        assert!(completes && header.gso_size.get() > 0);
        assert!(usize::from(header.hdr_len.get()) <= frame.len());
    }
    SentFrame {
        pair,
        header,
        frame,
    }
}
