//! The probe guest on our monitor, on this machine's KVM.
//!
//! One rule: without `/dev/kvm` these tests are skipped, and nothing else is.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::ensure;
use serde_json::Value;
use tempfile::TempDir;
use vm::daemon::Daemon;
use vm::image;
use vm::image::MIB;
use vm::monitor::Vm;
use vm::paths;
use vm::soak;

/// A job of some seconds on a busy computer.
const LIMIT: Duration = Duration::from_secs(120);
/// Rounds in an ordinary run; `cargo xtask soak` asks for more by this variable.
const ROUNDS: (&str, u32) = ("PARAVANE_KILL_ROUNDS", 16);

/// A daemon on a fresh image.
fn served(name: &str, extra: &[&str]) -> anyhow::Result<(TempDir, PathBuf, Daemon)> {
    vm::kvm()?;
    let logs = paths::logs(name)?;
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk.img");
    image::empty(&disk, 64 * MIB)?;
    let daemon = Daemon::start(folder.path(), &logs, &disk, extra)?;
    Ok((folder, logs, daemon))
}

/// The number that some line of the guest carries under `key`.
fn number(lines: &[Value], key: &str) -> anyhow::Result<u64> {
    let found = lines.iter().rev().find_map(|line| line.get(key)?.as_u64());
    found.with_context(|| format!("The guest did not say {key}: {lines:?}"))
}

pub fn verify() -> anyhow::Result<()> {
    let (_folder, logs, mut daemon) = served("probe-verify", &[])?;
    let disk = format!("socket={}", daemon.socket());
    let lines = Vm::probe("probe ; verify size=16M", &disk)?.run(&logs, "verify", LIMIT)?;
    ensure!(
        number(&lines, "capacity_sectors")? == 64 * MIB / 512,
        "{lines:?}"
    );
    for count in ["reads", "writes", "flushes", "discards", "write_zeroes"] {
        ensure!(number(&lines, count)? > 0, "no {count}: {lines:?}");
    }
    daemon.stop()
}

pub fn packed_queues() -> anyhow::Result<()> {
    let (_folder, logs, mut daemon) = served("probe-packed", &["--num-queues", "4"])?;
    let disk = format!("socket={},queues=4,packed=on", daemon.socket());
    let words = "verify size=16M queues=4 packed=1";
    let lines = Vm::probe(words, &disk)?.run(&logs, "verify", LIMIT)?;
    ensure!(number(&lines, "queues")? == 4, "{lines:?}");
    daemon.stop()
}

pub fn killed() -> anyhow::Result<()> {
    let (_folder, logs, mut daemon) = served("probe-killed", &["--num-queues", "2"])?;
    let rounds = match std::env::var(ROUNDS.0) {
        Ok(given) => given
            .parse()
            .with_context(|| format!("{}={given}", ROUNDS.0))?,
        Err(_) => ROUNDS.1,
    };
    let verdict = soak::kill_rounds(&mut daemon, &logs, 2, rounds, |done| {
        host_os::say!("killed {done} of {rounds}");
    })?;
    host_os::say!("killed {verdict}");
    ensure!(
        verdict.completed > u64::from(rounds),
        "hardly any load: {verdict}"
    );
    daemon.stop()
}
