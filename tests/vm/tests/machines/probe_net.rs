//! The probe guest's network on our monitor and our daemon, on this machine's KVM.
//!
//! One rule: payloads are compared byte by byte where they arrive, on both sides; figures are told, not judged.

use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;
use vm::binaries;
use vm::daemon::Daemon;
use vm::daemon::Port;
use vm::monitor::Running;
use vm::monitor::Vm;
use vm::netns::Namespace;
use vm::netns::Tap;
use vm::paths;
use vm::process;
use vm::process::Process;

/// A job of some seconds on a busy computer.
const LIMIT: Duration = Duration::from_secs(240);
const START: Duration = Duration::from_secs(60);

/// What streams have to move at least, however long it takes; how fast they are is the benchmarks' business.
const LITTLE: u64 = 64 << 10;

const PEER: &str = "10.77.0.1";
const OWN: &str = "10.77.0.2/24";
const PEER_MAC: &str = "52-54-00-77-00-01";

/// A daemon with two ports on one switch.
struct Switch {
    _folder: TempDir,
    logs: PathBuf,
    daemon: Daemon,
}

impl Switch {
    fn open(name: &str, pairs: u16) -> anyhow::Result<Self> {
        vm::kvm()?;
        let (folder, logs) = (tempfile::tempdir()?, paths::logs(name)?);
        let ports = [("net0", 1), ("net1", 2)].map(|(name, number)| Port {
            pairs,
            more: vec![format!("mac = \"52:54:00:77:00:0{number}\"")],
            ..Port::new(name, "switch:lan")
        });
        let daemon = Daemon::network(&[], folder.path(), &logs, &ports)?;
        Ok(Self {
            _folder: folder,
            logs,
            daemon,
        })
    }

    fn net(&self, port: usize, packed: bool) -> String {
        let packed = if packed { "on" } else { "off" };
        format!("socket={},packed={packed}", self.daemon.sockets()[port])
    }

    /// The guest at the other end of every job, ready.
    fn peer(&self, packed: bool, words: &str) -> anyhow::Result<Running> {
        let words = format!("peer address={PEER}/24 wait=irq seconds=600 {words}");
        let mut peer = Vm::networked(&words, &self.net(0, packed))?.start(&self.logs, "peer")?;
        peer.console.expect("\"kind\":\"ready\"", START)?;
        Ok(peer)
    }

    /// The other guest, with these jobs.
    fn guest(&self, packed: bool, common: &str, jobs: &str) -> anyhow::Result<Vm> {
        // Guests that spin would take each other's processor on a small computer.
        let common = format!(
            "wait=irq address={OWN} peer={PEER} to={PEER_MAC} least={} {common}",
            LITTLE + 1
        );
        Vm::networked(&format!("{common} {jobs}"), &self.net(1, packed))
    }

    /// The same, which asks the peer to quit at its end.
    fn client(&self, packed: bool, common: &str, jobs: &str) -> anyhow::Result<Vm> {
        self.guest(packed, common, &format!("{jobs} ; tcp mode=quit"))
    }
}

/// What a job of this kind said, the `nth` of its kind.
fn said<'a>(lines: &'a [Value], kind: &str, nth: usize) -> anyhow::Result<&'a Value> {
    let mut of_kind = lines.iter().filter(|line| line["kind"] == kind);
    of_kind
        .nth(nth)
        .with_context(|| format!("The guest did not say {kind} {nth}: {lines:?}"))
}

fn number(line: &Value, key: &str) -> anyhow::Result<u64> {
    line[key]
        .as_u64()
        .with_context(|| format!("No {key} in {line}"))
}

/// Every job between two guests.
fn every_job(name: &str, pairs: u16, packed: bool) -> anyhow::Result<()> {
    let mut switch = Switch::open(name, pairs)?;
    let common = format!("pairs={pairs} packed={}", u8::from(packed));
    let peer = switch.peer(packed, &common)?;
    let jobs = "seconds=1 ping count=100 ; ping count=20 size=1472 ; udp ; tcp mode=send ; tcp mode=receive ; \
        tcp mode=both streams=2 ; flood ; flood size=1500 ; pingpong count=500";
    let lines = switch
        .client(packed, &common, jobs)?
        .run(&switch.logs, "client", LIMIT)?;
    for kind in ["ping", "udp", "flood", "pingpong"] {
        host_os::say!("{}", said(&lines, kind, 0)?);
    }
    ensure!(number(said(&lines, "udp", 0)?, "count")? > 0, "{lines:?}");
    for (nth, fields) in [&["sent"][..], &["received"], &["sent", "received"]]
        .iter()
        .enumerate()
    {
        let line = said(&lines, "tcp", nth)?;
        host_os::say!("{line}");
        for field in *fields {
            ensure!(number(line, field)? > LITTLE, "hardly any bytes: {line}");
        }
    }
    for nth in [0, 1] {
        let line = said(&lines, "flood", nth)?;
        ensure!(number(line, "received")? > 0, "no frame arrived: {line}");
        ensure!(number(line, "received")? <= number(line, "sent")?, "{line}");
    }
    let lines = peer.finish(LIMIT)?;
    ensure!(said(&lines, "peer", 0)?["good"] == true, "{lines:?}");
    switch.daemon.stop()
}

