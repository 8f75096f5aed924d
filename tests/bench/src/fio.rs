//! The same job by fio's io_uring engine: a second opinion on what the file gives without us.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use hdrhistogram::Histogram;
use serde_json::Value;

use crate::job::Job;
use crate::job::Pattern;
use crate::sample::Sample;

/// Name of the pattern in fio's terms; `None` where it has nothing alike.
fn pattern(job: &Job) -> Option<&'static str> {
    match job.pattern {
        Pattern::Randread => Some("randread"),
        Pattern::Randwrite => Some("randwrite"),
        Pattern::Randrw => Some("randrw"),
        Pattern::Read => Some("read"),
        Pattern::Write => Some("write"),
        // Its flushes are not one to each write in flight.
        Pattern::Fsync => None,
    }
}

/// Whether fio has a job like this one.
pub fn can(job: &Job) -> bool {
    pattern(job).is_some() && !job.packed && job.queues == 1
}

/// Runs `job` on `image` from one thread on `cpu`.
pub fn run(image: &Path, direct: bool, job: &Job, cpu: usize) -> Result<Sample> {
    let pattern = pattern(job).context("fio has no such pattern")?;
    let seconds = job.duration.as_secs_f64();
    let mut command = Command::new("fio");
    // Its own default drops the file's page cache first, which no other contender does.
    command.args([
        "--name=job",
        "--ioengine=io_uring",
        "--invalidate=0",
        "--time_based",
    ]);
    command.args([
        "--output-format=json",
        "--thread",
        "--rwmixread=70",
        "--norandommap",
    ]);
    command.arg(format!("--filename={}", image.display()));
    command.arg(format!("--rw={pattern}"));
    command.arg(format!("--bs={}", job.block_bytes));
    command.arg(format!("--iodepth={}", job.depth));
    command.arg(format!("--direct={}", u8::from(direct)));
    command.arg(format!("--runtime={}ms", (seconds * 1000.0) as u64));
    command.arg(format!("--ramp_time={}ms", (seconds * 100.0) as u64));
    command.arg(format!("--cpus_allowed={cpu}"));
    let output = command
        .output()
        .context("cannot start fio (Debian package fio)")?;
    if !output.status.success() {
        bail!(
            "fio failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let start = text.find('{').context("fio printed no JSON")?;
    sample(&serde_json::from_str(&text[start..])?)
        .context("fio's JSON has another shape than expected")
}

fn sample(report: &Value) -> Option<Sample> {
    let job = report.get("jobs")?.get(0)?;
    let mut latency_ns = Histogram::new_with_bounds(1, 60_000_000_000, 2).ok()?;
    let mut operations = 0;
    let mut elapsed_ms = 0;
    for side in ["read", "write"] {
        let side = job.get(side)?;
        operations += side.get("total_ios")?.as_u64()?;
        elapsed_ms = elapsed_ms.max(side.get("runtime")?.as_u64()?);
        let total = side.get("total_ios")?.as_u64()? as f64;
        let bins = side.get("clat_ns")?.get("percentile");
        let mut bins: Vec<(f64, u64)> = bins
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(percent, ns)| Some((percent.parse().ok()?, ns.as_u64()?)))
            .collect();
        bins.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Each percentile stands for the share of operations between it and the one before.
        let mut before = 0.0;
        for (percent, ns) in bins {
            let count = ((percent - before) / 100.0 * total).ceil() as u64;
            latency_ns.record_n(ns.max(1), count).ok()?;
            before = percent;
        }
    }
    Some(Sample::of(
        operations,
        job.get("error")?.as_u64()?,
        Duration::from_millis(elapsed_ms.max(1)),
        latency_ns,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_the_report() {
        let report = serde_json::json!({"jobs": [{"error": 0,
            "read": {"total_ios": 1000, "runtime": 500, "clat_ns": {"percentile": {"50.000000": 10_000, "99.000000": 90_000}}},
            "write": {"total_ios": 0, "runtime": 0, "clat_ns": {}}}]});
        let sample = sample(&report).expect("a report");
        assert!((sample.iops() - 2000.0).abs() < 1e-6);
        assert!((sample.latency_us(50.0) - 10.0).abs() < 0.5);
    }

    #[test]
    fn another_shape_is_refused() {
        assert!(sample(&serde_json::json!({"jobs": []})).is_none());
    }
}
