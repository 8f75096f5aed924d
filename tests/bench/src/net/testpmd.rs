//! DPDK's testpmd: the client of every cell between ports, and the peer.
//!
//! One rule: the client is the same program with the same options whoever serves it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

/// A running testpmd with its prompt.
pub struct Testpmd {
    child: Child,
    input: Option<ChildStdin>,
    log: std::path::PathBuf,
    dir: tempfile::TempDir,
    ports: usize,
}

/// How a testpmd is started.
pub struct TestpmdSpec<'a> {
    /// For its log and its files.
    pub name: &'a str,
    /// CPU of the forwarding thread.
    pub cpu: usize,
    /// Virtual devices.
    pub devices: &'a [String],
    /// Options of the application.
    pub options: &'a [String],
}

impl Testpmd {
    /// Whether the program is there.
    pub fn exists() -> bool {
        Command::new("dpdk-testpmd")
            .arg("-h")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok()
    }

    /// Starts it, and waits for its prompt.
    pub fn start(spec: &TestpmdSpec<'_>, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{}.log", spec.name));
        let file = File::create(&log)?;
        // Its runtime files: each process has a folder of its own.
        let dir = tempfile::tempdir()?;
        let main = usize::from(spec.cpu == 0);
        // Statistics are printed to a file: line by line, or they would come at the end. `stdbuf` replaces itself.
        let mut command = Command::new("stdbuf");
        command
            .args(["-oL", "dpdk-testpmd"])
            .env("XDG_RUNTIME_DIR", dir.path())
            .env("RUNTIME_DIRECTORY", dir.path())
            .args([
                "--no-pci",
                "--no-huge",
                "-m",
                "1024",
                "--file-prefix",
                spec.name,
            ])
            .args(["-l", &format!("{main},{}", spec.cpu)])
            .args(["--main-lcore", &main.to_string()]);
        for device in spec.devices {
            command.args(["--vdev", device]);
        }
        command
            .args(["--", "-i", "--nb-cores=1", "--total-num-mbufs=16384"])
            .args(spec.options)
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file);
        let mut child = command
            .spawn()
            .context("dpdk-testpmd is missing: install dpdk-dev")?;
        let input = child.stdin.take();
        let mut this = Self {
            child,
            input,
            log,
            dir,
            ports: spec.devices.len(),
        };
        this.wait_for("testpmd>", 1)?;
        Ok(this)
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types a command.
    pub fn say(&mut self, words: &str) -> Result<()> {
        let input = self.input.as_mut().context("testpmd has no input")?;
        writeln!(input, "{words}")?;
        Ok(input.flush()?)
    }

    /// Frames sent and received so far, over all ports.
    pub fn statistics(&mut self) -> Result<Statistics> {
        let seen = self.text()?.matches("Tx-pps").count();
        self.say("show port stats all")?;
        self.wait_for("Tx-pps", seen + self.ports)?;
        let text = self.text()?;
        let total = |name: &str| -> u64 {
            let values = text.match_indices(name).map(|(at, _)| {
                let rest = text.get(at + name.len()..).unwrap_or("");
                rest.split_whitespace()
                    .next()
                    .and_then(|n| n.parse::<u64>().ok())
                    .unwrap_or(0)
            });
            let all: Vec<u64> = values.collect();
            all.iter().rev().take(self.ports).sum()
        };
        Ok(Statistics {
            received: total("RX-packets:"),
            sent: total("TX-packets:"),
            at: Instant::now(),
        })
    }

    fn text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.log)?).into_owned())
    }

    fn wait_for(&mut self, words: &str, times: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.text()?.matches(words).count() < times {
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                let text = self.text()?;
                let lines: Vec<&str> = text.lines().rev().take(8).collect();
                bail!(
                    "dpdk-testpmd ({}) did not get so far: {}",
                    self.log.display(),
                    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.say("stop");
        let _ = self.say("quit");
        self.input = None;
        let deadline = Instant::now() + Duration::from_secs(8);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.dir.path();
    }
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    /// Frames received by all ports.
    pub received: u64,
    /// Frames sent by all ports.
    pub sent: u64,
    /// When.
    pub at: Instant,
}