pub fn guest_to_guest() -> anyhow::Result<()> {
    every_job("probe-net", 1, false)
}

pub fn packed_pairs() -> anyhow::Result<()> {
    every_job("probe-net-packed", 2, true)
}

/// One guest cannot do what the other can: the daemon makes up for it.
pub fn unlike_guests() -> anyhow::Result<()> {
    let mut switch = Switch::open("probe-net-unlike", 1)?;
    let peer = switch.peer(false, "guest_csum=0 guest_tso=0 mrg=0 csum=0 tso=0")?;
    let jobs = "seconds=1 tcp mode=send ; tcp mode=receive ; tcp mode=both";
    let lines = switch
        .client(true, "packed=1", jobs)?
        .run(&switch.logs, "client", LIMIT)?;
    for nth in 0..3 {
        let line = said(&lines, "tcp", nth)?;
        host_os::say!("{line}");
        ensure!(
            number(line, "sent")? + number(line, "received")? > LITTLE,
            "{line}"
        );
    }
    peer.finish(LIMIT)?;
    switch.daemon.stop()
}

/// How often the network daemon dies.
const KILLS: u64 = 6;
/// How long a guest's streams are, and the part of it in which the daemon dies: what comes after them on a busy computer is
/// no matter of this test.
const STREAMS: (u64, Duration) = (12, Duration::from_secs(9));

/// The daemon dies while streams go both ways: they go on, no byte is wrong, and each guest goes on with the queue pairs
/// that it chose once. A guest whose streams end before the last round leaves the rest to another.
pub fn killed() -> anyhow::Result<()> {
    let mut switch = Switch::open("probe-net-killed", 2)?;
    let peer = switch.peer(true, "packed=1")?;
    let mut round = 0;
    while round < KILLS {
        let before = round;
        let jobs = format!(
            "tcp mode=both streams=2 seconds={} ; pingpong count=200",
            STREAMS.0
        );
        let client = switch.guest(false, "pairs=2", &jobs)?;
        let mut client = client.start(&switch.logs, "client")?;
        client.console.expect("\"kind\":\"connected\"", START)?;
        let start = Instant::now();
        while round < KILLS {
            std::thread::sleep(Duration::from_millis(300 + 170 * round));
            if start.elapsed() > STREAMS.1 {
                break;
            }
            switch.daemon.kill()?;
            std::thread::sleep(Duration::from_millis(40 * round));
            switch.daemon.restart()?;
            // One pair is also what a card without a driver shows.
            process::wait_until("the pairs that the guests chose", START, || {
                let pairs = switch.daemon.active_pairs();
                Ok(pairs.is_ok_and(|pairs| pairs == [1, 2]) || !client.running())
            })?;
            round += 1;
        }
        ensure!(
            round > before,
            "The streams ended before the daemon was killed"
        );
        let lines = client.finish(LIMIT)?;
        host_os::say!("{}", said(&lines, "tcp", 0)?);
    }
    let last = switch.client(false, "", "ping count=1")?;
    last.run(&switch.logs, "last", LIMIT)?;
    let peer = peer.finish(LIMIT)?;
    ensure!(said(&peer, "peer", 0)?["good"] == true, "{peer:?}");
    for line in peer.iter().filter(|line| line["kind"] == "served").take(2) {
        ensure!(
            number(line, "received")? > LITTLE,
            "hardly any bytes: {line}"
        );
    }
    switch.daemon.stop()
}

/// The operator takes the cable out and puts it in.
pub fn link() -> anyhow::Result<()> {
    let mut switch = Switch::open("probe-net-link", 1)?;
    let vm = Vm::networked("netinfo watch=2", &switch.net(0, false))?;
    let mut guest = vm.start(&switch.logs, "guest")?;
    let line = guest.console.expect("\"kind\":\"netinfo\"", START)?;
    ensure!(line.contains("\"link_up\":true"), "{line}");
    for (word, truth) in [("down", "false"), ("up", "true")] {
        let set = json!({ "command": "set", "device": "net0", "set": { "link": word } });
        switch.daemon.control(&set)?;
        let line = guest.console.expect("\"kind\":\"link\"", START)?;
        ensure!(
            line.contains(&format!("\"link_up\":{truth}")),
            "{word}: {line}"
        );
    }
    guest.finish(LIMIT)?;
    switch.daemon.stop()
}

