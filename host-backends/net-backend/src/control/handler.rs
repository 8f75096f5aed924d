//! The control queue's worker: request in, answer out.
//!
//! Rule: each chain comes back, with OK or ERR in its first writable byte if it has one.

use std::sync::Arc;

use device_model::Error;
use device_model::Progress;
use device_model::Queue;
use device_model::QueueHandler;
use guest_memory::GuestMemory;
use virtio_spec::net::control::ack;
use virtqueue::Chain;
use virtqueue::ChainBatch;
use virtqueue::Segment;
use virtqueue::Token;
use zerocopy::IntoBytes;

use crate::control::Command;
use crate::control::Control;
use crate::control::MAX_REQUEST;
use crate::control::Refusal;

/// Requests per batch; drivers send one at a time.
const BATCH: usize = 8;

/// The handler of the control queue.
pub(crate) struct ControlQueue {
    control: Arc<Control>,
    batch: ChainBatch,
    request: Vec<u8>,
}

impl ControlQueue {
    pub fn new(control: Arc<Control>) -> Self {
        control.take_over();
        Self {
            control,
            batch: ChainBatch::with_capacity(BATCH, BATCH * 4),
            request: Vec::new(),
        }
    }

    /// Carries a request out; the bytes of the answer.
    fn serve(&mut self, readable: &[Segment], memory: &GuestMemory) -> ([u8; 9], usize) {
        let done = self.read(readable, memory).and_then(|()| {
            let command = Command::parse(&self.request, &self.control.limits())?;
            tracing::debug!(?command, "control request");
            let lasts = command.lasts();
            let answer = self.control.execute(command)?;
            if lasts {
                // Before the driver hears that it is done.
                self.control.remember(&self.request);
            }
            Ok(answer)
        });
        let counters = &self.control.counters;
        counters.commands.add(1);
        let mut answer = [ack::OK; 9];
        match done {
            Ok(None) => (answer, 1),
            Ok(Some(result)) => {
                for (to, from) in answer.iter_mut().skip(1).zip(result.as_bytes()) {
                    *to = *from;
                }
                (answer, 9)
            }
            Err(refusal) => {
                tracing::debug!(?refusal, "control request refused");
                counters.refused.add(1);
                ([ack::ERR; 9], 1)
            }
        }
    }

    /// Copies the request out of guest memory, once.
    fn read(&mut self, readable: &[Segment], memory: &GuestMemory) -> Result<(), Refusal> {
        self.request.clear();
        for segment in readable {
            let len = usize::try_from(segment.len).map_err(|_| Refusal::Length)?;
            let from = self.request.len();
            let end = from.checked_add(len).filter(|end| *end <= MAX_REQUEST);
            self.request.resize(end.ok_or(Refusal::Length)?, 0);
            let place = self.request.get_mut(from..).ok_or(Refusal::Length)?;
            memory
                .read(segment.addr, place)
                .map_err(|_| Refusal::Address)?;
        }
        Ok(())
    }

    fn answer(&mut self, chain: Chain<'_>, memory: &GuestMemory) -> (Token, u32) {
        let room: u64 = chain.writable.iter().map(|s| u64::from(s.len)).sum();
        if room == 0 {
            self.control.counters.unanswered.add(1);
            return (chain.token, 0);
        }
        let (answer, len) = self.serve(chain.readable, memory);
        let mut rest = answer.get(..len).unwrap_or(&answer);
        let mut written = 0;
        for segment in chain.writable {
            let len = usize::try_from(segment.len).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(len.min(rest.len()));
            if now.is_empty() || memory.write(segment.addr, now).is_err() {
                break;
            }
            written += u32::try_from(now.len()).unwrap_or(0);
            rest = later;
        }
        (chain.token, written)
    }
}

impl QueueHandler for ControlQueue {
    fn run(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<Progress, Error> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        let taken = queue.take(&mut batch, BATCH);
        let mut completed = 0;
        let mut done = Ok(());
        for chain in batch.iter() {
            let (token, written) = self.answer(chain, memory);
            done = done.and(queue.complete(token, written));
            completed += 1;
        }
        self.batch = batch;
        queue.publish();
        done?;
        Ok(Progress {
            taken: u32::try_from(taken?).unwrap_or(u32::MAX),
            completed,
        })
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn drain(&mut self, queue: &mut Queue, _memory: &Arc<GuestMemory>) -> Result<(), Error> {
        queue.publish();
        Ok(())
    }
}
