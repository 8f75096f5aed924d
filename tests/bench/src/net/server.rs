//! Our daemon, started for one cell as a user starts it.

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

/// A running daemon; stopped when dropped.
pub struct Daemon {
    child: Child,
}

/// One network card of it.
pub struct Card {
    /// Its socket.
    pub socket: PathBuf,
    /// Its link.
    pub link: &'static str,
}

impl Daemon {
    /// Starts `program` with these cards on `cpu` and waits for their sockets.
    pub fn start(
        program: &Path,
        cards: &[Card],
        packed: bool,
        cpu: usize,
        folder: &Path,
    ) -> Result<Self> {
        let mut config = String::from("[[switch]]\nname = \"bench\"\n");
        for card in cards {
            config += &format!(
                "[[device]]\nsocket-path = \"{}\"\nlink = \"{}\"\nqueue-size = 1024\npacked = {packed}\n",
                card.socket.display(),
                card.link
            );
        }
        let file = folder.join("netd.toml");
        std::fs::write(&file, config)?;
        let log = File::create(folder.join("netd.log"))?;
        let child = Command::new("taskset")
            .args(["-c", &cpu.to_string()])
            .arg(program)
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start taskset")?;
        let mut this = Self { child };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !cards.iter().all(|card| card.socket.exists()) {
            let ended = this.child.try_wait()?.is_some();
            if ended || Instant::now() > deadline {
                let log = std::fs::read_to_string(folder.join("netd.log"))?;
                bail!("{} makes no socket: {log}", program.display());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(this)
    }

    /// Process id, of the daemon itself: `taskset` replaces itself by it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(pid) = self.child.id().try_into() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
