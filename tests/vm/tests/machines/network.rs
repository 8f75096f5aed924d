//! An unmodified Debian cloud kernel under QEMU (TCG), its network served by our daemon.
//!
//! One rule: every network is made by the test, in a namespace that ends with it; payloads are
//! compared by checksum on both sides. `PARAVANE_NET_PEER=qemu` puts QEMU's own back ends in the
//! daemon's place, to tell a fault of the scenario from one of ours.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::ensure;
use tempfile::TempDir;
use vm::daemon::Daemon;
use vm::daemon::Port;
use vm::debian;
use vm::kernel::NET_MODULES;
use vm::netns::Namespace;
use vm::netns::Tap;
use vm::paths;
use vm::process;
use vm::process::Process;
use vm::qemu::Machine;
use vm::qemu::Netdev;
use vm::qemu::Nic;
use vm::qemu::Running;
use vm::qmp;
use vm::tree;

/// Booting without hardware help on a busy computer.
const BOOT: Duration = Duration::from_secs(600);
/// One step of a scenario.
const STEP: Duration = Duration::from_secs(300);

const HOST: &str = "10.77.0.1";
const GUEST: &str = "10.77.0.2";
const PREFIX: &str = "/24";
/// Bytes of the file that the host serves.
const FILE: usize = 16 << 20;

/// What the tests have in common: a namespace, folders, servers on the host's side.
struct Scene {
    folder: TempDir,
    logs: PathBuf,
    host: Namespace,
    servers: Vec<Process>,
    daemon: Option<Daemon>,
}

/// Whether QEMU's own back ends take the daemon's place.
fn without_daemon() -> bool {
    std::env::var("PARAVANE_NET_PEER").is_ok_and(|who| who == "qemu")
}

impl Scene {
    fn open(name: &str) -> anyhow::Result<Self> {
        vm::tool("qemu-system-x86_64", "qemu-system-x86")?;
        Ok(Self {
            folder: tempfile::tempdir()?,
            logs: paths::logs(name)?,
            host: Namespace::new()?,
            servers: Vec::new(),
            daemon: None,
        })
    }

    /// Starts the daemon, or with QEMU's own back end gives that.
    fn connect(&mut self, ports: &[Port], own: &[&str]) -> anyhow::Result<Vec<Netdev>> {
        if without_daemon() {
            return Ok(own
                .iter()
                .map(|words| Netdev::Own((*words).into()))
                .collect());
        }
        let daemon = Daemon::network(self.host.prefix(), self.folder.path(), &self.logs, ports)?;
        let sockets = daemon.sockets().to_vec();
        self.daemon = Some(daemon);
        Ok(sockets.into_iter().map(Netdev::VhostUser).collect())
    }

