//! Child processes that never outlive their test.
//!
//! One rule: every child is its own process group, is killed by that id, and is waited for.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use nix::sys::signal::Signal;
use nix::sys::signal::killpg;
use nix::unistd::Pid;

/// How often something that should happen soon is looked at.
const POLL: Duration = Duration::from_millis(10);

/// A running child; dropping it kills its process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts `command` as the leader of its own process group. The caller sets its streams.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(name: &str, mut command: Command) -> anyhow::Result<Self> {
        command.process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("Start {name}: {command:?}"))?;
        Ok(Self {
            name: name.to_string(),
            child,
        })
    }

    /// The child, to take its streams.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The process id, which is also that of its group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the process ends, at most `limit`.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("{} did not end within {limit:?}", self.name);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Sends a signal to the process group.
    pub fn signal(&self, signal: Signal) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            // A group that is gone already is what we want.
            let _gone = killpg(Pid::from_raw(id), signal);
        }
    }

    /// SIGKILL, then wait: after this the process holds no file and no socket.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_none() {
            self.signal(Signal::SIGKILL);
        }
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, then expects exit code 0 within `limit`.
    ///
    /// # Errors
    /// When it does not end in time or ends otherwise.
    pub fn terminate(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.signal(Signal::SIGTERM);
        let status = self.wait(limit)?;
        if status.success() {
            return Ok(());
        }
        bail!(
            "{} ended with {status} (signal {:?}) after SIGTERM",
            self.name,
            status.signal()
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.kill();
    }
}

/// A command for `program`, behind words that `exec` it.
pub fn behind(prefix: &[String], program: &Path) -> Command {
    match prefix.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// Runs a tool to its end; its output is in the error when it fails.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .output()
        .with_context(|| format!("Start {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    bail!(
        "{command:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A log file that children may write to.
///
/// # Errors
/// When it cannot be opened.
pub fn log_file(path: &Path, title: &str) -> anyhow::Result<File> {
    let mut file = File::options().create(true).append(true).open(path)?;
    writeln!(file, "# {title}")?;
    Ok(file)
}

/// Waits until `ready` says so.
///
/// # Errors
/// When that takes longer than `limit`, or `ready` fails.
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let end = Instant::now() + limit;
    while !ready()? {
        if Instant::now() > end {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
