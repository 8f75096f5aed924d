//! Figures as text and as JSON.

use serde::Serialize;
use serde_json::json;

use crate::job::Job;
use crate::job::Wait;
use crate::sample::Sample;

/// One measured cell.
#[derive(Clone, Serialize)]
pub struct Cell {
    /// Who served it.
    pub who: String,
    /// What was done.
    #[serde(flatten)]
    pub job: Job,
    /// Operations per second.
    pub iops: f64,
    /// Median latency, microseconds.
    pub p50_us: f64,
    /// 99th percentile, microseconds.
    pub p99_us: f64,
    /// Server CPU seconds per million operations.
    pub cpu_s_per_million: Option<f64>,
    /// Failed operations; anything but 0 makes the cell void.
    pub errors: u64,
}

impl Cell {
    /// The cell of a sample.
    pub fn new(who: &str, job: &Job, sample: &Sample) -> Self {
        Self {
            who: who.to_owned(),
            job: *job,
            iops: sample.iops(),
            p50_us: sample.latency_us(50.0),
            p99_us: sample.latency_us(99.0),
            cpu_s_per_million: sample.cpu_per_million(),
            errors: sample.errors,
        }
    }
}

/// A sample as one JSON line.
pub fn line(who: &str, job: &Job, sample: &Sample) -> String {
    json!(Cell::new(who, job, sample)).to_string()
}

/// A job in few letters: `randread 4k qd32 q1 poll`.
pub fn job_name(job: &Job) -> String {
    let size = match job.block_bytes {
        bytes if bytes % (1 << 20) == 0 => format!("{}M", bytes >> 20),
        bytes => format!("{}k", bytes >> 10),
    };
    let pattern = format!("{:?}", job.pattern).to_lowercase();
    let wait = if job.wait == Wait::Sleep {
        " sleep"
    } else {
        ""
    };
    let packed = if job.packed { " packed" } else { "" };
    format!(
        "{pattern} {size} qd{} q{}{wait}{packed}",
        job.depth, job.queues
    )
}

/// Operations per second in few letters.
pub fn rate(iops: f64) -> String {
    if iops >= 1e6 {
        format!("{:.2} M", iops / 1e6)
    } else if iops >= 1e4 {
        format!("{:.0} k", iops / 1e3)
    } else {
        format!("{iops:.0}")
    }
}
