//! What happens to a machine while its devices are busy: pauses, more memory, resets, a move to another
//! machine, and daemons that die meanwhile. Under QEMU (TCG), Debian's own and a newer one.
//!
//! One rule: the guest knows what every block must hold and says so with each word; after each event
//! every kind of request must be seen to complete again, and at the end the image is what the guest reads.

use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;
use vm::daemon::Daemon;
use vm::daemon::Port;
use vm::debian;
use vm::disk_load;
use vm::disk_load::BLOCK;
use vm::disk_load::KINDS;
use vm::image;
use vm::image::MIB;
use vm::kernel::DISK_MODULES;
use vm::kernel::NET_MODULES;
use vm::netns::Namespace;
use vm::newer_qemu;
use vm::paths;
use vm::process;
use vm::qemu::Machine;
use vm::qemu::Netdev;
use vm::qemu::Nic;
use vm::qemu::Running;
use vm::qmp;
use vm::tree;

/// Booting without hardware help on a busy computer.
const BOOT: Duration = Duration::from_secs(600);
/// One event, and I/O after it.
const STEP: Duration = Duration::from_secs(120);

/// Blocks of the disk: the load's parts in `guest/life.sh`.
const BLOCKS: u64 = 4096;
const HOST: &str = "10.77.0.1";
const GUEST: &str = "10.77.0.2";
/// How often each kind of request must complete after an event: more than were under way at it.
const AGAIN: u64 = 12;
/// Bytes a second of a move that does not end.
const SLOW: u64 = 2 << 20;

/// What differs between the machines.
struct Kind {
    /// Another QEMU than Debian's own.
    program: Option<PathBuf>,
    /// Properties of the disk at QEMU.
    device: &'static str,
    /// Arguments of its daemon.
    daemon: Vec<&'static str>,
}

impl Kind {
    /// Debian's QEMU; split rings, and what the host caches is served at once.
    fn installed() -> Self {
        Self {
            program: None,
            device: ",num-queues=2",
            daemon: vec!["--num-queues", "2"],
        }
    }

    /// A newer QEMU; packed rings, and every request goes to the medium.
    fn newer() -> anyhow::Result<Self> {
        Ok(Self {
            program: Some(newer_qemu::program()?),
            device: ",num-queues=2,packed=on",
            daemon: vec!["--num-queues", "2", "--cache", "none"],
        })
    }

    fn is_newer(&self) -> bool {
        self.program.is_some()
    }
}

/// The image, the network, and what guests boot from.
struct Scene {
    kind: Kind,
    folder: TempDir,
    /// Beside the build: on a file system of a disk, where the engine is io_uring.
    disk: TempDir,
    logs: PathBuf,
    host: Namespace,
    machine: Machine,
    /// Whether guests have a balloon; then they cannot move.
    balloon: bool,
    places: u32,
}

/// One QEMU with daemons of its own.
struct Place {
    blockd: Daemon,
    netd: Daemon,
    /// Only where QEMU has a device for it.
    balloond: Option<Daemon>,
    guest: Running,
    commands: PathBuf,
    incoming: Option<PathBuf>,
}

impl Scene {
    fn open(name: &str, kind: Kind) -> anyhow::Result<Self> {
        vm::tool("qemu-system-x86_64", "qemu-system-x86")?;
        let kernel = debian::cloud_kernel()?;
        let (folder, disk) = (tempfile::tempdir()?, tempfile::tempdir_in(paths::target())?);
        image::empty(&disk.path().join("disk.img"), BLOCKS * BLOCK as u64)?;
        let root = folder.path().join("root");
        tree::bare(&root, &[&vm::binaries::disk_load()?])?;
        let initramfs = folder.path().join("initramfs");
        let modules = [DISK_MODULES, &NET_MODULES[5..], &["virtio_balloon"]].concat();
        let scenario = include_str!("../../guest/life.sh");
        tree::initramfs(&initramfs, &kernel, &modules, Some(&root), scenario)?;
        let host = Namespace::new()?;
        host.ip("link add br0 type bridge")?;
        host.ip(&format!("addr add {HOST}/24 dev br0"))?;
        host.ip("link set br0 up")?;
        let mut machine = Machine::debian(&kernel.vmlinux, &initramfs);
        machine.cpus = 2;
        machine.words = format!("own={GUEST}/24 peer={HOST} memhp_default_state=online_movable");
        machine.program.clone_from(&kind.program);
        machine.memory_mib = 384;
        machine.spare_mib = 512;
        machine.reboots = true;
        Ok(Self {
            kind,
            folder,
            disk,
            logs: paths::logs(name)?,
            host,
            machine,
            balloon: false,
            places: 0,
        })
    }

