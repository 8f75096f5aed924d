//! Whole VMs with the daemons that they bring along, and the commands that ask about them.
//!
//! One rule: every VM has a runtime folder of its own, and whatever is killed, nothing of it is left at the end.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use vm::process::Process;

use vm::kernel::elf;

pub const LIMIT: Duration = Duration::from_secs(30);
/// sti; hlt; jmp back
const IDLE: [u8; 4] = [0xfb, 0xf4, 0xeb, 0xfc];

/// A VM that was started from a file.
pub struct Vm {
    pub folder: TempDir,
    pub process: Process,
    /// What the VM was given to hold on to.
    _held: Option<File>,
}

impl Vm {
    pub fn start(description: &str) -> anyhow::Result<Self> {
        Self::start_with(description, |_| Ok(None))
    }

    /// `prepare` changes where the output goes, and may hold something for as long as the VM lives.
    pub fn start_with(
        description: &str,
        prepare: impl FnOnce(&mut Command) -> anyhow::Result<Option<File>>,
    ) -> anyhow::Result<Self> {
        let vm = Self::start_by(&format!("serial = 'off'\n{description}"), prepare)?;
        vm.wait("the start", |status| status["pid"] == vm.process.id())?;
        Ok(vm)
    }

    /// As [`Vm::start_with`], but what is started may be something that starts the VM.
    pub fn start_by(
        description: &str,
        prepare: impl FnOnce(&mut Command) -> anyhow::Result<Option<File>>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        // For VMs that become another user: what they are not told of they do not find.
        let passable = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(folder.path(), passable)?;
        std::fs::write(folder.path().join("kernel"), elf(&IDLE))?;
        std::fs::write(folder.path().join("image"), vec![0; 1 << 20])?;
        let file = folder.path().join("vm.toml");
        let head = "name = 'web'\nkernel = 'kernel'\nmemory = '16M'\n";
        std::fs::write(&file, format!("{head}{description}"))?;
        let mut command = paravane(folder.path())?;
        command.arg("run").arg("--json").arg(file);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.path().join("log"))?);
        let held = prepare(&mut command)?;
        let process = Process::start("paravane", command)?;
        Ok(Self {
            folder,
            process,
            _held: held,
        })
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn say(&self, words: &[&str]) -> anyhow::Result<Output> {
        let mut command = paravane(self.folder.path())?;
        Ok(command.args(words).output()?)
    }

    pub fn status(&self) -> anyhow::Result<Value> {
        let output = self.say(&["status", "--json"])?;
        let all: Value = serde_json::from_slice(&output.stdout)?;
        // Null while the VM is not up yet.
        Ok(all["vms"][0].clone())
    }

    pub fn wait(
        &self,
        what: &str,
        mut condition: impl FnMut(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let end = Instant::now() + LIMIT;
        loop {
            let status = self.status()?;
            if condition(&status) {
                return Ok(status);
            }
            let late = Instant::now() > end;
            ensure!(
                !late,
                "Waited in vain for {what}: {status:#}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Nothing runs, nothing is left. The keeper and the daemons are no children of ours, so this takes a moment.
    pub fn nothing_is_left(&self, pids: &[u64]) -> anyhow::Result<()> {
        let home = self.folder.path().join("runtime/web");
        let end = Instant::now() + LIMIT;
        while home.exists() || pids.iter().any(|pid| alive(*pid)) {
            ensure!(Instant::now() < end, "{pids:?} or {} stay", home.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

pub fn paravane(folder: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(vm::binaries::monitor()?);
    command.env("PARAVANE_RUNTIME_DIR", folder.join("runtime"));
    Ok(command)
}

fn alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

pub fn pids(status: &Value) -> Vec<u64> {
    let daemons = status["daemons"].as_array().into_iter().flatten();
    daemons
        .filter_map(|daemon| daemon["pid"].as_u64())
        .collect()
}

pub fn send(pid: u64, signal: Signal) -> anyhow::Result<()> {
    Ok(kill(Pid::from_raw(pid.try_into()?), signal)?)
}

pub const DEVICES: &str = "[[disk]]\nmemory-disk = '8M'\nqueues = 2\n\
                       [[disk]]\npath = 'image'\nname = 'root'\n\
                       [[net]]\nlink = 'null'\n[balloon]\nfree-page-hint = true\n\
                       [daemon.netd]\nlog = 'info'\n";

pub fn brought_along() -> anyhow::Result<()> {
    let mut vm = Vm::start(DEVICES)?;
    let status = vm.status()?;
    let daemons = pids(&status);
    ensure!(daemons.len() == 3, "{status:#}");
    let names = |key: &str| -> Vec<_> {
        let list = status[key].as_array().into_iter().flatten();
        list.map(|one| one["name"].as_str().unwrap_or_default().to_string())
            .collect()
    };
    ensure!(names("devices") == ["disk0", "root", "net0", "balloon"]);
    ensure!(names("daemons") == ["balloond", "blockd", "netd"]);
    for device in 0..4 {
        ensure!(status["devices"][device]["numbers"]["connected"] == true);
    }
    ensure!(status["devices"][1]["numbers"]["capacity_bytes"] == 1 << 20);
    let text = vm.say(&["status", "--prometheus"])?.stdout;
    let text = String::from_utf8(text)?;
    for line in [
        "paravane_vm_device_connected{vm=\"web\",device=\"net0\",type=\"net\"} 1",
        "paravane_vm_daemon_restarts_total{vm=\"web\",daemon=\"blockd\"} 0",
        "paravane_block_reads_total{vm=\"web\",device=\"root\"} 0",
        "paravane_vhost_user_connected{vm=\"web\",device=\"net0\"} 1",
    ] {
        ensure!(text.lines().any(|known| known == line), "{line} in {text}");
    }
    let set = vm.say(&["ctl", "web", "set", "net0", "link=down"])?;
    ensure!(set.status.success(), "{set:?}");
    vm.wait("the link", |status| {
        status["devices"][2]["numbers"]["link_up"] == false
    })?;
    let grown = vm.say(&["ctl", "web", "resize", "disk0", "16777216"])?;
    ensure!(grown.status.success(), "{grown:?}");
    vm.wait("the size", |status| {
        status["devices"][0]["numbers"]["capacity_bytes"] == 16 << 20
    })?;
    let target = vm.say(&["ctl", "web", "set", "balloon", "target=4M"])?;
    ensure!(target.status.success(), "{target:?}");
    vm.wait("the target", |status| {
        status["devices"][3]["numbers"]["target_bytes"] == 4 << 20
    })?;
    let second = vm.say(&["ctl", "web", "reset"])?;
    ensure!(second.status.success(), "{second:?}");
    vm.wait("the reset", |status| status["resets"] == 1)?;
    ensure!(vm.say(&["ctl", "web", "stop"])?.status.success());
    let end = vm.process.wait(LIMIT)?;
    ensure!(end.code() == Some(0), "{end:?} {}", vm.log());
    vm.nothing_is_left(&daemons)
}

pub fn killed_daemon() -> anyhow::Result<()> {
    let mut vm = Vm::start(DEVICES)?;
    let down = vm.say(&["ctl", "web", "set", "net0", "link=down"])?;
    let answer: Value = serde_json::from_slice(&down.stdout)?;
    ensure!(answer["until_restart"] == serde_json::json!([]), "{down:?}");
    for round in 1..=3 {
        let set = format!("target={round}M");
        let target = vm.say(&["ctl", "web", "set", "balloon", &set])?;
        ensure!(target.status.success(), "{target:?}");
        for (at, name) in ["balloond", "blockd", "netd"].iter().enumerate() {
            let pid = pids(&vm.status()?).get(at).copied();
            send(
                pid.with_context(|| format!("{name} has an id"))?,
                Signal::SIGKILL,
            )?;
            vm.wait("the return", |status| {
                let daemon = &status["daemons"][at];
                daemon["restarts"] == round && daemon["pid"].is_u64()
            })?;
        }
        vm.wait("the connections", |status| {
            let devices = status["devices"].as_array().into_iter().flatten();
            devices.clone().count() == 4
                && devices
                    .clone()
                    .all(|device| device["numbers"]["connected"] == true)
        })?;
        vm.wait("the target as before", |status| {
            status["devices"][3]["numbers"]["target_bytes"] == round << 20
        })?;
        vm.wait("the cable as before", |status| {
            status["devices"][2]["numbers"]["link_up"] == false
        })?;
        ensure!(vm.process.running(), "{}", vm.log());
    }
    let daemons = pids(&vm.status()?);
    send(vm.process.id().into(), Signal::SIGTERM)?;
    let end = vm.process.wait(LIMIT)?;
    ensure!(end.code() == Some(0), "{end:?} {}", vm.log());
    vm.nothing_is_left(&daemons)
}

/// What only the daemon can judge is told with the place that the person knows: the VM's file, not the daemon's.
pub fn mistake_for_a_daemon() -> anyhow::Result<()> {
    // Behind the three lines that each of these files begins with.
    for (description, place) in [
        (
            "[[net]]\nlink = 'nowhere:'\n",
            "vm.toml, line 5, key net.0.link: ",
        ),
        (
            "[[disk]]\npath = 'image'\n[[disk]]\npath = 'image'\nname = 'b'\ncolour = 1\n",
            "vm.toml, line 9, key disk.1.colour: ",
        ),
        (
            "[[net]]\nlink = 'null'\n[daemon.netd]\nlog-format = 'loud'\n",
            "vm.toml, line 7, key daemon.netd.log-format: ",
        ),
        (
            "[balloon]\nfloor = '2G'\nceiling = '1G'\n",
            "vm.toml, line 5, key balloon.floor: ",
        ),
    ] {
        let mut vm = Vm::start_by(description, |_| Ok(None))?;
        let end = vm.process.wait(LIMIT)?;
        ensure!(end.code() == Some(64), "{end:?} {}", vm.log());
        ensure!(vm.log().contains(place), "{place} {}", vm.log());
        vm.nothing_is_left(&[])?;
    }
    Ok(())
}

pub fn killed_keeper() -> anyhow::Result<()> {
    let mut vm = Vm::start(DEVICES)?;
    let daemons = pids(&vm.status()?);
    let first = daemons.first().context("a daemon")?;
    let stat = std::fs::read_to_string(format!("/proc/{first}/stat"))?;
    let after_name = stat.rsplit(')').next().context("a stat line")?;
    let keeper = after_name.split_whitespace().nth(1).context("a parent")?;
    send(keeper.parse()?, Signal::SIGKILL)?;
    vm.wait("the loss", |status| {
        pids(status).is_empty() && status["devices"][0]["numbers"]["connected"] == false
    })?;
    ensure!(vm.log().contains("was killed"), "{}", vm.log());
    ensure!(vm.process.running(), "{}", vm.log());
    ensure!(vm.say(&["ctl", "web", "stop"])?.status.success());
    let end = vm.process.wait(LIMIT)?;
    ensure!(end.code() == Some(0), "{end:?} {}", vm.log());
    vm.nothing_is_left(&daemons)
}

pub fn killed_monitor() -> anyhow::Result<()> {
    let mut vm = Vm::start(DEVICES)?;
    let daemons = pids(&vm.status()?);
    send(vm.process.id().into(), Signal::SIGKILL)?;
    vm.process.wait(LIMIT)?;
    vm.nothing_is_left(&daemons)
}
