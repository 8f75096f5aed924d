//! Our monitor, as a test or the demo drives it: a kernel, words, disks, and what the guest says.
//!
//! One rule: the exit code is the guest's verdict (the debug exit port), and is always looked at.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::binaries;
use crate::console::Console;
use crate::process;
use crate::process::Process;

/// What `paravane run` is given.
#[derive(Clone, Debug)]
pub struct Vm {
    /// An ELF with a PVH entry.
    pub kernel: PathBuf,
    /// The kernel's command line.
    pub words: String,
    /// Virtual processors.
    pub cpus: u32,
    /// MiB of memory.
    pub memory_mib: u32,
    /// `--disk` arguments.
    pub disks: Vec<String>,
    /// `--net` arguments.
    pub nets: Vec<String>,
    /// The `--balloon` argument.
    pub balloon: Option<String>,
}

/// A running VM.
#[derive(Debug)]
pub struct Running {
    /// What the guest says.
    pub console: Console,
    process: Process,
}

impl Vm {
    /// The probe guest, told to do `words`, with one disk (`socket=...`).
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn probe(words: &str, disk: &str) -> anyhow::Result<Self> {
        Ok(Self {
            kernel: binaries::probe_guest()?,
            words: words.to_string(),
            cpus: 1,
            memory_mib: 256,
            disks: vec![disk.to_string()],
            nets: Vec::new(),
            balloon: None,
        })
    }

    /// The probe guest, told to do `words`, with one network card (`socket=...`).
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn networked(words: &str, net: &str) -> anyhow::Result<Self> {
        Ok(Self {
            disks: Vec::new(),
            nets: vec![net.to_string()],
            ..Self::probe(words, "")?
        })
    }

    /// Starts it; console and messages are kept as `<logs>/<name>.console` and `<name>.monitor`.
    ///
    /// # Errors
    /// When the monitor cannot be built or started.
    pub fn start(&self, logs: &Path, name: &str) -> anyhow::Result<Running> {
        let mut command = Command::new(binaries::monitor()?);
        command
            .arg("run")
            .arg("--kernel")
            .arg(&self.kernel)
            .args(["--cmdline", &self.words]);
        command.args(["--memory", &format!("{}M", self.memory_mib)]);
        command.args(["--cpus", &self.cpus.to_string(), "--debug-exit"]);
        command.args(self.disks.iter().flat_map(|disk| ["--disk", disk]));
        command.args(self.nets.iter().flat_map(|net| ["--net", net]));
        command.args(self.balloon.iter().flat_map(|words| ["--balloon", words]));
        let log = logs.join(format!("{name}.monitor"));
        let log = process::log_file(&log, &format!("{command:?}"))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut process = Process::start("paravane", command)?;
        let output = process
            .child()
            .stdout
            .take()
            .context("The monitor's console")?;
        let console = Console::attach(output, None, &logs.join(format!("{name}.console")))?;
        Ok(Running { console, process })
    }

    /// Starts it and waits for its end; the guest must end with code 0.
    ///
    /// # Errors
    /// When it does not, or takes longer than `limit`.
    pub fn run(&self, logs: &Path, name: &str, limit: Duration) -> anyhow::Result<Vec<Value>> {
        self.start(logs, name)?.finish(limit)
    }
}

impl Running {
    /// The monitor's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether the VM still runs.
    pub fn running(&mut self) -> bool {
        self.process.running()
    }

    /// Waits for the end and returns the JSON lines that the guest wrote.
    ///
    /// # Errors
    /// When the guest ends with another code than 0, or takes longer than `limit`.
    pub fn finish(mut self, limit: Duration) -> anyhow::Result<Vec<Value>> {
        let lines = self.console.drain(limit)?.to_vec();
        let status = self.process.wait(limit)?;
        let last = lines
            .iter()
            .rev()
            .take(8)
            .rev()
            .cloned()
            .collect::<Vec<_>>()
            .join("\n    ");
        anyhow::ensure!(
            status.success(),
            "the guest ended with {status}; last:\n    {last}"
        );
        Ok(lines
            .iter()
            .filter_map(|line| serde_json::from_str(line.trim()).ok())
            .collect())
    }
}
