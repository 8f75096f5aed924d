//! What the monitor does when nobody hears its words, and what it leaves of a terminal.
//!
//! One rule: the VM goes on, whatever becomes of its output; it ends when it is told to, with its own exit code.

use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;
use nix::pty::OpenptyResult;
use nix::pty::openpty;
use nix::sys::signal::Signal;
use nix::sys::termios::LocalFlags;
use nix::sys::termios::tcgetattr;

use crate::daemons::DEVICES;
use crate::daemons::LIMIT;
use crate::daemons::Vm;
use crate::daemons::paravane;
use crate::daemons::pids;
use crate::daemons::send;

/// Kills a daemon and the reader of what the monitor says about it, or gives it a full disk; the daemon comes back, and
/// the VM ends in order.
fn unheard(
    prepare: impl FnOnce(&mut Command) -> anyhow::Result<Option<File>>,
) -> anyhow::Result<()> {
    let mut vm = Vm::start_with(DEVICES, prepare)?;
    let first = *pids(&vm.status()?).get(1).context("blockd has an id")?;
    send(first, Signal::SIGKILL)?;
    vm.wait("the return", |status| {
        let blockd = &status["daemons"][1];
        blockd["restarts"] == 1 && blockd["pid"].is_u64()
    })?;
    vm.wait("the connections", |status| {
        status["devices"][0]["numbers"]["connected"] == true
    })?;
    let daemons = pids(&vm.status()?);
    send(vm.process.id().into(), Signal::SIGTERM)?;
    let end = vm.process.wait(LIMIT)?;
    ensure!(end.code() == Some(0), "{end:?}");
    vm.nothing_is_left(&daemons)
}

pub fn no_reader() -> anyhow::Result<()> {
    unheard(|command| {
        let (reader, writer) = std::io::pipe()?;
        command.stderr(writer);
        drop(reader);
        Ok(None)
    })
}

pub fn asleep_reader() -> anyhow::Result<()> {
    unheard(|command| {
        let (reader, mut writer) = std::io::pipe()?;
        // Full to the last byte.
        let size = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_GETPIPE_SZ)?;
        writer.write_all(&vec![b'.'; size.try_into()?])?;
        command.stderr(writer);
        Ok(Some(File::from(std::os::fd::OwnedFd::from(reader))))
    })
}

pub fn full_disk() -> anyhow::Result<()> {
    unheard(|command| {
        let full = || File::options().write(true).open("/dev/full");
        command.stdout(full()?).stderr(full()?);
        Ok(None)
    })
}

/// A terminal with a shell that has job control, which starts the monitor.
struct Terminal {
    keys: File,
    pty: OpenptyResult,
    vm: Vm,
}

impl Terminal {
    /// `script` starts it as `"$0" "$@"`.
    fn start(script: &str) -> anyhow::Result<Self> {
        let pty = openpty(None, None)?;
        let slave = || pty.slave.try_clone().map(Stdio::from);
        let vm = Vm::start_by("serial = 'stdio'\n", |command| {
            let mut shell = Command::new("setsid");
            // What started the tests may ignore signals, and that is inherited.
            let words = "--ctty --wait env --default-signal bash --norc -m -c";
            shell.args(words.split(' ')).arg(script);
            shell.arg(command.get_program()).args(command.get_args());
            let variables = command.get_envs();
            shell.envs(variables.filter_map(|(key, value)| Some((key, value?))));
            shell.stdin(slave()?).stdout(slave()?).stderr(slave()?);
            *command = shell;
            Ok(None)
        })?;
        let keys = File::from(pty.master.try_clone()?);
        let mut output = keys.try_clone()?;
        // A terminal that nobody looks at holds its writers up.
        std::thread::spawn(move || while matches!(output.read(&mut [0; 1024]), Ok(1..)) {});
        Ok(Self { keys, pty, vm })
    }

    fn raw(&self) -> anyhow::Result<bool> {
        let settings = tcgetattr(self.pty.slave.as_fd())?;
        Ok(!settings.local_flags.contains(LocalFlags::ICANON))
    }

