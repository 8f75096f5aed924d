//! The workers' side of a queue pair.
//!
//! Rule: one call of `run` does a bounded amount of work for either direction, and none waits.

use std::sync::Arc;

use device_model::Error;
use device_model::Progress;
use device_model::Queue;
use device_model::QueueHandler;
use guest_memory::GuestMemory;

use crate::path::header::Rules;
use crate::path::streak::SendStreak;
use crate::path::tally::PairTally;
use crate::path::transmit::Burst;
use crate::port::Core;
use crate::port::PortState;
use crate::published::Follower;
use crate::switch::Sender;

/// Bursts per call of `run`, so that a busy ring cannot keep its worker from its other duties.
const BURSTS_PER_RUN: usize = 16;

/// A transmit queue whose frames go into a switch.
pub(crate) struct SwitchPair {
    core: Arc<Core>,
    tally: Arc<PairTally>,
    state: Follower<PortState>,
    rules: Rules,
    burst: Burst,
    sender: Sender,
    streak: SendStreak,
}

impl SwitchPair {
    pub fn new(core: &Arc<Core>, tally: &Arc<PairTally>, sender: Sender) -> Self {
        let state = core.state.follow();
        Self {
            core: Arc::clone(core),
            tally: Arc::clone(tally),
            rules: Rules::new(&state),
            state,
            burst: Burst::new(),
            sender,
            streak: SendStreak::new(&tally.transmit),
        }
    }

    /// Takes a burst and delivers it; returns how many chains it had.
    #[inline]
    fn send(&mut self, queue: &mut Queue, memory: &GuestMemory) -> Result<usize, Error> {
        let tally = &self.tally.transmit;
        let before = tally.frames.get();
        let size = self.state.header_size();
        let taken = self.burst.take(queue, memory, &self.rules, size, tally)?;
        if taken == 0 {
            return Ok(0);
        }
        let conditions = &*self.core.conditions;
        let policy = &self.core.policy;
        policy.screen(&mut self.burst, memory, tally, conditions);
        if self.state.link_up {
            self.sender.forward(&mut self.burst, memory, tally);
        } else {
            tally.link_down.add(self.burst.frames.len() as u64);
        }
        self.streak.settle(before, tally, &self.state, conditions);
        self.burst.complete(queue)?;
        queue.publish();
        Ok(taken)
    }
}

impl QueueHandler for SwitchPair {
    fn run(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<Progress, Error> {
        if self.state.refresh(&self.core.state) {
            self.rules = Rules::new(&self.state);
        }
        let mut total = 0;
        for _ in 0..BURSTS_PER_RUN {
            match self.send(queue, memory)? {
                0 => break,
                taken => total += taken,
            }
        }
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        Ok(Progress {
            taken: total,
            completed: total,
        })
    }

    fn before_sleep(&mut self) {
        self.core.policy.flush();
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn drain(&mut self, _queue: &mut Queue, _memory: &Arc<GuestMemory>) -> Result<(), Error> {
        Ok(())
    }
}