    /// A file to fetch and iperf3, on the host's side.
    fn serve(&mut self) -> anyhow::Result<()> {
        let folder = self.folder.path().join("served");
        std::fs::create_dir(&folder)?;
        let data: Vec<u8> = (0..FILE as u64)
            .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 37) as u8)
            .collect();
        std::fs::write(folder.join("data"), data)?;
        let sum = process::run(
            std::process::Command::new("sh")
                .args(["-c", "sha256sum < data > sum"])
                .current_dir(&folder),
        );
        sum?;
        let folder = folder.display().to_string();
        let busybox = ("busybox", "busybox-static");
        let httpd = ["httpd", "-f", "-p", "8080", "-h", &folder];
        let iperf = ["-s", "--forceflush"];
        self.servers
            .push(self.host.serve(busybox, &httpd, &self.logs)?);
        self.servers
            .push(self.host.serve(("iperf3", "iperf3"), &iperf, &self.logs)?);
        Ok(())
    }

    /// The host fetches the guest's file and compares.
    fn fetch(&self, guest: &str) -> anyhow::Result<()> {
        let busybox = vm::tool("busybox", "busybox-static")?;
        let script = format!(
            "set -e; a=$(timeout 60 {busybox} wget -q -O - http://{guest}:8080/data | sha256sum); \
             b=$(timeout 60 {busybox} wget -q -O - http://{guest}:8080/sum); [ \"$a\" = \"$b\" ]"
        );
        let mut command = self.host.command("sh", "dash")?;
        process::run(command.args(["-c", &script]))
            .map(drop)
            .context("The guest's file did not arrive as it was sent")
    }

    fn boot(&self, name: &str, guest: &Guest<'_>) -> anyhow::Result<Running> {
        let kernel = debian::cloud_kernel()?;
        let land = debian::network_land()?;
        let initramfs = self.folder.path().join(format!("{name}.cpio"));
        let scenario = format!(
            "{}{}",
            include_str!("../../guest/net-words.sh"),
            guest.scenario
        );
        tree::initramfs(&initramfs, &kernel, NET_MODULES, Some(&land), &scenario)?;
        let mut machine = Machine::debian(&kernel.vmlinux, &initramfs);
        machine.cpus = 2;
        machine.words = guest.words.clone();
        machine.nics.push(guest.nic.clone());
        machine.commands = Some(self.commands(name));
        // QEMU's own back ends are where the test's network is.
        machine.prefix = match guest.nic.netdev {
            Netdev::Own(_) => self.host.prefix().to_vec(),
            Netdev::VhostUser(_) => Vec::new(),
        };
        let logs = self.logs.join(name);
        std::fs::create_dir_all(&logs)?;
        machine.start(&logs)
    }

    fn commands(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.qmp"))
    }

    /// The daemon dies some times under traffic.
    fn kill(&mut self, rounds: u32) -> anyhow::Result<()> {
        for round in 0..rounds {
            std::thread::sleep(Duration::from_millis(1400 + 130 * u64::from(round)));
            if let Some(daemon) = &mut self.daemon {
                daemon.kill()?;
                std::thread::sleep(Duration::from_millis(100 * u64::from(round)));
                daemon.restart()?;
            }
        }
        // QEMU looks for the socket once a second.
        std::thread::sleep(Duration::from_millis(1500));
        Ok(())
    }

    /// Queue pairs in use on each card of the daemon.
    fn active_pairs(&self) -> anyhow::Result<Vec<u64>> {
        let pairs = self.daemon.as_ref().map(Daemon::active_pairs);
        pairs.unwrap_or_else(|| Ok(Vec::new()))
    }

    fn close(mut self) -> anyhow::Result<()> {
        self.servers.clear();
        match self.daemon.take() {
            Some(mut daemon) => daemon.stop(),
            None => Ok(()),
        }
    }
}

/// One guest: what it does, with which words and card.
struct Guest<'a> {
    scenario: &'a str,
    words: String,
    nic: Nic,
}

/// The guest that tries everything.
fn client(netdev: Netdev, pairs: u16, words: &str, properties: &str) -> Guest<'static> {
    Guest {
        scenario: include_str!("../../guest/net-client.sh"),
        words: words.to_string(),
        nic: Nic {
            netdev,
            pairs,
            properties: format!(",mac=52:54:00:77:00:02{properties}"),
        },
    }
}

/// Answers the client's questions up to its end.
fn converse(
    scene: &mut Scene,
    guest: &mut Running,
    steps: &[&str],
    host_fetches: bool,
) -> anyhow::Result<()> {
    let fetched = |scene: &Scene| {
        if host_fetches {
            scene.fetch(GUEST)
        } else {
            Ok(())
        }
    };
    guest.console.expect("@@ fetched", STEP)?;
    fetched(scene)?;
    guest.console.answer("go")?;
    for step in steps {
        match *step {
            "offloads" => {
                guest.console.expect("@@ plain", STEP)?;
                fetched(scene)?;
                guest.console.answer("go")?;
            }
            "link" => {
                let commands = scene.commands("client");
                guest.console.expect("@@ cable out", STEP)?;
                qmp::set_link(&commands, "nic0", false)?;
                guest.console.answer("go")?;
                guest.console.expect("@@ cable in", STEP)?;
                qmp::set_link(&commands, "nic0", true)?;
                guest.console.answer("go")?;
            }
            "kill" => {
                guest.console.expect("@@ killing", STEP)?;
                let pairs = scene.active_pairs()?;
                scene.kill(4)?;
                guest.console.answer("go")?;
                guest.console.expect("@@ survived", STEP)?;
                guest.console.expect("@@ survived", STEP)?;
                fetched(scene)?;
                // QEMU keeps the control queue, and tells the next daemon which rings its guest uses.
                let after = scene.active_pairs()?;
                ensure!(after == pairs, "{pairs:?} pairs became {after:?}");
                guest.console.answer("go")?;
            }
            _ => {}
        }
    }
    guest.console.expect("@@ complete", STEP)?;
    guest.power_off(STEP)
}

