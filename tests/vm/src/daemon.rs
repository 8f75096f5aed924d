//! A daemon as a test drives it: started, asked, killed, started again.
//!
//! One rule: a restarted daemon gets the same arguments, as a service manager would give it.

use std::fmt::Write as _;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;

use crate::binaries;
use crate::process;
use crate::process::Process;

/// A daemon has this long to offer its socket.
const START: Duration = Duration::from_secs(20);

/// A daemon with its devices.
#[derive(Debug)]
pub struct Daemon {
    /// The program's name.
    name: &'static str,
    log: PathBuf,
    /// Words before the program: who runs it, and where.
    prefix: Vec<String>,
    arguments: Vec<String>,
    sockets: Vec<String>,
    control: String,
    process: Option<Process>,
    starts: u32,
}

/// One port of the network daemon.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name, which is also its socket's.
    pub name: &'static str,
    /// What it is linked to.
    pub link: String,
    /// Queue pairs.
    pub pairs: u16,
    /// More lines of the configuration file.
    pub more: Vec<String>,
}

impl Port {
    /// A port with one queue pair.
    pub fn new(name: &'static str, link: &str) -> Self {
        Self {
            name,
            link: link.to_string(),
            pairs: 1,
            more: Vec::new(),
        }
    }
}

impl Daemon {
    /// Serves `image` on `<folder>/blk.sock`; `extra` are more arguments of `paravane-blockd`. Its
    /// log is `<logs>/daemon.log`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(folder: &Path, logs: &Path, image: &Path, extra: &[&str]) -> anyhow::Result<Self> {
        Self::start_as(&[], folder, logs, image, extra)
    }

    /// The same behind `prefix`, for example `setpriv --reuid ...`, which must `exec`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_as(
        prefix: &[String],
        folder: &Path,
        logs: &Path,
        image: &Path,
        extra: &[&str],
    ) -> anyhow::Result<Self> {
        let (socket, control) = (path(folder, "blk"), path(folder, "control"));
        let image = image.display().to_string();
        let named = [
            ("--socket-path", &socket),
            ("--control-socket", &control),
            ("--path", &image),
        ];
        let named = named
            .iter()
            .flat_map(|(flag, value)| [(*flag).to_string(), (*value).clone()]);
        let arguments = named.chain(extra.iter().map(ToString::to_string)).collect();
        Self {
            name: "paravane-blockd",
            log: logs.join("daemon.log"),
            prefix: prefix.to_vec(),
            arguments,
            sockets: vec![socket],
            control,
            process: None,
            starts: 0,
        }
        .started()
    }

    /// The network daemon with these ports, each on `<folder>/<port>.sock`, behind `prefix`. Its
    /// log is `<logs>/netd.log`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn network(
        prefix: &[String],
        folder: &Path,
        logs: &Path,
        ports: &[Port],
    ) -> anyhow::Result<Self> {
        let control = path(folder, "netd-control");
        let mut config = format!("control-socket = {control:?}\n");
        let mut switches: Vec<&str> = ports
            .iter()
            .filter_map(|port| port.link.strip_prefix("switch:"))
            .collect();
        switches.dedup();
        for name in switches {
            writeln!(config, "[[switch]]\nname = {name:?}")?;
        }
        let mut sockets = Vec::new();
        for port in ports {
            let socket = path(folder, port.name);
            write!(
                config,
                "[[device]]\nname = {:?}\nsocket-path = {socket:?}\nlink = {:?}\nqueue-pairs = {}\n{}\n",
                port.name,
                port.link,
                port.pairs,
                port.more.join("\n"),
            )?;
            sockets.push(socket);
        }
        let file = folder.join("netd.toml");
        std::fs::write(&file, config)?;
        Self {
            name: "paravane-netd",
            log: logs.join("netd.log"),
            prefix: prefix.to_vec(),
            arguments: vec!["--config".into(), file.display().to_string()],
            sockets,
            control,
            process: None,
            starts: 0,
        }
        .started()
    }

    /// The balloon daemon with one balloon for each of these VMs, on `<folder>/<vm>.sock`; with
    /// each go more lines of its table, and `pool` are those of the table `[pool]`. Its log is
    /// `<logs>/balloond.log`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn balloons(
        folder: &Path,
        logs: &Path,
        vms: &[(&'static str, &str)],
        pool: &str,
    ) -> anyhow::Result<Self> {
        let control = path(folder, "balloond-control");
        let mut config = format!("control-socket = {control:?}\n[pool]\n{pool}\n");
        let mut sockets = Vec::new();
        for (vm, lines) in vms {
            let socket = path(folder, vm);
            write!(
                config,
                "[[device]]\nname = {vm:?}\nsocket-path = {socket:?}\n{lines}\n"
            )?;
            sockets.push(socket);
        }
        let file = folder.join("balloond.toml");
        std::fs::write(&file, config)?;
        Self {
            name: "paravane-balloond",
            log: logs.join("balloond.log"),
            prefix: Vec::new(),
            arguments: vec!["--config".into(), file.display().to_string()],
            sockets,
            control,
            process: None,
            starts: 0,
        }
        .started()
    }

    fn started(mut self) -> anyhow::Result<Self> {
        self.restart()?;
        Ok(self)
    }

    /// Where the frontend of the first device connects.
    pub fn socket(&self) -> &str {
        &self.sockets[0]
    }

    /// Where the frontends connect.
    pub fn sockets(&self) -> &[String] {
        &self.sockets
    }

    /// How often it was started.
    pub fn starts(&self) -> u32 {
        self.starts
    }

    /// The process id, when it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Starts it (again) and waits until its socket is there.
    ///
    /// # Errors
    /// When it ends at once or its socket does not appear.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.starts += 1;
        let log = process::log_file(&self.log, &format!("start {}", self.starts))?;
        let program = binaries::folder()?.join(self.name);
        let mut command = process::behind(&self.prefix, &program);
        command.args(&self.arguments);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut process = Process::start(self.name, command)?;
        let id = process.id();
        process::wait_until("the daemon's sockets", START, || {
            anyhow::ensure!(
                process.running(),
                "{} ended at its start; see its log",
                self.name
            );
            for socket in &self.sockets {
                if !listens(socket, id)? {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// SIGTERM; the daemon must finish what it has and exit with 0.
    ///
    /// # Errors
    /// When it does not.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        match self.process.take() {
            Some(mut process) => process.terminate(START),
            None => Ok(()),
        }
    }

    /// Queue pairs that each network card's driver uses, by the daemon's word.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn active_pairs(&self) -> anyhow::Result<Vec<u64>> {
        let status = self.control(&serde_json::json!({ "command": "status" }))?;
        let devices = status["ok"]["devices"].as_array().context("No devices")?;
        let pairs = |device: &serde_json::Value| device["device"]["active_pairs"].as_u64();
        let pairs = devices.iter().map(pairs).collect::<Option<_>>();
        pairs.with_context(|| format!("No pairs in {status}"))
    }

    /// Waits until this process has completed `count` more requests, on whatever queue: then front-end and driver are
    /// both back, and work.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub fn completes(&self, count: u64, limit: Duration) -> anyhow::Result<()> {
        let completed = || {
            let metrics = self.control(&serde_json::json!({ "command": "metrics" }))?;
            anyhow::Ok(sum(&metrics, "completed"))
        };
        // One that has just begun may not answer yet, and has completed none.
        let before = completed().unwrap_or(0);
        process::wait_until("requests that the daemon completes", limit, || {
            Ok(completed().is_ok_and(|now| now >= before + count))
        })
    }

    /// Sends one request to the control socket and returns the answer.
    ///
    /// # Errors
    /// When the daemon does not answer, or not with JSON, or with an error.
    pub fn control(&self, request: &serde_json::Value) -> anyhow::Result<serde_json::Value> {
        let mut stream = UnixStream::connect(&self.control)
            .with_context(|| format!("Connect to {}", self.control))?;
        stream.set_read_timeout(Some(START))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let answer: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("Answer {line:?}"))?;
        anyhow::ensure!(
            answer.get("error").is_none(),
            "The daemon answered {answer}"
        );
        Ok(answer)
    }
}

