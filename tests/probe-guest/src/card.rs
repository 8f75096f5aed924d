//! A network card that a job has opened: frames in, frames out.
//!
//! Rule: buffers are made once and go round; closed by a reset before the job's memory is used for anything else. What goes wrong inside
//! the stack's callbacks is kept and told by the next [`Card::flush`].
use alloc::vec::Vec;

use driver_platform::Interrupts;
use net_driver::Command;
use net_driver::DEFAULT_FEATURES;
use net_driver::FRAME_MAX;
use net_driver::NetDriver;
use net_driver::Offload;
use net_driver::Options;
use net_driver::ReceiveQueue;
use net_driver::Received;
use net_driver::Started;
use net_driver::Transmit;
use net_driver::TransmitQueue;
use virtio_spec::device_id;
use virtio_spec::feature;
use virtio_spec::net::feature as net;

use crate::command::Task;
use crate::cpu;
use crate::device;
use crate::device::Switch;
use crate::device::number;
use crate::json::Line;
use crate::machine::Failure;
use crate::machine::Machine;
use crate::pci::Bar;
use crate::pci::Function;
use crate::platform::Buffer;
use crate::platform::Platform;

/// Buffers for frames of the usual size.
const SMALL: u32 = 2048;
/// Receive buffers where a frame may lie in several.
const MERGEABLE: u32 = 4096;
/// Buffers for large frames.
const LARGE_COUNT: usize = 48;
/// An answer on the control queue must come within this time, in milliseconds.
const ANSWER_MS: u64 = 10_000;
/// What was sent last has this long to be taken, in milliseconds.
const DRAIN_MS: u64 = 1000;
/// Pause between two looks at the configuration, in milliseconds.
const LOOK_MS: u64 = 5;

/// A started card.
pub(crate) struct Card<'a> {
    machine: &'a Machine,
    driver: NetDriver<Function>,
    receive: Vec<ReceiveQueue<Platform, Bar>>,
    transmit: Vec<TransmitQueue<Platform, Bar>>,
    /// Buffers to send, not in use: small and large ones.
    small: Vec<Buffer>,
    large: Vec<Buffer>,
    /// Receive buffers between a frame's arrival and their next posting.
    returned: Vec<(Buffer, u64)>,
    header: usize,
    /// Most ring entries that a frame takes.
    entries: u16,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: usize,
    /// The device completes checksums of what we send.
    pub(crate) checksums_out: bool,
    /// Checksums of what comes need no look.
    pub(crate) checksums_in: bool,
    /// The device cuts large frames.
    pub(crate) segments_out: bool,
    came: u64,
    went: u64,
    discarded: u64,
    failure: Option<Failure>,
}

/// What a task switches besides what every device has.
const SWITCHES: [Switch; 6] = [
    ("csum", net::CSUM, true),
    ("tso", net::HOST_TSO4 | net::HOST_TSO6, true),
    ("guest_csum", net::GUEST_CSUM, true),
    ("guest_tso", net::GUEST_TSO4 | net::GUEST_TSO6, true),
    ("mrg", net::MRG_RXBUF, true),
    ("mq", net::MQ | net::RSS, true),
];

impl<'a> Card<'a> {
    /// Opens the card that the task names.
    pub(crate) fn open(machine: &'a Machine, task: &Task<'_>) -> Result<Self, Failure> {
        let index = number(task, "card", 0)?;
        let size = number(task, "queue_size", 256)?.clamp(4, 32768) as u16;
        let piece = number(task, "piece", 1 << 16)?.clamp(512, 1 << 16) as u32;
        let options = Options {
            pairs: number(task, "pairs", 1)?.clamp(1, 64) as u16,
            receive_size: size,
            transmit_size: size,
            receive_segments: (FRAME_MAX as u32).div_ceil(piece) as u16 + 1,
            transmit_segments: (FRAME_MAX as u32).div_ceil(piece) as u16 + 1,
            features: device::features(task, DEFAULT_FEATURES, &SWITCHES),
        };
        let (function, messages) = device::open(machine, device_id::NET, index)?;
        if messages.messages() == 0 {
            return Err(Failure::new("The card has no messages", index));
        }
        let started = NetDriver::start(&machine.platform, function, &messages, options)
            .map_err(|failure| device::failed(failure.error, index))?;
        let mut card = Self::with(machine, started);
        if card.driver.features() & feature::RING_INDIRECT_DESC == 0 {
            card.entries = options.transmit_segments;
        }
        card.fill(piece)?;
        Ok(card)
    }