/// A guest on a TAP; the host's end has the other address.
fn on_tap(
    name: &str,
    (pairs, mtu): (u16, u16),
    steps: &[&str],
    (keys, properties): (&[&str], &str),
) -> anyhow::Result<String> {
    let mut scene = Scene::open(name)?;
    scene.host.tap(&Tap {
        name: "vmtap0",
        address: &format!("{HOST}{PREFIX}"),
        mtu,
        pairs,
        owner: None,
    })?;
    scene.serve()?;
    let port = Port {
        pairs,
        more: keys.iter().map(ToString::to_string).collect(),
        ..Port::new("net0", "tap:vmtap0")
    };
    let own = format!("tap,ifname=vmtap0,script=no,downscript=no,queues={pairs}");
    let netdev = scene.connect(&[port], &[&own])?.remove(0);
    let words = format!(
        "own={GUEST}{PREFIX} peer={HOST} mtu={mtu} steps={}",
        steps.join(",")
    );
    let mut guest = scene.boot("client", &client(netdev, pairs, &words, properties))?;
    guest.console.expect("@@ up", BOOT)?;
    let said = guest.console.expect("@@ nic", BOOT)?;
    guest.console.expect("@@ ready", STEP)?;
    guest.console.answer("go")?;
    converse(&mut scene, &mut guest, steps, true)?;
    scene.close()?;
    Ok(said)
}

/// Feature bits as sysfs shows them, bit 0 first.
fn has_feature(said: &str, bit: usize) -> anyhow::Result<bool> {
    let features = said.split("features ").nth(1).context("No features")?;
    Ok(features.as_bytes().get(bit) == Some(&b'1'))
}

pub fn tap() -> anyhow::Result<()> {
    let steps = ["bulk", "offloads", "queues", "link", "kill"];
    let said = on_tap("net-tap", (2, 1500), &steps, (&[], ""))?;
    ensure!(said.contains("queues 2"), "the guest sees: {said}");
    // CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF, MQ.
    for bit in [0, 1, 7, 11, 15, 22] {
        ensure!(has_feature(&said, bit)?, "feature {bit} is missing: {said}");
    }
    Ok(())
}

pub fn packed_jumbo() -> anyhow::Result<()> {
    let mtu: &[&str] = &["mtu = 9000"];
    // No kill: QEMU keeps no in-flight record for network cards, and where a packed ring stands is written nowhere else.
    let said = on_tap(
        "net-jumbo",
        (1, 9000),
        &["bulk"],
        (mtu, ",packed=on,host_mtu=9000"),
    )?;
    ensure!(said.contains("mtu 9000"), "the guest sees: {said}");
    ensure!(has_feature(&said, 34)?, "no packed ring: {said}");
    Ok(())
}

pub fn plain() -> anyhow::Result<()> {
    let off = ",csum=off,guest_csum=off,gso=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,\
        guest_ufo=off,host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off,mrg_rxbuf=off";
    let said = on_tap("net-plain", (1, 1500), &["bulk", "kill"], (&[], off))?;
    for bit in [0, 1, 7, 11, 15] {
        ensure!(!has_feature(&said, bit)?, "feature {bit} is on: {said}");
    }
    Ok(())
}

/// A legacy card without mergeable buffers, whose header has 10 bytes.
pub fn legacy() -> anyhow::Result<()> {
    let old = ",disable-modern=on,mrg_rxbuf=off";
    let said = on_tap("net-legacy", (1, 1500), &["bulk"], (&[], old))?;
    for bit in [15, 32] {
        ensure!(!has_feature(&said, bit)?, "feature {bit} is on: {said}");
    }
    ensure!(has_feature(&said, 11)?, "no offloads: {said}");
    Ok(())
}

