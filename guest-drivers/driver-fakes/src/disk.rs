//! The data side of the fake disk: serves the queues from a vector, in an order and with faults given by seed.
//!
//! Rule: touches only memory that the platform lets the device reach, and only queues that are live.
use std::collections::HashMap;

use virtio_spec::block::DiscardWriteZeroes;
use virtio_spec::block::RequestHeader;
use virtio_spec::block::request_type;
use virtio_spec::block::status;
use virtqueue::Chain;
use virtqueue::ChainBatch;
use virtqueue::DeviceQueue;
use virtqueue::PeerMemory;
use virtqueue::QueueConfig;
use virtqueue::QueueState;
use virtqueue::Rings;
use virtqueue::Segment;
use virtqueue::Token;
use zerocopy::FromBytes;

use crate::arena::DeviceMemory;
use crate::function::FakeFunction;
use crate::random::Random;
use crate::registers::QueueRegisters;

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

struct Live {
    epoch: u64,
    queue: DeviceQueue,
    /// Carried out, not yet told to the driver.
    held: Vec<(Token, u32)>,
}

/// The disk behind a [`FakeFunction`].
pub struct FakeDisk {
    function: FakeFunction,
    memory: DeviceMemory,
    /// The content.
    pub data: Vec<u8>,
    /// How it serves.
    pub habits: Habits,
    /// Interrupts raised, by queue.
    pub interrupts: HashMap<u16, u64>,
    /// Requests carried out.
    pub served: u64,
    random: Random,
    live: HashMap<u16, Live>,
}

impl FakeDisk {
    /// A disk of `bytes` zero bytes.
    pub fn new(function: FakeFunction, memory: DeviceMemory, bytes: usize, seed: u64) -> Self {
        Self {
            function,
            memory,
            data: vec![0; bytes],
            habits: Habits::GOOD,
            interrupts: HashMap::new(),
            served: 0,
            random: Random::new(seed),
            live: HashMap::new(),
        }
    }

    /// Serves one queue once: takes what is there, carries it out, and completes what the habits allow. Returns how many it completed.
    ///
    /// # Panics
    /// When the driver broke the rules of the ring.
    pub fn serve(&mut self, index: u16) -> usize {
        let Some((registers, features)) = self.registers(index) else {
            self.live.remove(&index);
            return 0;
        };
        if self
            .live
            .get(&index)
            .is_none_or(|live| live.epoch != registers.epoch)
        {
            let live = self.open(&registers, features);
            self.live.insert(index, live);
        }
        let Some(mut live) = self.live.remove(&index) else {
            return 0;
        };
        let mut batch = ChainBatch::with_capacity(64, 512);
        while let Some(taken) =
            expect_ok(live.queue.take(&self.memory, &mut batch, 64)).filter(|&n| n > 0)
        {
            for position in batch.len() - taken..batch.len() {
                let Some(chain) = batch.get(position) else {
                    continue;
                };
                let written = self.carry_out(&chain);
                live.held.push((chain.token, written));
            }
        }
        let completed = self.complete(index, &mut live);
        self.live.insert(index, live);
        completed
    }

    /// The device half of a live queue's ring areas, for tests that write lies into them.
    pub fn rings(&self, index: u16) -> Option<Rings> {
        let (registers, features) = self.registers(index)?;
        self.find_rings(&registers, features)
            .map(|(rings, _)| rings)
    }

    fn registers(&self, index: u16) -> Option<(QueueRegisters, u64)> {
        let registers = self.function.registers();
        let queue = registers.queues.get(usize::from(index))?.clone();
        (registers.is_live() && queue.enabled).then_some((queue, registers.accepted))
    }

    fn find_rings(
        &self,
        registers: &QueueRegisters,
        features: u64,
    ) -> Option<(Rings, QueueConfig)> {
        let config = QueueConfig::from_features(registers.size, features).ok()?;
        let layout = config.layout();
        let rings = Rings {
            descriptors: self
                .memory
                .span(registers.descriptors, layout.descriptors.size)?,
            driver: self.memory.span(registers.driver, layout.driver.size)?,
            device: self.memory.span(registers.device, layout.device.size)?,
        };
        Some((rings, config))
    }

    fn open(&self, registers: &QueueRegisters, features: u64) -> Live {
        let found = self.find_rings(registers, features);
        assert!(found.is_some(), "the driver enabled a queue without rings");
        let queue = found.map(|(rings, config)| {
            DeviceQueue::new(config, rings, QueueState::fresh(config.format))
        });
        let queue = queue.and_then(expect_ok);
        match queue {
            Some(queue) => Live {
                epoch: registers.epoch,
                queue,
                held: Vec::new(),
            },
            None => unreachable!("checked above"),
        }
    }

    fn complete(&mut self, index: u16, live: &mut Live) -> usize {
        let mut completed = 0;
        let mut kept = Vec::new();
        while !live.held.is_empty() {
            let position = if self.habits.reorders {
                self.random.index(live.held.len())
            } else {
                0
            };
            let (token, written) = live.held.remove(position);
            if self.habits.delays_one_in > 0 && self.random.one_in(self.habits.delays_one_in) {
                kept.push((token, written));
                continue;
            }
            expect_ok(live.queue.complete(token, written));
            completed += 1;
        }
        live.held = kept;
        let wanted = completed > 0 && live.queue.publish();
        let drops = self.habits.drops_interrupt_one_in;
        if wanted && !(drops > 0 && self.random.one_in(drops)) {
            *self.interrupts.entry(index).or_default() += 1;
        }
        // The fake disk always looks again, so it needs no notifications, but it asks for them as a real one would.
        let _ = live.queue.arm();
        completed
    }

    fn carry_out(&mut self, chain: &Chain<'_>) -> u32 {
        self.served += 1;
        let mut header = [0; 16];
        let readable = self.gather(chain.readable);
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
        self.scatter(chain.writable, &answer);
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

    fn gather(&self, segments: &[Segment]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for segment in segments {
            let span = self.memory.span(segment.addr, segment.len as usize);
            assert!(
                span.is_some(),
                "the driver sent memory that is not mapped: {segment:?}"
            );
            let at = bytes.len();
            bytes.resize(at + segment.len as usize, 0);
            if let Some(span) = span {
                span.read(0, &mut bytes[at..]);
            }
        }
        bytes
    }

    fn scatter(&self, segments: &[Segment], mut bytes: &[u8]) {
        for segment in segments {
            let len = bytes.len().min(segment.len as usize);
            let span = self.memory.span(segment.addr, segment.len as usize);
            assert!(
                span.is_some(),
                "the driver sent memory that is not mapped: {segment:?}"
            );
            let (now, later) = bytes.split_at(len);
            if let Some(span) = span {
                span.write(0, now);
            }
            bytes = later;
        }
    }
}

/// The fake disk serves a driver under test: a ring error is the driver's mistake.
fn expect_ok<T, E: std::fmt::Debug>(result: Result<T, E>) -> Option<T> {
    if let Err(error) = &result {
        assert!(
            std::thread::panicking(),
            "the driver broke the ring: {error:?}"
        );
    }
    result.ok()
}
