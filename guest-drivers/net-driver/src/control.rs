//! The control queue: commands out, answers back.
//!
//! Rule: a command is copied when it is submitted; nothing of the caller's is kept. An answer that the device did not write, or that means
//! nothing, is an error.
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU16;
use core::sync::atomic::Ordering;

use driver_platform::Coherent;
use driver_platform::Mmio;
use virtio_spec::net::control;
use virtio_spec::net::control::ack;
use virtqueue::RingMemory;
use zerocopy::FromBytes;

use crate::command::COMMAND_MAX;
use crate::command::Coalescing;
use crate::command::Command;
use crate::command::Encoded;
use crate::command::Limits;
use crate::command::encode;
use crate::core_queue::CoreQueue;
use crate::counters::ControlCounters;
use crate::error::CommandError;
use crate::error::Error;
use crate::error::Refusal;
use crate::recovery::Quiesced;

/// Bytes of one slot: the command from 0 on, the acknowledgement at 2032, the result right behind it.
pub(crate) const SLOT: usize = 2048;
/// How many commands can be under way.
pub(crate) const SLOTS: u16 = 8;
const ACK: usize = 2032;
const RESULT_SIZE: usize = size_of::<control::Coalescing>();
/// What the acknowledgement holds until the device writes it; no answer has this value.
const NO_ACK: u8 = 0xff;
const _: () = assert!(COMMAND_MAX <= ACK && ACK + 1 + RESULT_SIZE <= SLOT);

/// A command that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the command was submitted with.
    pub cookie: u64,
    /// How it went; what was read, if the command reads.
    pub result: Result<Option<Coalescing>, CommandError>,
}

/// What is out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    cookie: u64,
    reads: bool,
    /// Transmit queues in use once it is done.
    transmit_queues: Option<u16>,
}

/// The control queue.
pub struct ControlQueue<B> {
    pub(crate) core: CoreQueue<Asked, B>,
    pub(crate) limits: Limits,
    pub(crate) active: Arc<AtomicU16>,
    pub(crate) counters: ControlCounters,
}

impl<B: Mmio> ControlQueue<B> {
    /// The queue's number on the device.
    pub fn index(&self) -> u16 {
        self.core.index
    }

    /// Sends a command; up to eight can be under way. `cookie` comes back with the answer.
    ///
    /// # Errors
    /// Why the command cannot be sent.
    pub fn submit(&mut self, command: &Command<'_>, cookie: u64) -> Result<(), Refusal> {
        if self.core.ring.in_flight() >= SLOTS.min(self.core.size()) {
            return Err(Refusal::Busy);
        }
        let slot = self.core.slot()?;
        let encoded = encode(&self.limits, command)?;
        let bytes = self.write(slot, &encoded).ok_or(Refusal::TooLarge)?;
        self.core.fits(bytes)?;
        let asked = Asked {
            cookie,
            reads: encoded.reads,
            transmit_queues: encoded.transmit_queues,
        };
        self.core.add(slot, 1, asked).map_err(|_| Refusal::Broken)?;
        if let Some(count) = encoded.transmit_queues {
            self.active.fetch_min(count, Ordering::Relaxed);
        }
        self.counters.commands += 1;
        self.core.publish();
        Ok(())
    }

    /// Fills a slot and makes the chain of it; returns the chain's bytes.
    fn write(&mut self, slot: u16, encoded: &Encoded) -> Option<u64> {
        let command = self.core.memory.write(slot, 0, encoded.bytes())?;
        let blank = [NO_ACK; 1 + RESULT_SIZE];
        let room = if encoded.reads { blank.len() } else { 1 };
        let answer = self.core.memory.write(slot, ACK, blank.get(..room)?)?;
        let chain = &mut self.core.chain;
        chain.clear();
        chain.push(command.addr, command.len);
        chain.push(answer.addr, answer.len);
        Some(u64::from(command.len) + u64::from(answer.len))
    }

    /// Returns the next answer, if there is one.
    ///
    /// # Errors
    /// The device broke the rules of the ring: nothing more comes from this queue until it or the device was reset.
    pub fn poll(&mut self) -> Result<Option<Answer>, Error> {
        // What the device says it wrote is not needed: the acknowledgement says whether it did.
        let Some((slot, asked, _)) = self.core.next()? else {
            return Ok(None);
        };
        let result = self.read(slot, asked);
        match result {
            Ok(_) => {
                if let Some(count) = asked.transmit_queues {
                    self.active.store(count, Ordering::Relaxed);
                }
            }
            Err(CommandError::Refused) => self.counters.refused += 1,
            Err(_) => self.counters.bad_answers += 1,
        }
        Ok(Some(Answer {
            cookie: asked.cookie,
            result,
        }))
    }

    fn read(&self, slot: u16, asked: Asked) -> Result<Option<Coalescing>, CommandError> {
        let mut answer = [NO_ACK; 1 + RESULT_SIZE];
        self.core.memory.read(slot, ACK, &mut answer);
        match answer[0] {
            ack::OK => {}
            ack::ERR => return Err(CommandError::Refused),
            other => return Err(CommandError::BadAnswer(other)),
        }
        if !asked.reads {
            return Ok(None);
        }
        let (_, values) = control::Coalescing::read_from_suffix(&answer)
            .map_err(|_| CommandError::BadAnswer(NO_ACK))?;
        Ok(Some(Coalescing {
            max_packets: values.max_packets.get(),
            max_usecs: values.max_usecs.get(),
        }))
    }

    /// Returns what is outstanding, one command per call, `None` when the queue is empty. A proof for another queue returns nothing.
    pub fn take_outstanding(&mut self, proof: &Quiesced) -> Option<Answer> {
        if !proof.covers(self.core.index) {
            return None;
        }
        if let Ok(Some(answer)) = self.poll() {
            return Some(answer);
        }
        let asked = self.core.abandon_one()?;
        Some(Answer {
            cookie: asked.cookie,
            result: Err(CommandError::Reset),
        })
    }

    /// Asks for an interrupt at the next answer. `true`: one has already arrived, poll again before sleeping.
    #[must_use = "an answer may already wait"]
    pub fn arm(&mut self) -> bool {
        self.core.arm()
    }

    /// Asks the device for no interrupts, while the shell polls.
    pub fn disarm(&mut self) {
        self.core.ring.disarm();
    }

    /// Commands that are under way.
    pub fn in_flight(&self) -> u16 {
        self.core.ring.in_flight()
    }

    /// What the queue has done.
    pub fn counters(&self) -> ControlCounters {
        self.counters
    }

    /// Whether the queue has to be reset, and why.
    pub fn broken(&self) -> Option<Error> {
        self.core.broken()
    }

    /// Takes the queue apart and returns its DMA memory, for the shell to release once the device was reset. `None` while commands are
    /// outstanding.
    pub fn into_memory(self) -> Option<Vec<Coherent<RingMemory>>> {
        self.core.into_memory()
    }
}