/// A network of the host with a peer in it.
struct Host {
    namespace: Namespace,
    peer: Process,
    folder: TempDir,
    logs: PathBuf,
}

impl Host {
    fn open(
        name: &str,
        address: &str,
        prepare: impl Fn(&Namespace) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        vm::kvm()?;
        let (namespace, logs) = (Namespace::new()?, paths::logs(name)?);
        prepare(&namespace)?;
        let mut command = process::behind(namespace.prefix(), &binaries::net_peer()?);
        let log = process::log_file(&logs.join("net-peer.log"), "serve")?;
        command
            .args(["serve", address])
            .stdout(log.try_clone()?)
            .stderr(log);
        let peer = Process::start("net-peer", command)?;
        process::wait_until("the peer", START, || {
            let log = std::fs::read_to_string(logs.join("net-peer.log"))?;
            Ok(log.contains("ready"))
        })?;
        Ok(Self {
            namespace,
            peer,
            folder: tempfile::tempdir()?,
            logs,
        })
    }

    fn daemon(&self, port: &Port) -> anyhow::Result<Daemon> {
        let port = std::slice::from_ref(port);
        Daemon::network(
            self.namespace.prefix(),
            self.folder.path(),
            &self.logs,
            port,
        )
    }

    /// The peer has compared all that it got.
    fn close(mut self) -> anyhow::Result<()> {
        let status = self.peer.wait(LIMIT)?;
        ensure!(
            status.success(),
            "the host's peer ended with {status}; see net-peer.log"
        );
        Ok(())
    }
}

const HOST_JOBS: &str = "least=65537 seconds=1 ping count=100 ; udp ; tcp mode=send ; tcp mode=receive ; tcp mode=both streams=2 ; tcp mode=quit";

fn told(lines: &[Value], streams: usize) -> anyhow::Result<()> {
    let streams = (0..streams).map(|nth| ("tcp", nth));
    for (kind, nth) in [("ping", 0), ("udp", 0)].into_iter().chain(streams) {
        let line = said(lines, kind, nth)?;
        host_os::say!("{line}");
    }
    Ok(())
}

pub fn tap() -> anyhow::Result<()> {
    let host = Host::open("probe-net-tap", PEER, |namespace| {
        namespace.tap(&Tap {
            name: "vmtap0",
            address: &format!("{PEER}/24"),
            mtu: 1500,
            pairs: 1,
            owner: None,
        })
    })?;
    let mut daemon = host.daemon(&Port::new("net0", "tap:vmtap0"))?;
    let net = format!("socket={}", daemon.socket());
    for (name, common) in [
        ("offloads", ""),
        ("plain", "csum=0 tso=0 guest_csum=0 guest_tso=0 mrg=0"),
    ] {
        let words = format!(
            "wait=irq address={OWN} peer={PEER} {common} {}",
            match name {
                "plain" => HOST_JOBS,
                // The peer stays.
                _ => HOST_JOBS.trim_end_matches("; tcp mode=quit"),
            }
        );
        told(
            &Vm::networked(&words, &net)?.run(&host.logs, name, LIMIT)?,
            3,
        )?;
    }
    host.close()?;
    daemon.stop()
}

fn total(lines: &[Value], key: &str) -> u64 {
    lines.iter().filter_map(|line| line[key].as_u64()).sum()
}

pub fn passt() -> anyhow::Result<()> {
    vm::tool("passt", "passt")?;
    let host = Host::open("probe-net-passt", "127.0.0.1", |namespace| {
        namespace.uplink("up0", "192.0.2.2/24", "192.0.2.1")?;
        namespace.set("net/ipv4/ping_group_range", "0 2147483647")
    })?;
    let mut daemon = host.daemon(&Port::new("net0", "passt"))?;
    let net = format!("socket={}", daemon.socket());
    // With amounts the guest does not end its direction while the host sends, nor before the host has all: passt of 2023
    // gives wrong bytes then, cuts streams short, or hangs (host-backends/README.md).
    let jobs = HOST_JOBS
        .replace("mode=send", "mode=send amount=1k")
        .replace("mode=receive", "mode=receive amount=64M")
        .replace("mode=both", "mode=both amount=64M");
    let words = format!("wait=irq address=dhcp peer=192.0.2.1 {jobs}");
    let lines = Vm::networked(&words, &net)?.run(&host.logs, "guest", LIMIT)?;
    ensure!(
        said(&lines, "lease", 0)?["address"] == "192.0.2.2/24",
        "{lines:?}"
    );
    told(&lines, 3)?;
    let log = host.logs.join("net-peer.log");
    host.close()?;
    // A stream that passt cuts short ends like any other.
    let log = std::fs::read_to_string(log)?;
    let served: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let (sent, received) = (total(&lines, "sent_in_all"), total(&served, "received"));
    ensure!(sent > LITTLE && sent == received, "{lines:?} {served:?}");
    daemon.stop()
}
