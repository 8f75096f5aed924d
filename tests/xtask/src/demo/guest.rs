//! The guest side: the probe guest in a VM, or the driver core in one process with the device.
//!
//! One rule: figures count only after the guest has verified the disk.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use vm::daemon::Daemon;
use vm::monitor::Vm;

use super::Cell;
use super::Host;
use super::Job;
use super::host;
use super::table::Facts;
use crate::shell;

/// A job of the probe guest takes its seconds and a little.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the driver core runs.
pub enum Guest {
    /// In a VM.
    Kvm { daemon: Daemon, logs: PathBuf },
    /// In one process with the device, on this image.
    Process { image: PathBuf },
}

impl Guest {
    /// Starts the daemon.
    pub fn on_kvm(host: &mut Host) -> anyhow::Result<Self> {
        let daemon = Daemon::start_as(
            &Host::unprivileged(),
            host.folder(),
            host.logs(),
            &host.image(),
            &[],
        )?;
        let id = daemon.id().context("No daemon")?;
        shell::say(&format!("daemon {id}: {}", host::sandbox(id)?));
        Ok(Self::Kvm {
            daemon,
            logs: host.logs().to_path_buf(),
        })
    }

    /// Nothing to start.
    pub fn in_process(host: &Host) -> Self {
        Self::Process {
            image: host.image(),
        }
    }

    /// Verifies the disk, and that the daemon's death under load loses nothing.
    pub fn prove(&mut self, kills: u32) -> anyhow::Result<Facts> {
        match self {
            Self::Kvm { daemon, logs } => {
                let id = daemon.id().context("No daemon")?;
                let sandbox = host::sandbox(id)?;
                shell::say("the guest verifies the disk");
                let disk = format!("socket={}", daemon.socket());
                let lines = Vm::probe("verify", &disk)?.run(logs, "verify", PATIENCE)?;
                let verified = lines.last().map(verdict).unwrap_or_default();
                shell::say(&format!("the daemon dies {kills} times under load"));
                let killed = vm::soak::kill_rounds(daemon, logs, 1, kills, |_| ())?;
                Ok(vec![
                    ("daemon", sandbox),
                    ("verified", verified),
                    ("kill -9", killed.to_string()),
                ])
            }
            Self::Process { .. } => Ok(vec![(
                "no KVM",
                "driver core and device in one process".into(),
            )]),
        }
    }

    /// Measures one job.
    pub fn measure(&mut self, job: &Job, seconds: u32) -> anyhow::Result<Cell> {
        let Job {
            pattern,
            block_kib,
            depth,
        } = job;
        let lines = match self {
            Self::Kvm { daemon, logs } => {
                let words = format!(
                    "load rw={pattern} bs={block_kib}k qd={depth} seconds={seconds} queues=1"
                );
                let name = format!("load-{pattern}-{block_kib}k-{depth}");
                let disk = format!("socket={}", daemon.socket());
                Vm::probe(&words, &disk)?.run(logs, &name, PATIENCE)?
            }
            Self::Process { image } => {
                let mut command = Command::new(vm::binaries::folder()?.join("paravane-loopback"));
                command.arg("--path").arg(&image).args(["--rw", pattern]);
                command.args([
                    "--bs",
                    &(block_kib * 1024).to_string(),
                    "--qd",
                    &depth.to_string(),
                ]);
                command.args(["--seconds", &seconds.to_string()]);
                let output = vm::process::run(&mut command)?;
                output
                    .lines()
                    .filter_map(|line| serde_json::from_str(line).ok())
                    .collect()
            }
        };
        lines
            .iter()
            .rev()
            .find_map(Cell::parse)
            .context("The guest gave no figures")
    }

    /// The daemon ends well.
    pub fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Kvm { mut daemon, .. } => daemon.stop(),
            Self::Process { .. } => Ok(()),
        }
    }
}

/// The guest's verdict for people.
fn verdict(line: &Value) -> String {
    let number = |key: &str| line.get(key).and_then(Value::as_u64).unwrap_or(0);
    format!(
        "{} requests on {} MiB: {} reads, {} writes, {} flushes, {} discards, {} write zeroes; every byte as expected",
        number("completed"),
        number("sectors") / 2048,
        number("reads"),
        number("writes"),
        number("flushes"),
        number("discards"),
        number("write_zeroes"),
    )
}
