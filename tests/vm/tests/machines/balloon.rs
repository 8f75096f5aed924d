//! An unmodified Debian cloud kernel under a QEMU that knows no balloon of ours: its generic vhost-user device.
//!
//! One rule: the host's memory is measured on the guest's, by the daemon's own `status` and by the
//! guest's counters; both must agree.

use std::time::Duration;

use anyhow::Context;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use vm::daemon::Daemon;
use vm::image::MIB;
use vm::kernel::BALLOON_MODULES;
use vm::paths;
use vm::process;
use vm::qemu::Machine;
use vm::tree;

/// Booting without hardware help on a busy computer.
const BOOT: Duration = Duration::from_secs(600);
/// One step of a scenario.
const STEP: Duration = Duration::from_secs(240);

/// The balloon's part of `status`.
fn status(daemon: &Daemon) -> anyhow::Result<Value> {
    let mut status = daemon.control(&json!({ "command": "status" }))?;
    Ok(status["ok"]["devices"][0]["device"].take())
}

fn bytes(status: &Value, name: &str) -> anyhow::Result<u64> {
    let value = status[name].as_u64();
    value.with_context(|| format!("No {name} in {status}"))
}

fn target(daemon: &Daemon, mib: u64) -> anyhow::Result<()> {
    let set = json!({ "command": "set", "device": "vm", "set": { "target": mib * MIB } });
    daemon.control(&set).map(drop)
}

/// Waits until `what` of the balloon is so.
fn wait(daemon: &Daemon, what: &str, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    process::wait_until(what, STEP, || Ok(is(&status(daemon)?)))?;
    status(daemon)
}

/// Free memory goes by reports, held memory by the balloon; both come back, and what was kept stays.
pub fn debian() -> anyhow::Result<()> {
    let qemu = vm::newer_qemu::program()?;
    let kernel = vm::debian::cloud_kernel()?;
    let logs = paths::logs("debian-balloon")?;
    let folder = tempfile::tempdir()?;
    let initramfs = folder.path().join("initramfs");
    let scenario = include_str!("../../guest/balloon.sh");
    tree::initramfs(&initramfs, &kernel, BALLOON_MODULES, None, scenario)?;
    let policy = "policy = \"manual\"\nstats-interval-ms = 200";
    let mut daemon = Daemon::balloons(folder.path(), &logs, &[("vm", policy)], "")?;
    let mut machine = Machine::debian(&kernel.vmlinux, &initramfs);
    machine.program = Some(qemu);
    machine.balloon = Some(daemon.socket().to_string());
    let mut guest = machine.start(&logs)?;
    guest.console.expect("@@ up", BOOT)?;
    let said = guest.console.expect("@@ features", STEP)?;
    // Bit 0 first: MUST_TELL_HOST, STATS_VQ, DEFLATE_ON_OOM, no hints, no poison, PAGE_REPORTING.
    ensure!(said.contains("features 111001"), "the guest sees: {said}");

    guest.console.expect("@@ filled", STEP)?;
    let full = bytes(&status(&daemon)?, "resident")?;
    ensure!(full > 224 * MIB, "the guest filled memory: {full}");
    guest.console.answer("go")?;
    guest.console.expect("@@ freed", STEP)?;
    let goal = full - 96 * MIB;
    let after = wait(&daemon, "the reports of free pages", |s| {
        s["resident"].as_u64().is_some_and(|now| now < goal)
    })?;
    ensure!(bytes(&after, "ballooned")? == 0, "no balloon yet: {after}");
    ensure!(
        after["statistics"]["total_memory"].is_u64(),
        "no statistics: {after}"
    );
    guest.console.answer("go")?;

    target(&daemon, 192)?;
    guest.console.expect("@@ inflated", STEP)?;
    wait(&daemon, "the guest's word", |s| {
        s["actual"] == json!(192 * MIB)
    })?;
    guest.console.expect("@@ small", STEP)?;
    let small = status(&daemon)?;
    let ballooned = bytes(&small, "ballooned")?;
    ensure!(ballooned == 192 * MIB, "the daemon counts {ballooned}");
    guest.console.answer("go")?;
    target(&daemon, 64)?;
    guest.console.expect("@@ used", STEP)?;
    let used = status(&daemon)?;
    ensure!(
        bytes(&used, "resident")? > bytes(&small, "resident")? + 100 * MIB,
        "what the guest uses again is on the host: {used}"
    );
    guest.console.answer("go")?;
    guest.console.expect("@@ complete", STEP)?;
    guest.power_off(STEP)?;
    daemon.stop()
}
