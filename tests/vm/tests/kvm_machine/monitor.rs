//! The monitor's program around the same small guests: exit codes, restart, signals, its cage.
//!
//! One rule: every run has a limit and ends with the exit code that `--help` promises.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use anyhow::ensure;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::cases::exit;
use vm::kernel::elf;
use vm::process;

struct Run {
    command: Command,
    _folder: TempDir,
}

struct Ended {
    code: Option<i32>,
    serial: String,
    events: Vec<Value>,
}

impl Run {
    fn new(code: &[u8], arguments: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let kernel: PathBuf = folder.path().join("kernel");
        std::fs::write(&kernel, elf(code))?;
        let mut command = Command::new("timeout");
        command
            .args(["-s", "KILL", "20"])
            .arg(vm::binaries::monitor()?);
        command.args([
            "run",
            "--json",
            "--debug-exit",
            "--memory",
            "16M",
            "--kernel",
        ]);
        command.arg(kernel).args(arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(Self {
            command,
            _folder: folder,
        })
    }

    /// Runs it; sends `signal` a little after it began to run the guest.
    fn end(mut self, signal: Option<Signal>) -> anyhow::Result<Ended> {
        let child = self.command.spawn().context("timeout")?;
        if let Some(signal) = signal {
            std::thread::sleep(Duration::from_millis(500));
            // `timeout` passes it on.
            nix::sys::signal::kill(Pid::from_raw(child.id().try_into()?), signal)?;
        }
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let parsed = text.lines().map(serde_json::from_str);
        Ok(Ended {
            code: output.status.code(),
            serial: String::from_utf8_lossy(&output.stdout).into_owned(),
            events: parsed
                .collect::<Result<_, _>>()
                .with_context(|| text.clone())?,
        })
    }
}

impl Ended {
    fn count(&self, event: &str) -> usize {
        self.events
            .iter()
            .filter(|line| line["event"] == event)
            .count()
    }

    fn last(&self) -> anyhow::Result<&Value> {
        self.events.last().context("No event")
    }
}

/// mov edx,0x3f8; mov al,'m'; out dx,al
const SAY: [u8; 8] = [0xba, 0xf8, 3, 0, 0, 0xb0, b'm', 0xee];

pub fn exit_code() -> anyhow::Result<()> {
    for sandbox in ["on", "off"] {
        let code = [&SAY[..], &exit(42)].concat();
        let ended = Run::new(&code, &["--sandbox", sandbox, "--cpus", "2"])?.end(None)?;
        ensure!(
            ended.code == Some(42),
            "{:?} {:?}",
            ended.code,
            ended.events
        );
        ensure!(ended.serial == "m");
        ensure!(ended.count("started") == 1 && ended.last()?["exit_code"] == 42);
    }
    Ok(())
}

pub fn restart() -> anyhow::Result<()> {
    // inc byte [0x200000]; cmp byte [0x200000],3; je done; mov edx,0xcf9; mov al,6; out dx,al; jmp $; done: exit 3
    let mut code = SAY.to_vec();
    code.extend([
        0xfe, 0x05, 0, 0, 0x20, 0, 0x80, 0x3d, 0, 0, 0x20, 0, 3, 0x74, 0x0a,
    ]);
    code.extend([0xba, 0xf9, 0x0c, 0, 0, 0xb0, 6, 0xee, 0xeb, 0xfe]);
    code.extend(exit(3));
    let ended = Run::new(&code, &[])?.end(None)?;
    ensure!(ended.code == Some(3), "{:?} {:?}", ended.code, ended.events);
    ensure!(ended.count("reset") == 2 && ended.serial == "mmm");
    let ended = Run::new(&code, &["--on-reset", "exit"])?.end(None)?;
    ensure!(ended.code == Some(0) && ended.serial == "m");
    Ok(())
}

pub fn terminated() -> anyhow::Result<()> {
    // sti; hlt; jmp back
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let ended = Run::new(&[0xfb, 0xf4, 0xeb, 0xfc], &["--cpus", "4"])?.end(Some(signal))?;
        ensure!(ended.code == Some(0), "{:?} {:?}", ended.code, ended.events);
        ensure!(ended.last()?["reason"] == "stopped");
    }
    Ok(())
}

pub fn no_backend() -> anyhow::Result<()> {
    let disk = ["--disk", "socket=/nonexistent/disk.sock"];
    let ended = Run::new(&exit(1), &disk)?.end(None)?;
    ensure!(
        ended.code == Some(69),
        "{:?} {:?}",
        ended.code,
        ended.events
    );
    ensure!(
        ended.last()?["message"]
            .to_string()
            .contains("/nonexistent/disk.sock")
    );
    Ok(())
}

pub fn stuck() -> anyhow::Result<()> {
    // mov edx,0x3f8; again: mov al,'m'; out dx,al; jmp again
    let code = [0xba, 0xf8, 3, 0, 0, 0xb0, b'm', 0xee, 0xeb, 0xfb];
    let mut run = Run::new(&code, &["--sandbox", "off"])?;
    // Nobody reads the serial output: once the pipe is full, the vCPU's thread hangs in a write.
    let (_unread, pipe) = std::io::pipe()?;
    run.command.stdout(pipe.try_clone()?);
    let mut child = run.command.spawn().context("timeout")?;
    process::wait_until("a full pipe", Duration::from_secs(15), || {
        let mut pipe = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
        Ok(nix::poll::poll(&mut pipe, PollTimeout::ZERO)? == 0)
    })?;
    // Some of the last page may still be free. The guest spins, so that time passes for it until its processor hangs.
    process::wait_until("a vCPU that hangs", Duration::from_secs(15), || {
        let before = time_of_children(child.id())?;
        std::thread::sleep(Duration::from_millis(300));
        Ok(before != 0 && time_of_children(child.id())? == before)
    })?;
    nix::sys::signal::kill(Pid::from_raw(child.id().try_into()?), Signal::SIGTERM)?;
    let status = child.wait()?;
    ensure!(status.code() == Some(70), "{status:?}");
    Ok(())
}

/// What the children of `parent` have used of processors, in ticks; `timeout` has one, the monitor.
fn time_of_children(parent: u32) -> anyhow::Result<u64> {
    let mut ticks = 0;
    for process in std::fs::read_dir("/proc")? {
        let Ok(stat) = std::fs::read_to_string(process?.path().join("stat")) else {
            continue;
        };
        // After the name, which may hold anything: state, parent, and utime and stime as the 12th and 13th.
        let fields: Vec<&str> = match stat.rsplit_once(')') {
            Some((_, rest)) => rest.split_whitespace().collect(),
            None => continue,
        };
        if let [_, of, ..] = fields[..]
            && of.parse() == Ok(parent)
        {
            for field in fields.iter().skip(11).take(2) {
                ticks += field.parse::<u64>()?;
            }
        }
    }
    Ok(ticks)
}