    fn image(&self) -> PathBuf {
        self.disk.path().join("disk.img")
    }

    /// Another QEMU with another block and network daemon, on the same image and the same network.
    fn place(&mut self, waits: bool) -> anyhow::Result<Place> {
        let number = self.places;
        self.places += 1;
        let folder = self.folder.path().join(number.to_string());
        let logs = self.logs.join(number.to_string());
        std::fs::create_dir_all(&folder)?;
        std::fs::create_dir_all(&logs)?;
        let tap = format!("vmtap{number}");
        self.host
            .ip(&format!("tuntap add dev {tap} mode tap vnet_hdr"))?;
        self.host.ip(&format!("link set {tap} master br0 up"))?;
        let blockd = Daemon::start(&folder, &logs, &self.image(), &self.kind.daemon)?;
        let port = Port::new("net0", &format!("tap:{tap}"));
        let netd = Daemon::network(self.host.prefix(), &folder, &logs, &[port])?;
        let commands = folder.join("qmp");
        let incoming = waits.then(|| folder.join("incoming"));
        let mut machine = self.machine.clone();
        let device = self.kind.device.to_string();
        machine.vhost_user.push((blockd.socket().into(), device));
        machine.nics.push(Nic {
            netdev: Netdev::VhostUser(netd.socket().into()),
            pairs: 1,
            properties: ",mac=52:54:00:77:00:02".into(),
        });
        let balloond = if self.balloon {
            let policy = "policy = \"manual\"";
            Some(Daemon::balloons(&folder, &logs, &[("vm", policy)], "")?)
        } else {
            None
        };
        machine.balloon = balloond.as_ref().map(|daemon| daemon.socket().into());
        machine.commands = Some(commands.clone());
        machine.incoming.clone_from(&incoming);
        let guest = machine.start(&logs)?;
        if let Some(socket) = &incoming {
            process::wait_until("a QEMU that waits", STEP, || Ok(socket.exists()))?;
        }
        Ok(Place {
            blockd,
            netd,
            balloond,
            guest,
            commands,
            incoming,
        })
    }

    /// A guest with everything under way, on the engine that the daemon chose itself.
    fn boot(&mut self) -> anyhow::Result<Place> {
        let mut place = self.place(false)?;
        place.guest.console.expect("@@ up", BOOT)?;
        place.guest.console.expect("@@ living", BOOT)?;
        let status = place.blockd.control(&json!({ "command": "status" }))?;
        let engine = status["ok"]["devices"][0]["device"]["engine"].clone();
        if engine != "uring" {
            return Err(vm::skip(format!("the engine here is {engine}")));
        }
        place.goes_on("the boot")?;
        Ok(place)
    }

    /// The guest reads everything again, powers off, and the image is what it read.
    fn close(self, mut place: Place) -> anyhow::Result<()> {
        let console = &mut place.guest.console;
        console.answer("finish")?;
        console.expect("@@ verified main", STEP)?;
        let said = console.expect("@@ digest", STEP)?;
        console.expect("@@ complete", STEP)?;
        place.guest.power_off(STEP)?;
        let digest = format!("@@ digest {:016x}", disk_load::digest(&self.image())?);
        ensure!(said == digest, "the guest says {said}, the image {digest}");
        place.blockd.stop()?;
        place.netd.stop()?;
        place.balloond.as_mut().map_or(Ok(()), Daemon::stop)
    }
}

/// What a guest says of its load: the counters in their order, then the beacons.
fn counters(line: &str) -> Option<Vec<u64>> {
    let number = |name: &str| {
        let mut words = line.split(' ');
        let word = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
        word.parse().ok()
    };
    KINDS.into_iter().chain(["beacons"]).map(number).collect()
}