/// Two guests on one switch of one daemon.
pub fn switch() -> anyhow::Result<()> {
    let mut scene = Scene::open("net-switch")?;
    let ports = ["net0", "net1"].map(|name| Port {
        pairs: 2,
        more: vec!["mtu = 9000".into()],
        ..Port::new(name, "switch:lan")
    });
    let path = scene.folder.path().join("wire").display().to_string();
    let listen = format!("stream,server=on,addr.type=unix,addr.path={path}");
    let dial = format!("stream,server=off,addr.type=unix,addr.path={path}");
    let mut netdevs = scene.connect(&ports, &[&listen, &dial])?;
    let pairs = if without_daemon() { 1 } else { 2 };
    let (second, first) = (netdevs.pop(), netdevs.pop());
    let mtu = if without_daemon() {
        ""
    } else {
        ",host_mtu=9000"
    };
    let server = Guest {
        scenario: include_str!("../../guest/net-serve.sh"),
        words: format!("own={HOST}{PREFIX} mtu=9000"),
        nic: Nic {
            netdev: first.context("No first port")?,
            pairs,
            properties: format!(",mac=52:54:00:77:00:01{mtu}"),
        },
    };
    let mut server = scene.boot("server", &server)?;
    server.console.expect("@@ up", BOOT)?;
    let steps = ["bulk", "offloads", "link", "kill"];
    let words = format!(
        "own={GUEST}{PREFIX} peer={HOST} mtu=9000 steps={}",
        steps.join(",")
    );
    let second = second.context("No second port")?;
    let mut guest = scene.boot("client", &client(second, pairs, &words, mtu))?;
    guest.console.expect("@@ up", BOOT)?;
    server.console.expect("@@ serving", STEP)?;
    guest.console.expect("@@ ready", STEP)?;
    guest.console.answer("go")?;
    converse(&mut scene, &mut guest, &steps, false)?;
    server.console.answer("go")?;
    server.console.expect("@@ complete", STEP)?;
    server.power_off(STEP)?;
    scene.close()
}

/// DHCP and the host's services through passt, without any privilege.
pub fn passt() -> anyhow::Result<()> {
    vm::tool("passt", "passt")?;
    let mut scene = Scene::open("net-passt")?;
    scene.host.uplink("up0", "192.0.2.2/24", "192.0.2.1")?;
    scene
        .host
        .set("net/ipv4/ping_group_range", "0 2147483647")?;
    scene.serve()?;
    let socket = scene.folder.path().join("passt.sock");
    let own = format!(
        "stream,server=off,addr.type=unix,addr.path={}",
        socket.display()
    );
    let stand_in = stand_in_passt(&scene, &socket)?;
    let netdev = scene
        .connect(&[Port::new("net0", "passt")], &[&own])?
        .remove(0);
    let steps = ["bulk", "offloads"];
    let words = format!("own=dhcp peer=192.0.2.1 steps={}", steps.join(","));
    let mut guest = scene.boot("client", &client(netdev, 1, &words, ""))?;
    guest.console.expect("@@ up", BOOT)?;
    let said = guest.console.expect("@@ lease", BOOT)?;
    ensure!(
        said.contains("lease 192.0.2.2/24 router 192.0.2.1"),
        "the guest got: {said}"
    );
    guest.console.expect("@@ ready", STEP)?;
    guest.console.answer("go")?;
    converse(&mut scene, &mut guest, &steps, false)?;
    drop(stand_in);
    scene.close()
}

/// Without our daemon the test starts passt itself.
fn stand_in_passt(scene: &Scene, socket: &Path) -> anyhow::Result<Option<Process>> {
    if !without_daemon() {
        return Ok(None);
    }
    let path = socket.display().to_string();
    let words = ["--foreground", "--socket", &path, "--runas", "0"];
    let server = scene.host.serve(("passt", "passt"), &words, &scene.logs)?;
    process::wait_until("passt's socket", BOOT, || Ok(socket.exists()))?;
    Ok(Some(server))
}
