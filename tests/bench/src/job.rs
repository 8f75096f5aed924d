//! What a benchmark does, independent of who serves it.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

/// Access pattern of a job; names as in fio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Reads at random offsets.
    Randread,
    /// Writes at random offsets.
    Randwrite,
    /// Seven reads to three writes at random offsets.
    Randrw,
    /// Reads from front to back.
    Read,
    /// Writes from front to back.
    Write,
    /// A random write, then a flush; the pair counts as one operation.
    Fsync,
}

/// How a client learns of completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Spins on the used ring.
    Poll,
    /// Sleeps on the call eventfd.
    Sleep,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Job {
    /// Access pattern.
    pub pattern: Pattern,
    /// Bytes per request.
    pub block_bytes: usize,
    /// Requests in flight per queue.
    pub depth: usize,
    /// Queues.
    pub queues: usize,
    /// Time to measure.
    #[serde(skip)]
    pub duration: Duration,
    /// Client's way to wait.
    pub wait: Wait,
    /// Packed virtqueues.
    pub packed: bool,
}

/// One step of a job at one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read a block at this byte offset.
    Read(u64),
    /// Write a block at this byte offset.
    Write(u64),
    /// Flush what was written.
    Flush,
}

/// Decides the next step of each slot, from a fixed seed.
pub struct Plan {
    pattern: Pattern,
    block: u64,
    blocks: u64,
    next: u64,
    random: u64,
}

impl Plan {
    /// A plan over an image of `image_bytes`.
    pub fn new(job: &Job, image_bytes: u64) -> Self {
        let block = job.block_bytes as u64;
        Self {
            pattern: job.pattern,
            block,
            blocks: (image_bytes / block).max(1),
            next: 0,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// The step after `last` at one slot.
    pub fn step(&mut self, last: Option<Step>) -> Step {
        let pattern = self.pattern;
        match pattern {
            Pattern::Randread => Step::Read(self.random_offset()),
            Pattern::Randwrite => Step::Write(self.random_offset()),
            Pattern::Randrw if self.random_bits() % 10 < 7 => Step::Read(self.random_offset()),
            Pattern::Randrw => Step::Write(self.random_offset()),
            Pattern::Read => Step::Read(self.next_offset()),
            Pattern::Write => Step::Write(self.next_offset()),
            Pattern::Fsync if matches!(last, Some(Step::Write(_))) => Step::Flush,
            Pattern::Fsync => Step::Write(self.random_offset()),
        }
    }

    /// Whether the end of `step` ends an operation (and its latency).
    pub fn ends_operation(&self, step: Step) -> bool {
        self.pattern != Pattern::Fsync || step == Step::Flush
    }

    fn random_bits(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn random_offset(&mut self) -> u64 {
        // Multiply-shift maps the high bits onto the range without a division.
        let bits = u128::from(self.random_bits());
        ((bits * u128::from(self.blocks)) >> 64) as u64 * self.block
    }

    fn next_offset(&mut self) -> u64 {
        let offset = self.next * self.block;
        self.next = (self.next + 1) % self.blocks;
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(pattern: Pattern) -> Job {
        Job {
            pattern,
            block_bytes: 4096,
            depth: 1,
            queues: 1,
            duration: Duration::from_millis(1),
            wait: Wait::Poll,
            packed: false,
        }
    }

    #[test]
    fn random_offsets_stay_inside_the_image_and_reach_both_ends() {
        let mut plan = Plan::new(&job(Pattern::Randread), 8 * 4096);
        let mut seen = [false; 8];
        for _ in 0..1000 {
            let Step::Read(offset) = plan.step(None) else {
                panic!("randread only reads")
            };
            assert_eq!(offset % 4096, 0);
            seen[(offset / 4096) as usize] = true;
        }
        assert_eq!(seen, [true; 8]);
    }

    #[test]
    fn sequential_reads_wrap_at_the_end() {
        let mut plan = Plan::new(&job(Pattern::Read), 2 * 4096 + 100);
        let offsets: Vec<_> = (0..3).map(|_| plan.step(None)).collect();
        assert_eq!(offsets, [Step::Read(0), Step::Read(4096), Step::Read(0)]);
    }

    #[test]
    fn fsync_pairs_each_write_with_a_flush_and_counts_the_pair_once() {
        let mut plan = Plan::new(&job(Pattern::Fsync), 1 << 20);
        let first = plan.step(None);
        assert!(matches!(first, Step::Write(_)));
        assert!(!plan.ends_operation(first));
        let second = plan.step(Some(first));
        assert_eq!(second, Step::Flush);
        assert!(plan.ends_operation(second));
    }
}