    fn with(machine: &'a Machine, started: Started<Platform, Function>) -> Self {
        let info = started.driver.info();
        let has = |bits: u64| started.driver.features() & bits != 0;
        let (csum, guest_csum, tso) = (has(net::CSUM), has(net::GUEST_CSUM), has(net::HOST_TSO4));
        let mut card = Self {
            machine,
            receive: started.receive,
            transmit: started.transmit,
            small: Vec::new(),
            large: Vec::new(),
            returned: Vec::with_capacity(32),
            header: info.header_size,
            entries: 1,
            mac: info.mac.unwrap_or([2, 0, 0, 0x50, 0x56, 1]),
            mtu: usize::from(info.mtu.unwrap_or(1500)),
            checksums_out: csum,
            checksums_in: guest_csum,
            segments_out: csum && tso,
            driver: started.driver,
            came: 0,
            went: 0,
            discarded: 0,
            failure: None,
        };
        if let Some(mut control) = started.control
            && card.receive.len() > 1
        {
            card.failure = card.use_all_pairs(&mut control).err();
        }
        card
    }

    fn use_all_pairs(&self, control: &mut net_driver::ControlQueue<Bar>) -> Result<(), Failure> {
        let pairs = self.receive.len() as u16;
        control
            .submit(&Command::Pairs(pairs), 0)
            .map_err(|_| Failure::new("The queue pairs cannot be asked for", pairs.into()))?;
        let start = cpu::tsc();
        loop {
            let answer = control
                .poll()
                .map_err(|_| Failure::new("The control queue is broken", 0))?;
            if let Some(answer) = answer {
                return answer
                    .result
                    .map(drop)
                    .map_err(|_| Failure::new("The device refused the queue pairs", pairs.into()));
            }
            if cpu::tsc() - start > self.machine.platform.ticks(ANSWER_MS) {
                return Err(Failure::new("The control queue does not answer", 0));
            }
        }
    }

    /// Makes the buffers and posts those that receive.
    fn fill(&mut self, piece: u32) -> Result<(), Failure> {
        let platform = &self.machine.platform;
        let make = |len: u32| {
            let buffer = platform.buffer(len, piece);
            buffer.ok_or(Failure::new("No memory for network buffers", len.into()))
        };
        let info = self.driver.info();
        let len = match info.mergeable {
            true => MERGEABLE,
            false => (info.buffer_min as u32).max(SMALL),
        };
        for queue in &mut self.receive {
            for cookie in 0..u64::from(queue.size()) {
                // Without indirect tables a buffer of several pieces takes several entries.
                if queue.post(platform, make(len)?, cookie).is_err() {
                    break;
                }
            }
            queue.disarm();
            queue.kick();
        }
        let slots = self.transmit.iter().map(|queue| queue.size()).sum::<u16>();
        let small = SMALL.max((self.mtu + 64) as u32);
        for _ in 0..slots {
            self.small.push(make(small)?);
        }
        if self.segments_out {
            for _ in 0..LARGE_COUNT {
                self.large.push(make((FRAME_MAX + self.header) as u32)?);
            }
        }
        for queue in &mut self.transmit {
            queue.disarm();
        }
        Ok(())
    }

    /// Whether a frame of any size can be sent now.
    #[inline]
    pub(crate) fn room(&mut self) -> bool {
        let lacks = |card: &Self| {
            let ring = card.transmit.iter().map(TransmitQueue::free_descriptors);
            card.small.is_empty()
                || card.segments_out && card.large.is_empty()
                || ring.max().unwrap_or(0) < card.entries
        };
        if lacks(self) {
            self.reclaim();
        }
        !lacks(self)
    }

    /// Takes back what the device has sent.
    fn reclaim(&mut self) {
        for queue in &mut self.transmit {
            loop {
                match queue.poll(&self.machine.platform) {
                    Ok(Some(sent)) if sent.cookie == 0 => self.small.push(sent.buffer),
                    Ok(Some(sent)) => self.large.push(sent.buffer),
                    Ok(None) => break,
                    Err(_) => {
                        self.failure = Some(Failure::new("A transmit queue is broken", 0));
                        break;
                    }
                }
            }
        }
    }

    /// Sends a frame; the device learns of it with the next [`Card::flush`]. There was [`Card::room`].
    #[inline]
    pub(crate) fn send(&mut self, frame: &[u8], offload: &Offload) {
        let len = self.header + frame.len();
        let fits = self
            .small
            .last()
            .is_some_and(|buffer| buffer.capacity() >= len);
        let buffer = match fits {
            true => self.small.pop(),
            false => self.large.pop(),
        };
        let Some(buffer) = buffer else {
            self.failure = Some(Failure::new(
                "A frame is larger than any buffer",
                len as u64,
            ));
            return;
        };
        let buffer = buffer.with_len(len as u32);
        buffer.write(self.header, frame);
        let request = Transmit {
            buffer,
            headroom: true,
            offload: *offload,
            cookie: u64::from(!fits),
        };
        // Flows are not steered: the first queue takes what it can.
        let mut waiting = Some(request);
        for queue in &mut self.transmit {
            if let Some(request) = waiting.take()
                && let Err(back) = queue.submit(&self.machine.platform, request)
            {
                if back.reason != net_driver::Refusal::Busy {
                    self.failure = Some(Failure::new("A good frame was refused", len as u64));
                }
                waiting = Some(back.request);
            }
        }
        match waiting {
            // As on any network: what does not fit is lost.
            Some(request) if request.cookie == 0 => self.small.push(request.buffer),
            Some(request) => self.large.push(request.buffer),
            None => self.went += 1,
        }
    }

