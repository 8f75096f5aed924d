//! An unmodified Debian cloud kernel under QEMU (TCG), its disk served by our daemon.
//!
//! One rule: the guest checks what it sees, the host checks what the image shows; both must agree.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use anyhow::ensure;
use serde_json::json;
use tempfile::TempDir;
use vm::daemon::Daemon;
use vm::image;
use vm::image::MIB;
use vm::kernel::DISK_MODULES;
use vm::paths;
use vm::qemu::Machine;
use vm::qemu::Running;
use vm::tree;

/// Booting without hardware help on a busy computer.
const BOOT: Duration = Duration::from_secs(600);
/// One step of a scenario.
const STEP: Duration = Duration::from_secs(600);

/// Requests that tell a load at work from what was under way.
const LOAD: u64 = 32;

/// QEMU takes one queue for each processor unless told.
const ONE_QUEUE: &str = ",num-queues=1";

/// What the guest compares with the host's checksums.
const MANIFEST: [&str; 3] = ["usr/bin", "usr/sbin", "usr/lib/x86_64-linux-gnu"];

/// One guest with one disk.
struct Scene {
    folder: TempDir,
    daemon: Daemon,
    guest: Running,
}

impl Scene {
    /// Serves `image` with `daemon` arguments and boots `scenario` from an initramfs.
    fn open(
        name: &str,
        scenario: &str,
        with_tools: bool,
        daemon: &[&str],
        device: &str,
        prepare: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        vm::tool("qemu-system-x86_64", "qemu-system-x86")?;
        let kernel = vm::debian::cloud_kernel()?;
        let tools = if with_tools {
            Some(vm::debian::user_land()?)
        } else {
            None
        };
        let logs = paths::logs(name)?;
        let folder = tempfile::tempdir()?;
        let disk = folder.path().join("disk.img");
        prepare(&disk)?;
        let initramfs = folder.path().join("initramfs");
        tree::initramfs(
            &initramfs,
            &kernel,
            DISK_MODULES,
            tools.as_deref(),
            scenario,
        )?;
        let daemon = Daemon::start(folder.path(), &logs, &disk, daemon)?;
        let mut machine = Machine::debian(&kernel.vmlinux, &initramfs);
        machine
            .vhost_user
            .push((daemon.socket().to_string(), device.to_string()));
        let mut guest = machine.start(&logs)?;
        guest.console.expect("@@ up", BOOT)?;
        Ok(Self {
            folder,
            daemon,
            guest,
        })
    }

    fn disk(&self) -> std::path::PathBuf {
        self.folder.path().join("disk.img")
    }

    /// The guest writes and verifies while the daemon dies `rounds` times.
    fn kill_under_load(&mut self, rounds: u32) -> anyhow::Result<()> {
        self.guest.console.expect("@@ killing", STEP)?;
        for round in 0..rounds {
            // The load is at work again, and QEMU has set up the other queues too: 7.2 gives a disk up whose daemon dies
            // while QEMU greets it.
            self.daemon.completes(LOAD, STEP)?;
            std::thread::sleep(Duration::from_millis(1400 + 130 * u64::from(round)));
            self.daemon.kill()?;
            std::thread::sleep(Duration::from_millis(100 * u64::from(round)));
            self.daemon.restart()?;
        }
        self.daemon.completes(LOAD, STEP)?;
        self.guest.console.answer("go")
    }

    /// The scenario's last word, power off, and a daemon that ends well.
    fn close(mut self) -> anyhow::Result<TempDir> {
        self.guest.console.expect("@@ complete", STEP)?;
        self.guest.power_off(STEP)?;
        self.daemon.stop()?;
        Ok(self.folder)
    }
}

