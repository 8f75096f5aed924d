//! The same Debian kernel on our monitor and on another's, in the nested KVM of a QEMU without hardware help.
//!
//! One rule: the outer guest (L1) only starts our programs; the test is the inner guest (L2).

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::ensure;
use vm::binaries;
use vm::console::host_failed;
use vm::debian;
use vm::image;
use vm::image::MIB;
use vm::kernel::DISK_MODULES;
use vm::kernel::KVM_MODULES;
use vm::kernel::Kernel;
use vm::kernel::NET_MODULES;
use vm::paths;
use vm::qemu::Machine;
use vm::qemu::QUIET;
use vm::tree;

/// Booting without hardware help on a busy computer.
const BOOT: Duration = Duration::from_secs(600);
/// The monitor, from its guest's end to its own.
const END: Duration = Duration::from_secs(60);
/// The inner guest, from its first instruction to its end.
const INNER: Duration = Duration::from_secs(420);

/// Addresses of the outer and the inner guest.
const HOST: &str = "10.78.0.1";
const GUEST: &str = "10.78.0.2";

/// One vCPU, one queue.
pub fn debian() -> anyhow::Result<()> {
    on_a_host_that_runs("nested", |logs| nested(logs, "paravane", 1))
}

/// Two vCPUs, two queues.
pub fn two_processors() -> anyhow::Result<()> {
    on_a_host_that_runs("nested-smp", |logs| nested(logs, "paravane", 2))
}

/// The same disks, the front-end is not ours.
pub fn alioth() -> anyhow::Result<()> {
    vm::alioth::program()?;
    on_a_host_that_runs("nested-alioth", |logs| nested(logs, "alioth", 1))
}