    /// The next frame's length, once it is in `into`.
    #[inline]
    pub(crate) fn receive(&mut self, into: &mut [u8]) -> Option<usize> {
        for index in 0..self.receive.len() {
            match self.receive_from(index, into) {
                Ok(Some(len)) => {
                    self.came += 1;
                    return Some(len);
                }
                Ok(None) => {}
                Err(failure) => self.failure = Some(failure),
            }
        }
        None
    }

    fn receive_from(&mut self, index: usize, into: &mut [u8]) -> Result<Option<usize>, Failure> {
        let platform = &self.machine.platform;
        let broken = Failure::new("A receive queue is broken", index as u64);
        let Some(queue) = self.receive.get_mut(index) else {
            return Ok(None);
        };
        loop {
            let Received { frame, buffers } = match queue.poll(platform) {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(None),
                Err(_) => return Err(broken),
            };
            let good = frame.is_ok();
            let mut len = 0;
            for part in buffers {
                let part_len = part.len as usize;
                if let Some(space) = into.get_mut(len..len + part_len) {
                    part.buffer.read(part.offset as usize, space);
                }
                len += part_len;
                self.returned.push((part.buffer, part.cookie));
            }
            for (buffer, cookie) in self.returned.drain(..) {
                if queue.post(platform, buffer, cookie).is_err() {
                    return Err(broken);
                }
            }
            if good && len <= into.len() {
                return Ok(Some(len));
            }
            self.discarded += 1;
            // Its buffers are posted again, which the device has to learn.
            self.came += 1;
        }
    }

    /// Shows the device what was sent and posted. Whether frames came and went since the last time.
    ///
    /// # Errors
    /// What went wrong since then.
    #[inline]
    pub(crate) fn flush(&mut self) -> Result<(bool, bool), Failure> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let (came, went) = (self.came > 0, self.went > 0);
        if went {
            self.transmit.iter_mut().for_each(TransmitQueue::kick);
        }
        if came {
            self.receive.iter_mut().for_each(ReceiveQueue::kick);
        }
        (self.came, self.went) = (0, 0);
        Ok((came, went))
    }

    /// Sleeps until a frame comes or the alarm goes off.
    pub(crate) fn sleep(&mut self) {
        let seen = cpu::interrupts();
        let mut ready = false;
        for queue in &mut self.receive {
            ready |= queue.arm();
        }
        if !ready {
            cpu::sleep(seen);
        }
        for queue in &mut self.receive {
            queue.disarm();
        }
    }

    /// Whether the link is another one than at the last look.
    pub(crate) fn link_changed(&mut self) -> Result<bool, Failure> {
        let until = cpu::tsc() + self.machine.platform.ticks(LOOK_MS);
        while cpu::tsc() < until {
            core::hint::spin_loop();
        }
        let before = self.driver.info().link.up;
        let change = self
            .driver
            .config_changed(&self.machine.platform)
            .map_err(|error| device::failed(error, 0))?;
        if change.needs_reset {
            return Err(Failure::new("The card needs a reset", 0));
        }
        Ok(self.driver.info().link.up != before)
    }

    /// Says what the card is.
    pub(crate) fn describe(&self, kind: &str) {
        let info = self.driver.info();
        let mut line = Line::new(kind);
        line.display("mac", &smoltcp::wire::EthernetAddress(self.mac));
        line.truth("link_up", info.link.up)
            .number("mtu", self.mtu as u64)
            .number("pairs_max", info.pairs_max.into())
            .number("pairs", self.receive.len() as u64)
            .truth("mergeable", info.mergeable)
            .hex("features", self.driver.features())
            .print();
    }

    /// Adds what the queues have done to a report.
    pub(crate) fn report(&self, line: &mut Line) {
        let (mut sent, mut doorbells, mut received, mut bad) = (0, 0, 0, 0);
        for queue in &self.transmit {
            let counters = queue.counters();
            sent += counters.frames;
            doorbells += counters.doorbells;
        }
        for queue in &self.receive {
            let counters = queue.counters();
            received += counters.frames;
            bad += counters.too_short + counters.too_long;
            bad += counters.bad_buffers + counters.bad_header;
            doorbells += counters.doorbells;
        }
        line.hex("features", self.driver.features());
        line.number("frames_out", sent)
            .number("frames_in", received)
            .number("frames_bad", bad + self.discarded)
            .number("doorbells", doorbells);
    }

    /// Waits until what was sent is on its way, and resets the device.
    pub(crate) fn close(mut self) -> Result<(), Failure> {
        let platform = &self.machine.platform;
        let until = cpu::tsc() + platform.ticks(DRAIN_MS);
        while self.transmit.iter().any(|queue| queue.in_flight() > 0) && cpu::tsc() < until {
            self.reclaim();
        }
        self.driver.begin_stop(platform);
        device::stopped(|| self.driver.poll_reset(platform))?;
        Ok(())
    }
}
