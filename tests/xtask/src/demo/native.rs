//! The native side: the same jobs straight on the image, by `paravane-bench`.
//!
//! One rule: the page cache and the file are those that the daemon uses.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::Cell;
use super::Job;

/// Measures one job with `engine` (`uring` or `sync`).
pub fn measure(image: &Path, engine: &str, job: &Job, seconds: u32) -> anyhow::Result<Cell> {
    let program = vm::binaries::folder()?.join("paravane-bench");
    let mut command = Command::new(program);
    command
        .args(["native", "--engine", engine, "--rw", job.pattern, "--path"])
        .arg(image);
    command.args([
        "--bs",
        &(job.block_kib * 1024).to_string(),
        "--qd",
        &job.depth.to_string(),
    ]);
    command.args(["--seconds", &seconds.to_string()]);
    let output = vm::process::run(&mut command)?;
    let line = output.lines().last().context("No figures")?;
    let line = serde_json::from_str(line).with_context(|| format!("Figures {line:?}"))?;
    Cell::parse(&line).with_context(|| format!("Figures {line}"))
}