/// Runs `test` again, twice at most, when the outer machine, which is not under test, failed: its
/// kernel reports a stall, or it resets. QEMU's emulation of SVM does that now and then. Any other
/// failure counts at once, and so does the third.
fn on_a_host_that_runs(
    name: &str,
    test: impl Fn(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    vm::tool("qemu-system-x86_64", "qemu-system-x86")?;
    for attempt in ["first", "second"] {
        let logs = paths::logs(&format!("{name}-{attempt}"))?;
        match test(&logs) {
            Err(error) if outer_failed(&logs, &error) => {
                host_os::say!("{name}: the emulated host itself failed, once more: {error:#}");
            }
            result => return result,
        }
    }
    test(&paths::logs(&format!("{name}-third"))?)
}

fn outer_failed(logs: &Path, error: &anyhow::Error) -> bool {
    let console = std::fs::read_to_string(logs.join("console.log")).unwrap_or_default();
    host_failed(&console, &error.to_string())
}

fn nested(logs: &Path, monitor: &str, cpus: u16) -> anyhow::Result<()> {
    let kernel = debian::cloud_kernel()?;
    let folder = tempfile::tempdir()?;
    let image = outer_image(folder.path(), &kernel, monitor, cpus)?;
    let initramfs = folder.path().join("outer.cpio");
    let modules = [DISK_MODULES, KVM_MODULES, &["tun"]].concat();
    let scenario = include_str!("../../guest/to-root.sh");
    tree::initramfs(&initramfs, &kernel, &modules, None, scenario)?;
    let mut machine = Machine::debian(&kernel.vmlinux, &initramfs);
    machine.cpu = "EPYC,+svm".into();
    machine.cpus = 1;
    machine.memory_mib = 1536;
    machine.snapshots.push(image);
    let mut outer = machine.start(logs)?;
    outer.console.expect("@@ up", BOOT)?;
    outer.console.expect("inner: @@ up", BOOT)?;
    let said = outer.console.expect("inner: @@ root", INNER)?;
    ensure!(
        said.contains("root ext2/ext3 debian 1"),
        "the inner guest sees: {said}"
    );
    ensure!(
        said.ends_with(&format!("cpus {cpus}")),
        "the inner guest sees: {said}"
    );
    outer.console.expect("inner: @@ inner complete", INNER)?;
    let said = outer.console.expect("@@ monitor ended", END)?;
    ensure!(said.ends_with("with 0"), "after a power-off: {said}");
    outer.console.expect("@@ outer complete", BOOT)?;
    outer.power_off(BOOT)
}

/// The probe guest on real virtualization hardware, as QEMU emulates it: the same image as on this machine's KVM.
pub fn probe() -> anyhow::Result<()> {
    on_a_host_that_runs("nested-probe", probe_once)
}

fn probe_once(logs: &Path) -> anyhow::Result<()> {
    let kernel = debian::cloud_kernel()?;
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("outer");
    tree::copy(&debian::user_land()?, &root)?;
    for program in [binaries::blockd()?, binaries::monitor()?] {
        let name = program.file_name().unwrap_or_default();
        std::fs::copy(&program, root.join("usr/bin").join(name))?;
    }
    std::fs::copy(binaries::probe_guest()?, root.join("probe-guest"))?;
    let scenario = include_str!("../../guest/outer-probe.sh");
    tree::script(&root.join("scenario"), scenario)?;
    std::fs::create_dir(root.join("disks"))?;
    image::empty(&root.join("disks/probe.img"), 16 * MIB)?;
    let image = folder.path().join("outer.img");
    image::ext4_from_tree(&image, &root, 500 * MIB)?;
    let initramfs = folder.path().join("outer.cpio");
    let modules = [DISK_MODULES, KVM_MODULES].concat();
    let to_root = include_str!("../../guest/to-root.sh");
    tree::initramfs(&initramfs, &kernel, &modules, None, to_root)?;
    let mut machine = Machine::debian(&kernel.vmlinux, &initramfs);
    machine.cpu = "EPYC,+svm".into();
    machine.cpus = 1;
    machine.memory_mib = 1024;
    machine.snapshots.push(image);
    let mut outer = machine.start(logs)?;
    outer.console.expect("@@ up", BOOT)?;
    for packed in ["split", "packed"] {
        let said = outer.console.expect("\"kind\":\"verify\"", INNER)?;
        ensure!(said.contains("\"good\":true"), "{packed} rings: {said}");
    }
    let said = outer.console.expect("@@ monitor ended", END)?;
    ensure!(said.ends_with("with 0"), "the probe guest: {said}");
    outer.console.expect("@@ outer complete", BOOT)?;
    outer.power_off(BOOT)
}

/// Debian's own balloon driver against our daemon.
pub fn balloon() -> anyhow::Result<()> {
    on_a_host_that_runs("nested-balloon", balloon_once)
}

fn balloon_once(logs: &Path) -> anyhow::Result<()> {
    let kernel = debian::cloud_kernel()?;
    let folder = tempfile::tempdir()?;
    let image = balloon_image(folder.path(), &kernel)?;
    let initramfs = folder.path().join("outer.cpio");
    let modules = [DISK_MODULES, KVM_MODULES].concat();
    let to_root = include_str!("../../guest/to-root.sh");
    tree::initramfs(&initramfs, &kernel, &modules, None, to_root)?;
    let mut machine = Machine::debian(&kernel.vmlinux, &initramfs);
    machine.cpu = "EPYC,+svm".into();
    machine.cpus = 1;
    machine.memory_mib = 1024;
    machine.snapshots.push(image);
    let mut outer = machine.start(logs)?;
    outer.console.expect("@@ up", BOOT)?;
    outer.console.expect("inner: @@ up", BOOT)?;
    let mut memory = |what: &str| -> anyhow::Result<u64> {
        let said = outer.console.expect(&format!("@@ memory {what} "), INNER)?;
        let mib = said.rsplit(' ').next().and_then(|mib| mib.parse().ok());
        mib.with_context(|| format!("The outer guest says {said:?}"))
    };
    let [filled, reported, inflated, refilled] = [
        memory("filled")?,
        memory("reported")?,
        memory("inflated")?,
        memory("refilled")?,
    ];
    host_os::say!(
        "MiB: {filled} filled, {reported} reported, {inflated} inflated, {refilled} refilled"
    );
    ensure!(reported + 64 <= filled, "free memory did not go");
    ensure!(inflated <= reported + 8, "inflating took memory");
    ensure!(inflated + 80 <= refilled, "used memory is not there");
    outer.console.expect("inner: @@ inner complete", INNER)?;
    let said = outer.console.expect("@@ monitor ended", END)?;
    ensure!(said.ends_with("with 0"), "after a power-off: {said}");
    outer.console.expect("@@ outer complete", BOOT)?;
    outer.power_off(BOOT)
}

/// The outer guest's disk for the balloon: our programs, and the inner guest's kernel and initramfs.
fn balloon_image(folder: &Path, kernel: &Kernel) -> anyhow::Result<PathBuf> {
    let root = folder.join("outer");
    tree::copy(&debian::user_land()?, &root)?;
    let programs = binaries::folder()?;
    for name in ["paravane-balloond", "paravane"] {
        std::fs::copy(programs.join(name), root.join("usr/bin").join(name))?;
    }
    let scenario = include_str!("../../guest/outer-balloon.sh");
    tree::script(&root.join("scenario"), scenario)?;
    std::fs::write(root.join("settings"), format!("WORDS=\"{QUIET}\"\n"))?;
    std::fs::copy(&kernel.vmlinux, root.join("vmlinux"))?;
    let modules = [DISK_MODULES, &["virtio_balloon"]].concat();
    let inner = root.join("inner.cpio");
    let scenario = include_str!("../../guest/inner-balloon.sh");
    tree::initramfs(&inner, kernel, &modules, None, scenario)?;
    let image = folder.join("outer.img");
    image::ext4_from_tree(&image, &root, 600 * MIB)?;
    Ok(image)
}

/// The outer guest's disk: user land, our programs, the inner guest's kernel, initramfs and disks.
fn outer_image(
    folder: &Path,
    kernel: &Kernel,
    monitor: &str,
    cpus: u16,
) -> anyhow::Result<PathBuf> {
    let tools = debian::user_land()?;
    let root = folder.join("outer");
    tree::copy(&tools, &root)?;
    let ours = binaries::folder()?;
    for name in ["paravane-blockd", "paravane-netd", "paravane"] {
        std::fs::copy(ours.join(name), root.join("usr/bin").join(name))?;
    }
    if monitor == "alioth" {
        tree::add_host_program(&root, &vm::alioth::program()?)?;
    }
    tree::script(&root.join("scenario"), include_str!("../../guest/outer.sh"))?;
    let settings = format!(
        "MONITOR={monitor}\nCPUS={cpus}\nQUEUES={cpus}\nHOST={HOST}\nGUEST={GUEST}\n\
         WORDS=\"{QUIET}\"\n"
    );
    std::fs::write(root.join("settings"), settings)?;
    std::fs::copy(&kernel.vmlinux, root.join("vmlinux"))?;
    let scenario = include_str!("../../guest/to-root.sh");
    let modules = [DISK_MODULES, &NET_MODULES[NET_MODULES.len() - 3..]].concat();
    tree::initramfs(&root.join("inner.cpio"), kernel, &modules, None, scenario)?;
    std::fs::create_dir(root.join("disks"))?;
    image::empty(&root.join("disks/data.img"), 64 * MIB)?;
    inner_root(folder, &tools, &root.join("disks/root.img"))?;
    let image = folder.join("outer.img");
    image::ext4_from_tree(&image, &root, 900 * MIB)?;
    Ok(image)
}

/// The inner guest's root file system.
fn inner_root(folder: &Path, tools: &Path, image: &Path) -> anyhow::Result<()> {
    let root = folder.join("inner");
    tree::copy(tools, &root)?;
    tree::script(&root.join("scenario"), include_str!("../../guest/inner.sh"))?;
    let manifest = tree::manifest(&root, &["usr/bin"], 120_000)?;
    std::fs::write(root.join("manifest"), manifest)?;
    image::ext4_from_tree(image, &root, 160 * MIB)
}
