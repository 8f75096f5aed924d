//! The demo's result, for people and as JSON.
//!
//! One rule: a ratio above 1 means that the guest is faster.

use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use super::Job;

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Requests per second.
    pub iops: f64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// 99th percentile in microseconds.
    pub p99_us: f64,
    /// Failed requests; must be 0.
    pub errors: u64,
}

impl Cell {
    /// Out of the JSON line of a measuring program.
    pub fn parse(line: &Value) -> Option<Self> {
        Some(Self {
            iops: line.get("iops")?.as_f64()?,
            p50_us: line.get("p50_us")?.as_f64()?,
            p99_us: line.get("p99_us")?.as_f64()?,
            errors: line.get("errors").and_then(Value::as_u64).unwrap_or(0),
        })
    }
}

/// One job, measured three ways.
#[derive(Clone, Debug)]
pub struct Row {
    pub job: Job,
    pub guest: Cell,
    pub uring: Cell,
    pub pread: Cell,
}

/// What was shown before the figures: name and finding.
pub type Facts = Vec<(&'static str, String)>;

/// A job in few letters.
pub fn name(job: &Job) -> String {
    let size = match job.block_kib {
        kib if kib >= 1024 => format!("{}M", kib / 1024),
        kib => format!("{kib}k"),
    };
    format!("{} {size} QD{}", job.pattern, job.depth)
}

fn amount(job: &Job, cell: &Cell) -> String {
    if job.block_kib > 4 {
        format!(
            "{:.2} GB/s",
            cell.iops * f64::from(job.block_kib) * 1024.0 / 1e9
        )
    } else if cell.iops >= 1e6 {
        format!("{:.2} M/s", cell.iops / 1e6)
    } else {
        format!("{:.1} k/s", cell.iops / 1e3)
    }
}

fn side(job: &Job, cell: &Cell) -> String {
    format!(
        "{:>10} {:>7.1} {:>7.1}",
        amount(job, cell),
        cell.p50_us,
        cell.p99_us
    )
}

pub fn print(facts: &Facts, rows: &[Row]) {
    host_os::say!("");
    for (name, finding) in facts {
        host_os::say!("{name:>12}: {finding}");
    }
    host_os::say!("");
    let columns = format!("{:>10} {:>7} {:>7}", "amount", "p50 us", "p99 us");
    host_os::say!(
        "{:<18} | {:^26} | {:^26} | {:^26} | guest /",
        "",
        "guest",
        "io_uring",
        "pread/pwrite"
    );
    host_os::say!(
        "{:<18} | {columns} | {columns} | {columns} | uring  pread",
        ""
    );
    for row in rows {
        host_os::say!(
            "{:<18} | {} | {} | {} | {:>5.2}  {:>5.2}",
            name(&row.job),
            side(&row.job, &row.guest),
            side(&row.job, &row.uring),
            side(&row.job, &row.pread),
            row.guest.iops / row.uring.iops,
            row.guest.iops / row.pread.iops,
        );
    }
}

pub fn json(facts: &Facts, rows: &[Row]) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "rw": row.job.pattern,
                "bs": row.job.block_kib * 1024,
                "qd": row.job.depth,
                "guest": row.guest,
                "uring": row.uring,
                "pread": row.pread,
                "guest_to_uring": row.guest.iops / row.uring.iops,
                "guest_to_pread": row.guest.iops / row.pread.iops,
            })
        })
        .collect();
    let facts: serde_json::Map<String, Value> = facts
        .iter()
        .map(|(name, finding)| ((*name).to_string(), json!(finding)))
        .collect();
    json!({ "facts": facts, "rows": rows })
}
