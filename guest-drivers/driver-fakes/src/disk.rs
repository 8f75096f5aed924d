//! The data side of the fake disk: serves the queues from a vector, in an order and with faults given by seed.
//!
//! Rule: touches only memory that the platform lets the device reach, and only queues that are live.
use std::collections::HashMap;

use virtio_spec::block::DiscardWriteZeroes;
use virtio_spec::block::RequestHeader;
use virtio_spec::block::request_type;
use virtio_spec::block::status;
use virtqueue::Rings;
use virtqueue::Token;
use zerocopy::FromBytes;

use crate::arena::DeviceMemory;
use crate::function::FakeFunction;
use crate::queues::FakeQueues;
use crate::queues::OwnedChain;
use crate::random::Random;

/// How the disk serves.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Completes in any order rather than in order of arrival.
    pub reorders: bool,
    /// Keeps a request for later one time in this many; 0: never.
    pub delays_one_in: u64,
    /// Swallows an interrupt one time in this many; 0: never.
    pub drops_interrupt_one_in: u64,
    /// Fails a request one time in this many; 0: never.
    pub fails_one_in: u64,
    /// Writes this status instead of the right one.
    pub status: Option<u8>,
    /// Does not write a status.
    pub forgets_status: bool,
}

impl Habits {
    /// A good disk.
    pub const GOOD: Self = Self {
        reorders: false,
        delays_one_in: 0,
        drops_interrupt_one_in: 0,
        fails_one_in: 0,
        status: None,
        forgets_status: false,
    };
}

/// The disk behind a [`FakeFunction`].
pub struct FakeDisk {
    queues: FakeQueues,
    /// The content.
    pub data: Vec<u8>,
    /// How it serves.
    pub habits: Habits,
    /// Interrupts raised, by queue.
    pub interrupts: HashMap<u16, u64>,
    /// Requests carried out.
    pub served: u64,
    random: Random,
    /// Carried out, not yet told to the driver.
    held: HashMap<u16, Vec<(Token, u32)>>,
}

impl FakeDisk {
    /// A disk of `bytes` zero bytes.
    pub fn new(function: FakeFunction, memory: DeviceMemory, bytes: usize, seed: u64) -> Self {
        Self {
            queues: FakeQueues::new(function, memory),
            data: vec![0; bytes],
            habits: Habits::GOOD,
            interrupts: HashMap::new(),
            served: 0,
            random: Random::new(seed),
            held: HashMap::new(),
        }
    }

    /// Serves one queue once: takes what is there, carries it out, and completes what the habits allow. Returns how many it completed.
    ///
    /// # Panics
    /// When the driver broke the rules of the ring.
    pub fn serve(&mut self, index: u16) -> usize {
        let Some(taken) = self.queues.take(index) else {
            self.held.remove(&index);
            return 0;
        };
        let mut held = self.held.remove(&index).unwrap_or_default();
        if taken.fresh {
            held.clear();
        }
        for chain in taken.chains {
            let written = self.carry_out(&chain);
            held.push((chain.token, written));
        }
        let (completed, kept) = self.complete(index, held);
        self.held.insert(index, kept);
        completed
    }

    /// The device half of a live queue's ring areas, for tests that write lies into them.
    pub fn rings(&self, index: u16) -> Option<Rings> {
        self.queues.rings(index)
    }

    /// Completes what the habits allow; returns how many, and what it kept.
    fn complete(&mut self, index: u16, mut held: Vec<(Token, u32)>) -> (usize, Vec<(Token, u32)>) {
        let mut completed = 0;
        let mut kept = Vec::new();
        while !held.is_empty() {
            let position = if self.habits.reorders {
                self.random.index(held.len())
            } else {
                0
            };
            let (token, written) = held.remove(position);
            if self.habits.delays_one_in > 0 && self.random.one_in(self.habits.delays_one_in) {
                kept.push((token, written));
                continue;
            }
            self.queues.complete(index, token, written);
            completed += 1;
        }
        let wanted = completed > 0 && self.queues.publish(index);
        let drops = self.habits.drops_interrupt_one_in;
        if wanted && !(drops > 0 && self.random.one_in(drops)) {
            *self.interrupts.entry(index).or_default() += 1;
        }
        self.queues.arm(index);
        (completed, kept)
    }

    fn carry_out(&mut self, chain: &OwnedChain) -> u32 {
        self.served += 1;
        let mut header = [0; 16];
        let readable = self.queues.gather(&chain.readable);
        header.copy_from_slice(&readable[..16]);
        let Ok((header, _)) = RequestHeader::read_from_prefix(&header) else {
            return 0;
        };
        let room: usize = chain
            .writable
            .iter()
            .map(|segment| segment.len as usize)
            .sum();
        assert!(room > 0, "a request has no room for its status");
        let (mut answer, mut outcome) = self.answer(&header, &readable[16..], room - 1);
        if self.habits.fails_one_in > 0 && self.random.one_in(self.habits.fails_one_in) {
            outcome = status::IOERR;
        }
        answer.resize(room - 1, 0x77);
        let keep = self.habits.forgets_status;
        if !keep {
            answer.push(self.habits.status.unwrap_or(outcome));
        }
        self.queues.scatter(&chain.writable, &answer);
        u32::try_from(answer.len()).unwrap_or(u32::MAX)
    }

    /// The data that goes back, and the status.
    fn answer(&mut self, header: &RequestHeader, payload: &[u8], room: usize) -> (Vec<u8>, u8) {
        let start = header.sector.get().saturating_mul(512) as usize;
        match header.request_type.get() {
            request_type::IN => match self.data.get(start..start.saturating_add(room)) {
                Some(data) => (data.to_vec(), status::OK),
                None => (Vec::new(), status::IOERR),
            },
            request_type::OUT => match self
                .data
                .get_mut(start..start.saturating_add(payload.len()))
            {
                Some(data) => {
                    data.copy_from_slice(payload);
                    (Vec::new(), status::OK)
                }
                None => (Vec::new(), status::IOERR),
            },
            request_type::FLUSH => (Vec::new(), status::OK),
            request_type::GET_ID => (b"fake-disk".to_vec(), status::OK),
            request_type::DISCARD | request_type::WRITE_ZEROES => (Vec::new(), self.zero(payload)),
            _ => (Vec::new(), status::UNSUPP),
        }
    }

    fn zero(&mut self, payload: &[u8]) -> u8 {
        for range in payload.chunks_exact(16) {
            let Ok((range, _)) = DiscardWriteZeroes::read_from_prefix(range) else {
                return status::IOERR;
            };
            let start = range.sector.get() as usize * 512;
            let end = start + range.num_sectors.get() as usize * 512;
            match self.data.get_mut(start..end) {
                Some(data) => data.fill(0),
                None => return status::IOERR,
            }
        }
        status::OK
    }
}
