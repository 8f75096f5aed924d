//! The device halves of a fake function's queues, opened when the driver enables them and forgotten at a reset.
//!
//! Rule: touches only memory that the platform lets the device reach, and only queues that are live; a ring error is the driver's
//! mistake and fails the test.
use std::collections::HashMap;

use virtqueue::ChainBatch;
use virtqueue::DeviceQueue;
use virtqueue::PeerMemory;
use virtqueue::QueueConfig;
use virtqueue::QueueState;
use virtqueue::Rings;
use virtqueue::Segment;
use virtqueue::Token;

use crate::arena::DeviceMemory;
use crate::function::FakeFunction;
use crate::registers::QueueRegisters;

/// A chain that the driver made available.
#[derive(Clone, Debug)]
pub(crate) struct OwnedChain {
    pub(crate) token: Token,
    pub(crate) readable: Vec<Segment>,
    pub(crate) writable: Vec<Segment>,
}

struct Live {
    epoch: u64,
    queue: DeviceQueue,
}

/// All queues of a function.
pub(crate) struct FakeQueues {
    function: FakeFunction,
    memory: DeviceMemory,
    live: HashMap<u16, Live>,
}

/// What a look at a queue brought.
pub(crate) struct Taken {
    /// The queue was enabled anew since the last look: whatever was taken before is void.
    pub(crate) fresh: bool,
    /// Chains, in the order in which they were made available.
    pub(crate) chains: Vec<OwnedChain>,
}

impl FakeQueues {
    pub(crate) fn new(function: FakeFunction, memory: DeviceMemory) -> Self {
        Self {
            function,
            memory,
            live: HashMap::new(),
        }
    }

    /// Takes all chains of a queue; `None` when it is not live.
    pub(crate) fn take(&mut self, index: u16) -> Option<Taken> {
        let Some((registers, features)) = self.registers(index) else {
            self.live.remove(&index);
            return None;
        };
        let epoch = registers.epoch;
        let fresh = self.live.get(&index).is_none_or(|live| live.epoch != epoch);
        if fresh {
            let queue = self.open(&registers, features)?;
            self.live.insert(index, Live { epoch, queue });
        }
        let live = self.live.get_mut(&index)?;
        let mut batch = ChainBatch::with_capacity(64, 512);
        while expect_ok(live.queue.take(&self.memory, &mut batch, 64)).is_some_and(|n| n > 0) {}
        let chains = batch.iter().map(|chain| OwnedChain {
            token: chain.token,
            readable: chain.readable.to_vec(),
            writable: chain.writable.to_vec(),
        });
        Some(Taken {
            fresh,
            chains: chains.collect(),
        })
    }

    /// Completes a chain; the driver sees it after [`FakeQueues::publish`].
    pub(crate) fn complete(&mut self, index: u16, token: Token, written: u32) {
        if let Some(live) = self.live.get_mut(&index) {
            expect_ok(live.queue.complete(token, written));
        }
    }

    /// Shows the driver what was completed; `true` when it wants an interrupt.
    pub(crate) fn publish(&mut self, index: u16) -> bool {
        let live = self.live.get_mut(&index);
        live.is_some_and(|live| live.queue.publish())
    }

    /// The fake devices always look again, so they need no notifications, but they ask for them as real ones would.
    pub(crate) fn arm(&mut self, index: u16) {
        if let Some(live) = self.live.get_mut(&index) {
            let _ = live.queue.arm();
        }
    }

    /// The ring areas of a live queue, for tests that write lies into them.
    pub(crate) fn rings(&self, index: u16) -> Option<Rings> {
        let (registers, features) = self.registers(index)?;
        self.find_rings(&registers, features)
            .map(|(rings, _)| rings)
    }

    /// The bytes of segments of DMA memory.
    pub(crate) fn gather(&self, segments: &[Segment]) -> Vec<u8> {
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

    /// Writes bytes to segments of DMA memory.
    pub(crate) fn scatter(&self, segments: &[Segment], mut bytes: &[u8]) {
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

    fn open(&self, registers: &QueueRegisters, features: u64) -> Option<DeviceQueue> {
        let found = self.find_rings(registers, features);
        assert!(found.is_some(), "the driver enabled a queue without rings");
        let (rings, config) = found?;
        let state = QueueState::fresh(config.format);
        expect_ok(DeviceQueue::new(config, rings, state))
    }
}

/// The fake devices serve a driver under test: a ring error is the driver's mistake.
fn expect_ok<T, E: std::fmt::Debug>(result: Result<T, E>) -> Option<T> {
    if let Err(error) = &result {
        assert!(
            std::thread::panicking(),
            "the driver broke the ring: {error:?}"
        );
    }
    result.ok()
}
