//! Latencies in buckets of 3 % width.
//!
//! Rule: recording is a shift and an increment.

use crate::json::Line;
use crate::platform::Platform;

const SUB_BITS: u32 = 5;
const SUB: usize = 1 << SUB_BITS;
const BUCKETS: usize = SUB * (64 - SUB_BITS as usize + 1);

/// A histogram of values of any unit.
pub(crate) struct Histogram {
    buckets: [u32; BUCKETS],
    count: u64,
    sum: u64,
    max: u64,
    min: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self {
            buckets: [0; BUCKETS],
            count: 0,
            sum: 0,
            max: 0,
            min: u64::MAX,
        }
    }

    pub(crate) fn record(&mut self, value: u64) {
        if let Some(bucket) = self.buckets.get_mut(bucket_of(value)) {
            *bucket = bucket.saturating_add(1);
        }
        self.count += 1;
        self.sum = self.sum.wrapping_add(value);
        self.max = self.max.max(value);
        self.min = self.min.min(value);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn mean(&self) -> u64 {
        self.sum.checked_div(self.count).unwrap_or(0)
    }

    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    pub(crate) fn min(&self) -> u64 {
        if self.count == 0 { 0 } else { self.min }
    }

    /// The value below which `per_100_000` of 100,000 values lie.
    pub(crate) fn percentile(&self, per_100_000: u64) -> u64 {
        let rank = (u128::from(self.count) * u128::from(per_100_000)).div_ceil(100_000) as u64;
        let mut seen = 0;
        for (index, &bucket) in self.buckets.iter().enumerate() {
            seen += u64::from(bucket);
            if seen >= rank.max(1) {
                return middle_of(index).clamp(self.min(), self.max);
            }
        }
        self.max
    }
}

impl Histogram {
    /// Puts what was recorded in ticks into a report, in microseconds with three decimals.
    pub(crate) fn report(&self, platform: &Platform, line: &mut Line) {
        let us = |ticks| platform.nanoseconds(ticks);
        line.thousandths("min_us", us(self.min()))
            .thousandths("mean_us", us(self.mean()));
        line.thousandths("p50_us", us(self.percentile(50_000)));
        line.thousandths("p90_us", us(self.percentile(90_000)));
        line.thousandths("p99_us", us(self.percentile(99_000)));
        line.thousandths("p999_us", us(self.percentile(99_900)));
        line.thousandths("max_us", us(self.max()));
    }
}

fn bucket_of(value: u64) -> usize {
    if value < SUB as u64 {
        return value as usize;
    }
    let shift = value.ilog2() - SUB_BITS;
    (shift as usize + 1) * SUB + (value >> shift) as usize % SUB
}

fn middle_of(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64;
    }
    let shift = bucket / SUB - 1;
    let low = ((SUB + bucket % SUB) as u64) << shift;
    low + (1_u64 << shift) / 2
}