    fn wait_for_raw(&self, wanted: bool) -> anyhow::Result<()> {
        let end = Instant::now() + LIMIT;
        while self.raw()? != wanted {
            ensure!(Instant::now() < end, "raw mode stays {}", !wanted);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn pid(&self) -> anyhow::Result<u64> {
        self.vm.status()?["pid"].as_u64().context("the VM runs")
    }
}

pub fn background() -> anyhow::Result<()> {
    // The shell keeps the terminal until it is told to hand it over.
    let mut terminal = Terminal::start("\"$0\" \"$@\" & read -r _; fg %1")?;
    let running = terminal
        .vm
        .wait("the start", |status| status["pid"].is_u64())?;
    ensure!(running["cpus"] == 1, "{running}");
    ensure!(!terminal.raw()?, "the terminal is the shell's");
    terminal.keys.write_all(b"go\n")?;
    terminal.wait_for_raw(true)?;
    // Ctrl-A x
    terminal.keys.write_all(b"\x01x")?;
    let end = terminal.vm.process.wait(LIMIT)?;
    ensure!(end.code() == Some(0), "{end:?}");
    terminal.wait_for_raw(false)
}

pub fn fatal_signal() -> anyhow::Result<()> {
    for signal in [Signal::SIGQUIT, Signal::SIGABRT, Signal::SIGUSR1] {
        // No job control of a shell's, which would put the terminal right itself.
        let mut terminal = Terminal::start("set +m; \"$0\" \"$@\"; exit 7")?;
        terminal.wait_for_raw(true)?;
        send(terminal.pid()?, signal)?;
        terminal.vm.process.wait(LIMIT)?;
        ensure!(!terminal.raw()?, "{signal} leaves the terminal raw");
    }
    Ok(())
}

pub fn stopped_and_continued() -> anyhow::Result<()> {
    let mut terminal = Terminal::start("set +m; \"$0\" \"$@\"")?;
    terminal.wait_for_raw(true)?;
    let pid = terminal.pid()?;
    send(pid, Signal::SIGTSTP)?;
    terminal.wait_for_raw(false)?;
    send(pid, Signal::SIGCONT)?;
    terminal.wait_for_raw(true)?;
    terminal.keys.write_all(b"\x01x")?;
    let end = terminal.vm.process.wait(LIMIT)?;
    ensure!(end.code() == Some(0), "{end:?}");
    Ok(())
}

pub fn gone_terminal() -> anyhow::Result<()> {
    let mut terminal = Terminal::start("set +m; exec \"$0\" \"$@\"")?;
    terminal.wait_for_raw(true)?;
    let pid = terminal.pid()?;
    // The kernel hangs the terminal up: SIGHUP to the VM, for which it ends in order, and errors for all it says.
    send(pid, Signal::SIGHUP)?;
    let end = terminal.vm.process.wait(LIMIT)?;
    ensure!(end.code() == Some(0), "{end:?}");
    terminal.wait_for_raw(false)
}

pub fn status_without_reader() -> anyhow::Result<()> {
    let vm = Vm::start(DEVICES)?;
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["ctl", "web", "status"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut command = paravane(vm.folder.path())?;
        let output = command.args(words).stdout(writer).stderr(Stdio::piped());
        let output = output.spawn()?.wait_with_output()?;
        ensure!(
            output.status.code() == Some(0) && output.stderr.is_empty(),
            "{words:?}: {output:?}"
        );
    }
    let full = File::options().write(true).open("/dev/full")?;
    let output = paravane(vm.folder.path())?
        .arg("status")
        .stdout(full)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(74), "{output:?}");
    ensure!(said.contains("standard output"), "{said}");
    Ok(())
}

pub fn another_user() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(vm::skip("only root can become another user"));
    }
    let mut vm = Vm::start_with(
        &format!("user = 'nobody'\ngroup = '54321'\n{DEVICES}"),
        |_| Ok(None),
    )?;
    let status = vm.status()?;
    let daemons = pids(&status);
    ensure!(daemons.len() == 3, "{status:#}");
    let all = daemons.iter().copied().chain([vm.process.id().into()]);
    for pid in all.collect::<Vec<_>>() {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        for line in [
            "CapPrm:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Gid:\t54321\t54321\t54321\t54321",
        ] {
            ensure!(
                status.lines().any(|known| known == line),
                "{line} in {status}"
            );
        }
        ensure!(!status.contains("Uid:\t0"), "{status}");
    }
    // Daemons that come back open root's images again, which the VM's user could not.
    for (at, pid) in daemons.iter().enumerate() {
        send(*pid, Signal::SIGKILL)?;
        vm.wait("the return", |status| {
            let daemon = &status["daemons"][at];
            daemon["restarts"] == 1 && daemon["pid"].is_u64()
        })?;
    }
    vm.wait("the connections", |status| {
        let devices = status["devices"].as_array().into_iter().flatten();
        devices
            .clone()
            .all(|device| device["numbers"]["connected"] == true)
    })?;
    let target = vm.say(&["ctl", "web", "set", "balloon", "target=2M"])?;
    ensure!(target.status.success(), "{target:?}");
    let daemons = pids(&vm.status()?);
    ensure!(vm.say(&["ctl", "web", "stop"])?.status.success());
    let end = vm.process.wait(LIMIT)?;
    ensure!(end.code() == Some(0), "{end:?} {}", vm.log());
    vm.nothing_is_left(&daemons)
}
