//! Our balloon daemon, as a user starts it.
//!
//! One rule: pinned before it makes its first thread, and ended by a signal that it may obey.

use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// Our name in reports.
pub const OURS: &str = "paravane-balloond";

/// A daemon under test; one that was started here is ended when dropped.
pub struct Server {
    child: Option<Child>,
    /// Where it listens.
    pub socket: PathBuf,
    /// Its process id.
    pub pid: u32,
}

impl Server {
    /// Somebody else's.
    pub fn running(socket: &Path, pid: u32) -> Self {
        Self {
            child: None,
            socket: socket.to_path_buf(),
            pid,
        }
    }

    /// Starts `program` on `cpu` with one balloon whose target nobody moves, and waits for its socket.
    pub fn start(program: &Path, folder: &Path, cpu: usize) -> Result<Self> {
        let socket = folder.join("balloon.sock");
        let log = File::create(folder.join("balloond.log"))?;
        let child = Command::new("taskset")
            .args(["-c", &cpu.to_string()])
            .arg(program)
            .arg("--socket-path")
            .arg(&socket)
            .args(["--policy", "manual"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start taskset")?;
        let mut this = Self {
            pid: child.id(),
            child: Some(child),
            socket,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !this.socket.exists() {
            let child = this.child.as_mut().context("no child")?;
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(folder.join("balloond.log"))?;
                bail!("{} makes no socket: {log}", program.display());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(this)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        if let Ok(pid) = self.pid.try_into() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}
