//! The network and the balloon in the demo: two guests on a switch, a guest and the host, memory that moves.
//!
//! One rule: every byte is compared where it arrives; what this machine does not let us show is said, with the reason.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use serde_json::json;
use vm::binaries;
use vm::daemon::Daemon;
use vm::daemon::Port;
use vm::monitor::Running;
use vm::monitor::Vm;
use vm::netns::Namespace;
use vm::netns::Tap;
use vm::process;
use vm::process::Process;

use super::Host;
use super::table::Facts;
use crate::shell;

const PATIENCE: Duration = Duration::from_secs(90);
const MIB: u64 = 1 << 20;
/// What moves from one guest to the other.
const MOVED: u64 = 112;

/// All of it, as findings.
pub fn show(host: &Host, seconds: u32) -> Facts {
    let parts: [(&'static str, &dyn Fn() -> anyhow::Result<String>); 3] = [
        ("guest-guest", &|| between_guests(host, seconds)),
        ("guest-host", &|| with_host(host, seconds)),
        ("memory", &|| memory(host)),
    ];
    let told = parts.into_iter().map(|(name, part)| {
        shell::say(&format!("{name}: with the daemon that serves it"));
        let finding = part().unwrap_or_else(|error| format!("left out: {error:#}"));
        shell::say(&finding);
        (name, finding)
    });
    told.collect()
}

fn field(lines: &[Value], kind: &str, nth: usize, key: &str) -> anyhow::Result<f64> {
    let mut of_kind = lines.iter().filter(|line| line["kind"] == kind);
    let line = of_kind.nth(nth);
    line.and_then(|line| line[key].as_f64())
        .with_context(|| format!("The guest did not say {key} of {kind}"))
}

fn between_guests(host: &Host, seconds: u32) -> anyhow::Result<String> {
    let ports = [("net0", 1), ("net1", 2)].map(|(name, number)| Port {
        more: vec![format!("mac = \"52:54:00:77:00:0{number}\"")],
        ..Port::new(name, "switch:lan")
    });
    let mut daemon = Daemon::network(&Host::unprivileged(), host.folder(), host.logs(), &ports)?;
    let net = |port: usize| format!("socket={}", daemon.sockets()[port]);
    let mut peer = Vm::networked("peer address=10.77.0.1/24 wait=irq seconds=120", &net(0))?
        .start(host.logs(), "net-peer-guest")?;
    peer.console.expect("\"kind\":\"ready\"", PATIENCE)?;
    let words = format!(
        "address=10.77.0.2/24 peer=10.77.0.1 to=52-54-00-77-00-01 wait=irq seconds={seconds} \
         ping count=1000 ; tcp mode=send ; tcp mode=receive ; flood ; tcp mode=quit"
    );
    let lines = Vm::networked(&words, &net(1))?.run(host.logs(), "net-guest", PATIENCE)?;
    peer.finish(PATIENCE)?;
    daemon.stop()?;
    Ok(format!(
        "TCP {:.2} Gbit/s out, {:.2} in, every byte compared; {:.2} M frames/s of 64 bytes; ping p50 {:.0} us, p99 {:.0}",
        field(&lines, "tcp", 0, "mbit_s")? / 1e3,
        field(&lines, "tcp", 1, "mbit_s")? / 1e3,
        field(&lines, "flood", 0, "per_second")? / 1e6,
        field(&lines, "ping", 0, "p50_us")?,
        field(&lines, "ping", 0, "p99_us")?,
    ))
}

fn with_host(host: &Host, seconds: u32) -> anyhow::Result<String> {
    let namespace = Namespace::new()?;
    namespace.tap(&Tap {
        name: "vmtap0",
        address: "10.77.0.1/24",
        mtu: 1500,
        pairs: 1,
        owner: None,
    })?;
    let mut command = process::behind(namespace.prefix(), &binaries::net_peer()?);
    let log = process::log_file(&host.logs().join("net-peer.log"), "serve")?;
    command.args(["serve", "10.77.0.1"]);
    command.stdout(log.try_clone()?).stderr(log);
    let mut peer = Process::start("net-peer", command)?;
    process::wait_until("the host's peer", PATIENCE, || {
        Ok(std::fs::read_to_string(host.logs().join("net-peer.log"))?.contains("ready"))
    })?;
    let native = native(&namespace, seconds)?;
    let port = [Port::new("tap0", "tap:vmtap0")];
    let mut daemon = Daemon::network(namespace.prefix(), host.folder(), host.logs(), &port)?;
    let words = format!(
        "address=10.77.0.2/24 peer=10.77.0.1 wait=irq seconds={seconds} \
         ping count=1000 ; tcp mode=send ; tcp mode=receive ; tcp mode=quit"
    );
    let net = format!("socket={}", daemon.socket());
    let lines = Vm::networked(&words, &net)?.run(host.logs(), "net-tap-guest", PATIENCE)?;
    peer.wait(PATIENCE)?;
    daemon.stop()?;
    Ok(format!(
        "TCP through a TAP {:.2} Gbit/s out, {:.2} in (host to itself, same program: {native:.2}); ping p50 {:.0} us",
        field(&lines, "tcp", 0, "mbit_s")? / 1e3,
        field(&lines, "tcp", 1, "mbit_s")? / 1e3,
        field(&lines, "ping", 0, "p50_us")?,
    ))
}

/// The host with itself over its loopback, in Gbit/s: the same streams, compared in the same way.
fn native(namespace: &Namespace, seconds: u32) -> anyhow::Result<f64> {
    let mut command = process::behind(namespace.prefix(), &binaries::net_peer()?);
    command.args(["client", "10.77.0.1", "send", &seconds.to_string()]);
    let line: Value = serde_json::from_str(process::run(&mut command)?.trim())?;
    let rate = line["mbit_s"].as_f64().context("No figure")?;
    Ok(rate / 1e3)
}

/// What the host has for the guest's memory.
fn resident(process: u32) -> anyhow::Result<u64> {
    let mut largest = (0, 0);
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        let path = entry?.path();
        let memory = std::fs::read_link(&path)
            .is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:"));
        if memory {
            let file = std::fs::metadata(&path)?;
            largest = largest.max((file.len(), file.blocks() * 512));
        }
    }
    Ok(largest.1 / MIB)
}