impl Place {
    /// The next word about the load; half lines, which a move leaves, are passed over.
    fn counters(&mut self) -> anyhow::Result<Vec<u64>> {
        loop {
            let line = self.guest.console.expect("@@ io main", STEP)?;
            if let Some(counters) = counters(&line) {
                return Ok(counters);
            }
        }
    }

    /// Waits until requests of every kind, and echoes, have completed after `event`.
    fn goes_on(&mut self, event: &str) -> anyhow::Result<()> {
        self.guest.console.catch_up()?;
        let before = self.counters().with_context(|| format!("After {event}"))?;
        let end = Instant::now() + STEP;
        loop {
            let now = self.counters().with_context(|| format!("After {event}"))?;
            if now
                .iter()
                .zip(&before)
                .all(|(now, then)| *now >= then + AGAIN)
            {
                break;
            }
            if Instant::now() > end {
                let status = self.blockd.control(&json!({ "command": "status" }))?;
                bail!(
                    "After {event} the disk stands still: {KINDS:?} {before:?}, then {now:?}; {status}"
                );
            }
        }
        for _ in 0..3 {
            let echo = self.guest.console.expect("@@ net echoes", STEP);
            echo.with_context(|| format!("After {event} the network stands still"))?;
        }
        Ok(())
    }

    fn run(&self, on: bool) -> anyhow::Result<()> {
        qmp::run(&self.commands, on)
    }

    /// The machine stops and goes on some times.
    fn pauses(&self, count: u32) -> anyhow::Result<()> {
        for _ in 0..count {
            self.run(false)?;
            self.run(true)?;
        }
        Ok(())
    }

    /// The guest gives up this much memory, or takes back what is more.
    fn balloon(&self, mib: u64) -> anyhow::Result<()> {
        let Some(daemon) = &self.balloond else {
            return Ok(());
        };
        let target = json!({ "target": mib * MIB });
        daemon.control(&json!({ "command": "set", "device": "vm", "set": target }))?;
        process::wait_until("the balloon's size", STEP, || {
            let status = daemon.control(&json!({ "command": "status" }))?;
            let balloon = &status["ok"]["devices"][0]["device"];
            Ok(
                [&balloon["actual"], &balloon["ballooned"]].map(Value::as_u64)
                    == [Some(mib * MIB); 2],
            )
        })
    }

    /// The block daemon dies and is started again; returns when QEMU is back at its socket.
    fn kill_blockd(&mut self) -> anyhow::Result<()> {
        self.blockd.kill()?;
        self.blockd.restart()?;
        process::wait_until("QEMU is back", STEP, || {
            let status = self.blockd.control(&json!({ "command": "status" }))?;
            Ok(status["ok"]["devices"][0]["connected"] == true)
        })
    }

    /// Resets the machine: what the guest was told is written must be there when it comes back.
    fn reset(&mut self) -> anyhow::Result<()> {
        let before = self.counters()?;
        qmp::execute(&self.commands, "system_reset", &json!({}))?;
        let said = self.guest.console.expect("@@ found main", BOOT)?;
        let found = counters(&said).context("No counters")?;
        ensure!(
            found.last() >= before.last(),
            "acknowledged writes were lost by the reset: {before:?} became {found:?}"
        );
        self.goes_on("a reset")
    }

    /// Waits until the move is as `wanted`.
    fn moves(&self, wanted: &str, is: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
        process::wait_until(wanted, STEP, || {
            let state = qmp::migration(&self.commands)?;
            ensure!(
                state["status"] != "failed" || wanted == "failed",
                "The move failed: {state}"
            );
            Ok(is(&state))
        })
    }

    /// Starts a move that does not end by itself, and sees the guest go on meanwhile.
    fn move_slowly(&mut self, to: &Place) -> anyhow::Result<()> {
        let socket = to.incoming.as_ref().context("Nobody waits there")?;
        qmp::migrate(&self.commands, socket, SLOW)?;
        self.moves("a move under way", |state| {
            state["ram"]["transferred"].as_u64() > Some(SLOW)
        })?;
        self.goes_on("the start of a slow move")
    }

