//! The control queue: commands out, answers back.
//!
//! Rule: a command is copied when it is submitted; nothing of the caller's is kept. An answer that the device did not write, or that means
//! nothing, is an error.
use alloc::vec::Vec;
use core::sync::atomic::AtomicU16;
use core::sync::atomic::Ordering;

use driver_platform::Coherent;
use driver_platform::Mmio;
use fallible_alloc::Shared;
use virtio_core::Error;
use virtio_core::Placement;
use virtio_core::QueueSet;
use virtio_core::Slot;
use virtio_core::SlotQueue;
use virtio_core::Stopped;
use virtio_spec::net::control;
use virtio_spec::net::control::ack;
use zerocopy::FromBytes;

use crate::command::COMMAND_MAX;
use crate::command::Coalescing;
use crate::command::Command;
use crate::command::Encoded;
use crate::command::Limits;
use crate::command::encode;
use crate::counters::ControlCounters;
use crate::error::CommandError;
use crate::error::Refusal;

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
    pub(crate) core: SlotQueue<Asked, B>,
    pub(crate) limits: Limits,
    pub(crate) active: Shared<AtomicU16>,
    pub(crate) counters: ControlCounters,
}

impl<B: Mmio> QueueSet for ControlQueue<B> {
    fn spill(self, into: &mut impl FnMut(Coherent)) {
        self.core.spill(into);
    }
}

impl<B: Mmio> ControlQueue<B> {
    /// The queue's number on the device.
    pub fn index(&self) -> u16 {
        self.core.index()
    }

    /// The MSI-X message that the queue raises, for [`driver_platform::Interrupts::set_target`].
    pub fn message(&self) -> Option<u16> {
        self.core.message()
    }

    /// Sends a command; up to eight can be under way. `cookie` comes back with the answer.
    ///
    /// # Errors
    /// Why the command cannot be sent.
    pub fn submit(&mut self, command: &Command<'_>, cookie: u64) -> Result<(), Refusal> {
        let encoded = encode(&self.limits, command)?;
        let slot = self.core.claim()?;
        let bytes = self.write(&slot, &encoded);
        if let Err(refusal) = self.core.fits(bytes) {
            self.core.release(slot);
            return Err(refusal.into());
        }
        let asked = Asked {
            cookie,
            reads: encoded.reads,
            transmit_queues: encoded.transmit_queues,
        };
        let added = self.core.add(slot, 1, Placement::RingWhileRoomy, asked);
        added.map_err(|_| Refusal::Broken)?;
        if let Some(count) = encoded.transmit_queues {
            self.active.fetch_min(count, Ordering::Relaxed);
        }
        self.counters.commands += 1;
        self.core.publish();
        Ok(())
    }

    /// Fills a slot and makes the chain of it; returns the chain's bytes.
    fn write(&mut self, slot: &Slot, encoded: &Encoded) -> u64 {
        let memory = self.core.memory();
        let command = memory.write(slot, 0, encoded.bytes());
        let blank = [NO_ACK; 1 + RESULT_SIZE];
        let answer = match encoded.reads {
            true => memory.write(slot, ACK, &blank),
            false => memory.write(slot, ACK, &[NO_ACK]),
        };
        let chain = self.core.chain();
        chain.clear();
        chain.push(command);
        chain.push(answer);
        chain.bytes()
    }

    /// Returns the next answer, if there is one.
    ///
    /// # Errors
    /// The device broke the rules of the ring: nothing more comes from this queue until it or the device was reset.
    pub fn poll(&mut self) -> Result<Option<Answer>, Error> {
        // What the device says it wrote is not needed: the acknowledgement says whether it did.
        let Some(returned) = self.core.pop()? else {
            return Ok(None);
        };
        let asked = returned.item;
        let result = self.read(&returned.slot, asked);
        self.core.release(returned.slot);
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

    fn read(&self, slot: &Slot, asked: Asked) -> Result<Option<Coalescing>, CommandError> {
        let mut answer = [NO_ACK; 1 + RESULT_SIZE];
        self.core.memory().read(slot, ACK, &mut answer);
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

    /// Returns what is outstanding, one command per call, `None` when the queue is empty.
    ///
    /// # Errors
    /// [`Error::NotQuiesced`] when the proof is of another device or of the time before the latest restart.
    pub fn take_outstanding(&mut self, proof: &Stopped) -> Result<Option<Answer>, Error> {
        self.core.check(proof)?;
        if let Ok(Some(answer)) = self.poll() {
            return Ok(Some(answer));
        }
        let asked = self.core.abandon(proof)?;
        Ok(asked.map(|asked| Answer {
            cookie: asked.cookie,
            result: Err(CommandError::Reset),
        }))
    }

    /// Asks for an interrupt at the next answer. `true`: one has already arrived, poll again before sleeping.
    #[must_use = "an answer may already wait"]
    pub fn arm(&mut self) -> bool {
        self.core.arm()
    }

    /// Asks the device for no interrupts, while the shell polls.
    pub fn disarm(&mut self) {
        self.core.disarm();
    }

    /// Commands that are under way.
    pub fn in_flight(&self) -> u16 {
        self.core.in_flight()
    }

    /// What the queue has done.
    pub fn counters(&self) -> ControlCounters {
        self.counters
    }

    /// Whether the queue has to be reset, and why.
    pub fn broken(&self) -> Option<Error> {
        self.core.broken()
    }

    /// Takes the queue apart and returns its DMA memory, which the device no longer uses. `None` while commands are outstanding or when
    /// the proof is not of this queue: then the memory stays allocated for good.
    pub fn into_memory(self, proof: &Stopped) -> Option<Vec<Coherent>> {
        self.core.into_memory(proof)
    }
}