/// The sum of all numbers whose name begins so, however deep.
fn sum(value: &serde_json::Value, name: &str) -> u64 {
    match value {
        serde_json::Value::Array(all) => all.iter().map(|value| sum(value, name)).sum(),
        serde_json::Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| match value.as_u64() {
                Some(number) if key.starts_with(name) => number,
                _ => sum(value, name),
            })
            .sum(),
        _ => 0,
    }
}

/// The socket of this name.
fn path(folder: &Path, name: &str) -> String {
    folder.join(format!("{name}.sock")).display().to_string()
}

/// Whether a listening socket with this path exists; a connection would be a session. The process
/// id is looked at so that the socket of a killed predecessor does not count.
fn listens(socket: &str, id: u32) -> anyhow::Result<bool> {
    const LISTENING: &str = "00010000";
    // The list of its own network namespace, where it may not be in ours.
    let Ok(sockets) = std::fs::read_to_string(format!("/proc/{id}/net/unix")) else {
        return Ok(false);
    };
    let inode = sockets.lines().rev().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let matches = words.get(7) == Some(&socket) && words.get(3) == Some(&LISTENING);
        matches.then(|| words[6].to_string())
    });
    let Some(inode) = inode else { return Ok(false) };
    let link = format!("socket:[{inode}]");
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{id}/fd")) else {
        return Ok(false);
    };
    Ok(descriptors
        .filter_map(Result::ok)
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .any(|target| target.to_string_lossy() == link))
}