fn memory(host: &Host) -> anyhow::Result<String> {
    let manual = "policy = \"manual\"";
    let vms = [("vm0", manual), ("vm1", manual)];
    let mut daemon = Daemon::balloons(host.folder(), host.logs(), &vms, "")?;
    let words = "balloon pool=160M data=32M rounds=1 seconds=60";
    let mut guests = Vec::new();
    for (number, (name, _)) in vms.iter().enumerate() {
        let mut vm = Vm::probe(words, "")?;
        vm.disks.clear();
        vm.balloon = Some(format!("socket={}", daemon.sockets()[number]));
        let mut guest = vm.start(host.logs(), name)?;
        guest.console.expect("balloon_ready", PATIENCE)?;
        guests.push(guest);
    }
    let target = |vm: &str, mib: u64| {
        let set = json!({ "command": "set", "device": vm, "set": { "target": mib * MIB } });
        daemon.control(&set)
    };
    let settled = |guest: &mut Running, mib: u64| {
        let text = format!("\"target_pages\":{},\"actual_pages\":{0},", mib * 256);
        guest.console.expect(&text, PATIENCE)
    };
    let mut seen = Vec::new();
    let mut look = |guests: &[Running]| -> anyhow::Result<()> {
        let each: anyhow::Result<Vec<u64>> = guests.iter().map(|g| resident(g.id())).collect();
        seen.push(each?);
        Ok(())
    };
    look(&guests)?;
    target("vm0", MOVED)?;
    let line: Value = serde_json::from_str(settled(&mut guests[0], MOVED)?.trim())?;
    look(&guests)?;
    for name in ["vm0", "vm1"] {
        target(name, if name == "vm0" { 0 } else { MOVED })?;
    }
    settled(&mut guests[0], 0)?;
    settled(&mut guests[1], MOVED)?;
    look(&guests)?;
    target("vm1", 0)?;
    for guest in guests {
        guest.finish(PATIENCE)?;
    }
    daemon.stop()?;
    Ok(format!(
        "host memory of two VMs in MiB: {seen:?} (before; {MOVED} MiB out of vm0 in {} us; out of vm1, vm0 may have its back); all data verified",
        line["us"],
    ))
}
