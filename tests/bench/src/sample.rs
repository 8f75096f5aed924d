//! What one measurement yields.

use std::time::Duration;
use std::time::Instant;

use hdrhistogram::Histogram;

/// Operations, time and latencies of one job.
pub struct Sample {
    /// Finished operations.
    pub operations: u64,
    /// Operations that failed.
    pub errors: u64,
    /// Time measured.
    pub elapsed: Duration,
    /// Server CPU seconds, where a server was measured.
    pub server_cpu: Option<Duration>,
    latency_ns: Histogram<u64>,
}

impl Sample {
    /// What another program measured.
    pub fn of(operations: u64, errors: u64, elapsed: Duration, latency_ns: Histogram<u64>) -> Self {
        Self {
            operations,
            errors,
            elapsed,
            server_cpu: None,
            latency_ns,
        }
    }

    /// Operations per second.
    pub fn iops(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// Latency in microseconds that `percentile` (0 to 100) of the operations stayed within.
    pub fn latency_us(&self, percentile: f64) -> f64 {
        self.latency_ns.value_at_percentile(percentile) as f64 / 1000.0
    }

    /// Server CPU seconds per million operations.
    pub fn cpu_per_million(&self) -> Option<f64> {
        let cpu = self.server_cpu?.as_secs_f64();
        (self.operations > 0).then(|| cpu * 1e6 / self.operations as f64)
    }
}

/// Collects a [`Sample`], leaving a warm-up out.
pub struct Recorder {
    start: Instant,
    end: Instant,
    sample: Sample,
}

impl Recorder {
    /// Starts now; what ends within the first tenth of `duration` is warm-up.
    pub fn new(duration: Duration) -> anyhow::Result<Self> {
        let start = Instant::now() + duration / 10;
        Ok(Self {
            start,
            end: start + duration,
            sample: Sample {
                operations: 0,
                errors: 0,
                elapsed: duration,
                server_cpu: None,
                latency_ns: Histogram::new_with_bounds(1, 60_000_000_000, 2)?,
            },
        })
    }

    /// Counts an operation that began at `since` and ended at `now`.
    pub fn record(&mut self, since: Instant, now: Instant, ok: bool) {
        if now < self.start {
            return;
        }
        self.sample.operations += 1;
        self.sample.errors += u64::from(!ok);
        let ns = now.duration_since(since).as_nanos().max(1) as u64;
        self.sample.latency_ns.saturating_record(ns);
    }

    /// Whether the time is up.
    pub fn over(&self, now: Instant) -> bool {
        now >= self.end
    }

    /// The sample so far; `now` is when the last operation was counted.
    pub fn finish(mut self, now: Instant) -> Sample {
        self.sample.elapsed = now.duration_since(self.start);
        self.sample
    }
}
