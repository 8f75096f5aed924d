//! The block daemon as a test drives it: started, asked, killed, started again.
//!
//! One rule: a restarted daemon gets the same arguments, as a service manager would give it.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;

use crate::binaries;
use crate::process;
use crate::process::Process;

/// A daemon has this long to offer its socket.
const START: Duration = Duration::from_secs(20);

/// One disk, served.
#[derive(Debug)]
pub struct Daemon {
    logs: PathBuf,
    /// Words before the program: who runs it.
    prefix: Vec<String>,
    arguments: Vec<String>,
    process: Option<Process>,
    starts: u32,
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
        let mut arguments = vec![
            "--socket-path".to_string(),
            folder.join("blk.sock").display().to_string(),
            "--control-socket".to_string(),
            folder.join("control.sock").display().to_string(),
            "--path".to_string(),
            image.display().to_string(),
        ];
        arguments.extend(extra.iter().map(ToString::to_string));
        let prefix = prefix.to_vec();
        let logs = logs.to_path_buf();
        let mut daemon = Self {
            logs,
            prefix,
            arguments,
            process: None,
            starts: 0,
        };
        daemon.restart()?;
        Ok(daemon)
    }

    /// Where the frontend connects.
    pub fn socket(&self) -> &str {
        &self.arguments[1]
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
        let log = self.logs.join("daemon.log");
        let log = process::log_file(&log, &format!("start {}", self.starts))?;
        let program = binaries::blockd()?;
        let mut command = match self.prefix.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(&self.arguments);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut process = Process::start("paravane-blockd", command)?;
        let id = process.id();
        process::wait_until("the daemon's socket", START, || {
            anyhow::ensure!(
                process.running(),
                "paravane-blockd ended at its start; see its log"
            );
            listens(self.socket(), id)
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

    /// Sends one request to the control socket and returns the answer.
    ///
    /// # Errors
    /// When the daemon does not answer, or not with JSON, or with an error.
    pub fn control(&self, request: &serde_json::Value) -> anyhow::Result<serde_json::Value> {
        let mut stream = UnixStream::connect(&self.arguments[3])
            .with_context(|| format!("Connect to {}", self.arguments[3]))?;
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

/// Whether a listening socket with this path exists; a connection would be a session. The process
/// id is looked at so that the socket of a killed predecessor does not count.
fn listens(socket: &str, id: u32) -> anyhow::Result<bool> {
    const LISTENING: &str = "00010000";
    let sockets = std::fs::read_to_string("/proc/net/unix")?;
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