pub fn files() -> anyhow::Result<()> {
    let scenario = include_str!("../../guest/files.sh");
    let queues = ["--num-queues", "4"];
    let mut scene = Scene::open(
        "debian-files",
        scenario,
        true,
        &queues,
        ",num-queues=4",
        |disk| image::empty(disk, 192 * MIB),
    )?;
    let said = scene.guest.console.expect("@@ queues", BOOT)?;
    ensure!(
        said.contains(&format!("queues 4 size {}", 192 * MIB)),
        "the guest sees: {said}"
    );

    scene.guest.console.expect("@@ written", STEP)?;
    let before = image::allocated(&scene.disk())?;
    scene.guest.console.answer("go")?;
    scene.guest.console.expect("@@ trimmed", STEP)?;
    let after = image::allocated(&scene.disk())?;
    ensure!(
        after + 60 * MIB < before,
        "fstrim freed nothing on the host: {before} -> {after}"
    );
    scene.guest.console.answer("go")?;

    scene.guest.console.expect("@@ grow", STEP)?;
    image::resize(&scene.disk(), 320 * MIB)?;
    scene.daemon.control(&json!({ "command": "resize" }))?;
    scene.guest.console.answer("go")?;
    let said = scene.guest.console.expect("@@ grown", STEP)?;
    ensure!(
        said.contains(&(320 * MIB).to_string()),
        "the guest sees: {said}"
    );

    scene.kill_under_load(4)?;
    scene.guest.console.expect("@@ survived", STEP)?;
    let folder = scene.close()?;
    image::check_ext4(&folder.path().join("disk.img"))
}

pub fn packed() -> anyhow::Result<()> {
    let scenario = include_str!("../../guest/short.sh");
    let queues = ["--num-queues", "4"];
    let device = ",num-queues=4,packed=on";
    let mut scene = Scene::open("debian-packed", scenario, true, &queues, device, |disk| {
        image::empty(disk, 128 * MIB)
    })?;
    let said = scene.guest.console.expect("@@ queues", BOOT)?;
    let features = said.split("features ").nth(1).context("No features")?;
    // Feature bits as sysfs shows them, bit 0 first; bit 34 is RING_PACKED.
    ensure!(
        features.as_bytes().get(34) == Some(&b'1'),
        "No packed ring: {features}"
    );
    scene.kill_under_load(3)?;
    let folder = scene.close()?;
    image::check_ext4(&folder.path().join("disk.img"))
}

pub fn read_only() -> anyhow::Result<()> {
    let scenario = include_str!("../../guest/read-only.sh");
    let mut before = b"paravane-readonly".to_vec();
    before.resize(MIB as usize, 7);
    let content = before.clone();
    let scene = Scene::open(
        "debian-read-only",
        scenario,
        true,
        &["--readonly"],
        ONE_QUEUE,
        |disk| Ok(std::fs::write(disk, &content)?),
    )?;
    let folder = scene.close()?;
    ensure!(
        std::fs::read(folder.path().join("disk.img"))? == before,
        "the image changed"
    );
    Ok(())
}

pub fn root() -> anyhow::Result<()> {
    let scenario = include_str!("../../guest/to-root.sh");
    let tools = vm::debian::user_land()?;
    let mut scene = Scene::open("debian-root", scenario, false, &[], ONE_QUEUE, |disk| {
        let staging = tempfile::tempdir()?;
        let root = staging.path().join("root");
        tree::copy(&tools, &root)?;
        tree::script(&root.join("scenario"), include_str!("../../guest/root.sh"))?;
        if let Ok(fio) = vm::tool("fio", "fio") {
            tree::add_host_program(&root, Path::new(&fio))?;
        }
        std::fs::write(
            root.join("manifest"),
            tree::manifest(&root, &MANIFEST, 100_000)?,
        )?;
        image::ext4_from_tree(disk, &root, 640 * MIB)
    })?;
    let said = scene.guest.console.expect("@@ root", BOOT)?;
    ensure!(
        said.contains("root ext2/ext3 debian 1"),
        "the guest sees: {said}"
    );
    scene.kill_under_load(2)?;
    let folder = scene.close()?;
    image::check_ext4(&folder.path().join("disk.img"))
}