    fn give_up(&mut self) -> anyhow::Result<()> {
        qmp::execute(&self.commands, "migrate_cancel", &json!({}))?;
        self.moves("a cancelled move", |state| state["status"] == "cancelled")?;
        self.goes_on("a cancelled move")
    }

    /// Moves the guest; what is left here ends. Where `stands`, its processors stand meanwhile.
    fn move_to(mut self, mut to: Place, stands: bool) -> anyhow::Result<Place> {
        let socket = to.incoming.as_ref().context("Nobody waits there")?;
        if stands {
            self.run(false)?;
        }
        qmp::migrate(&self.commands, socket, 0)?;
        self.moves("the end of the move", |state| {
            state["status"] == "completed"
        })?;
        qmp::execute(&self.commands, "quit", &json!({}))?;
        self.guest.power_off(STEP)?;
        self.blockd.stop()?;
        self.netd.stop()?;
        if stands {
            to.run(true)?;
        }
        to.goes_on("the move")?;
        Ok(to)
    }
}

/// Memory comes and goes, the machine stops and goes on, it is reset; a daemon dies while it stands.
fn one_life(name: &str, kind: Kind) -> anyhow::Result<()> {
    let mut scene = Scene::open(name, kind)?;
    scene.balloon = scene.kind.is_newer();
    let mut place = scene.boot()?;
    place.balloon(64)?;
    place.pauses(if vm::long() { 300 } else { 20 })?;
    place.goes_on("many pauses")?;
    place.balloon(0)?;

    qmp::plug_memory(&place.commands, "module0", 256)?;
    place.goes_on("new memory")?;
    place.guest.console.answer("plugged")?;
    let said = place.guest.console.expect("@@ memory", STEP)?;
    host_os::say!("{name}: {said}");
    let said = place.guest.console.expect("@@ found extra", STEP)?;
    ensure!(
        !said.ends_with("plugged=0"),
        "no buffer is in the new memory: {said}"
    );
    place.goes_on("requests in new memory")?;
    place.balloon(96)?;
    place.pauses(5)?;
    place.goes_on("pauses with new memory")?;
    place.balloon(0)?;

    place.guest.console.answer("unload")?;
    place.guest.console.expect("@@ verified extra", STEP)?;
    place.guest.console.expect("@@ unloaded", STEP)?;
    qmp::unplug_memory(&place.commands, "module0", STEP)?;
    place.goes_on("memory that is gone")?;
    place.balloon(32)?;

    // QEMU 7.2 does not take the disk up again that came back while the processors stood.
    if scene.kind.is_newer() {
        place.run(false)?;
    }
    place.kill_blockd()?;
    place.run(true)?;
    place.goes_on("a daemon that died")?;

    for _ in 0..if vm::long() { 10 } else { 1 } {
        place.reset()?;
    }
    place.balloon(48)?;
    scene.close(place)
}

/// The machine moves to another with its disk and network, and on to a third; before that a move is
/// cancelled half-way, with a daemon that dies meanwhile.
fn one_move(name: &str, kind: Kind) -> anyhow::Result<()> {
    let mut scene = Scene::open(name, kind)?;
    let mut place = scene.boot()?;
    let there = scene.place(true)?;
    place.move_slowly(&there)?;
    place.kill_blockd()?;
    place.goes_on("a daemon that died during a move")?;
    place.give_up()?;
    drop(there);
    for _ in 0..if vm::long() { 12 } else { 2 } {
        let there = scene.place(true)?;
        // QEMU 7.2 without KVM loses writes of a running guest's processors on the way, with its own
        // devices too: the guest's kernel falls over. Later ones do not.
        let stands = !scene.kind.is_newer();
        place = place.move_to(there, stands)?;
    }
    place.pauses(3)?;
    place.goes_on("pauses after the moves")?;
    scene.close(place)
}

pub fn life() -> anyhow::Result<()> {
    one_life("life", Kind::installed())
}

pub fn moves() -> anyhow::Result<()> {
    one_move("move", Kind::installed())
}

pub fn newer_life() -> anyhow::Result<()> {
    one_life("life-newer", Kind::newer()?)
}

pub fn newer_moves() -> anyhow::Result<()> {
    one_move("move-newer", Kind::newer()?)
}
