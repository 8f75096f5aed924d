//! Free page hints (virtio 1.4 sec. 5.5.6.4): runs of free blocks, each between a start and a stop message.
//!
//! Rule: each run has one start with the device's command and one stop; blocks go out only between them and only while the command is
//! the device's current one; they go back to the guest only when none of them is on its way.
use driver_platform::Mmio;
use virtio_core::Error;
use virtio_core::Stopped;
use virtio_spec::balloon::HINT_COMMAND_SIZE;
use virtio_spec::balloon::hint_command;
use virtqueue::Segment;

use crate::counters::Counters;
use crate::message;
use crate::message::Batch;
use crate::message::Queue;
use crate::pages::Pages;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No run.
    Idle,
    /// The start message was sent: blocks may follow.
    Feeding(u32),
    /// The guest has no more blocks, or the device wants no more: a stop message has to be sent.
    Ending,
}

/// The free page queue.
#[derive(Debug)]
pub(crate) struct Hints<B> {
    pub(crate) queue: Queue<B>,
    phase: Phase,
    /// What the device's configuration says.
    command: u32,
    /// The run that was started last; it is not started again.
    last: u32,
    /// Blocks are out of the allocator.
    held: bool,
}

impl<B: Mmio> Hints<B> {
    pub(crate) fn new(queue: Queue<B>) -> Self {
        Self {
            queue,
            phase: Phase::Idle,
            command: hint_command::STOP,
            last: hint_command::STOP,
            held: false,
        }
    }

    /// The device's configuration says this.
    pub(crate) fn command(&mut self, command: u32) {
        self.command = command;
    }

    /// Takes blocks back and goes on with the run; sends at most as much as the ring has room for.
    pub(crate) fn work(
        &mut self,
        pages: &mut impl Pages,
        counters: &mut Counters,
    ) -> Result<(), Error> {
        while let Some(returned) = self.queue.pop()? {
            self.queue.release(returned.slot);
        }
        if matches!(self.phase, Phase::Feeding(run) if run != self.command) {
            self.phase = Phase::Ending;
        }
        self.begin(counters)?;
        self.feed(pages, counters)?;
        if self.phase == Phase::Ending && self.say(hint_command::STOP)? {
            self.phase = Phase::Idle;
            self.begin(counters)?;
        }
        self.queue.publish();
        let over = self.command == hint_command::DONE && self.phase == Phase::Idle;
        if self.held && over && self.queue.in_flight() == 0 {
            self.held = false;
            pages.release_hints();
        }
        Ok(())
    }

    /// Starts the run that the device asks for, if it is a new one.
    fn begin(&mut self, counters: &mut Counters) -> Result<(), Error> {
        let wanted = self.command >= hint_command::FIRST && self.command != self.last;
        if self.phase == Phase::Idle && wanted && self.say(self.command)? {
            self.last = self.command;
            self.phase = Phase::Feeding(self.command);
            counters.hint_runs += 1;
        }
        Ok(())
    }

    fn feed(&mut self, pages: &mut impl Pages, counters: &mut Counters) -> Result<(), Error> {
        while matches!(self.phase, Phase::Feeding(_)) {
            // The last place on the ring is kept for the stop message.
            if self.queue.free_descriptors() < 2 {
                return Ok(());
            }
            let Ok(slot) = self.queue.claim() else {
                return Ok(());
            };
            let Some(block) = pages.hint().filter(|block| block.len > 0) else {
                self.queue.release(slot);
                self.phase = Phase::Ending;
                return Ok(());
            };
            self.held = true;
            counters.hint_blocks += 1;
            let chain = self.queue.chain();
            chain.clear();
            chain.push(Segment {
                addr: block.addr,
                len: block.len,
            });
            message::lend(&mut self.queue, slot, Batch::default())?;
        }
        Ok(())
    }

    /// Sends a message; `false` when there is no room for one now.
    fn say(&mut self, command: u32) -> Result<bool, Error> {
        let Ok(slot) = self.queue.claim() else {
            return Ok(false);
        };
        let memory = self.queue.memory();
        let words: [u8; HINT_COMMAND_SIZE] = command.to_le_bytes();
        let message = memory.write(&slot, 0, &words);
        message::send(&mut self.queue, slot, message, Batch::default())?;
        Ok(true)
    }

    /// Nothing is left to send or to wait for.
    pub(crate) fn idle(&self) -> bool {
        self.queue.in_flight() == 0 && self.phase == Phase::Idle
    }

    /// After a reset: forgets the run and gives all blocks back.
    pub(crate) fn drain(&mut self, proof: &Stopped, pages: &mut impl Pages) -> Result<(), Error> {
        while self.queue.abandon(proof)?.is_some() {}
        self.phase = Phase::Idle;
        self.command = hint_command::STOP;
        self.last = hint_command::STOP;
        if core::mem::take(&mut self.held) {
            pages.release_hints();
        }
        Ok(())
    }
}
