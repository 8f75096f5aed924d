//! The serial console of a machine: a log, and a conversation in lines.
//!
//! One rule: a scenario inside the guest says `@@ step`, the test waits for that line and answers
//! with one line; `@@ failed`, a kernel panic or the end of the stream fail the wait at once.

use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::process::ChildStdin;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;

/// How the error of a machine that ended too early begins.
const MACHINE_ENDED: &str = "the machine ended";

/// Whether the outer machine of a nested test failed by itself: its kernel reports a stuck CPU, or
/// it vanished without a word. A machine that said how its programs ended, that something failed,
/// that it panics or powers down did not vanish: whatever that was is the test's business.
pub fn host_failed(console: &str, error: &str) -> bool {
    let says = |words: &[&str]| {
        let mut own = console.lines().filter(|line| !line.contains("inner:"));
        own.any(|line| words.iter().any(|word| line.contains(word)))
    };
    let orderly = ["@@ monitor ended", "@@ failed", "Power down", "panic"];
    says(&["detected stall", "soft lockup"]) || error.starts_with(MACHINE_ENDED) && !says(&orderly)
}

/// Words that end every wait.
const FATAL: &[&str] = &[
    "@@ failed",
    "Kernel panic",
    "BUG: ",
    "I/O error, dev",
    "Oops: ",
];

/// Lines from a machine, each also in the log with the seconds since start.
#[derive(Debug)]
pub struct Console {
    lines: Receiver<String>,
    input: Option<ChildStdin>,
    seen: Vec<String>,
}

impl Console {
    /// Reads `output` in a thread of its own until it ends.
    ///
    /// # Errors
    /// When the log cannot be created.
    pub fn attach(
        output: impl Read + Send + 'static,
        input: Option<ChildStdin>,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let mut log = File::create(log).with_context(|| format!("Create {}", log.display()))?;
        let (send, lines) = mpsc::channel();
        let start = Instant::now();
        std::thread::Builder::new()
            .name("console".into())
            .spawn(move || {
                let mut reader = BufReader::new(output);
                let mut raw = Vec::new();
                while matches!(reader.read_until(b'\n', &mut raw), Ok(read) if read > 0) {
                    let line = String::from_utf8_lossy(&raw).trim_end().to_string();
                    raw.clear();
                    let seconds = start.elapsed().as_secs_f64();
                    // A full disk must not stop the conversation.
                    let _unlogged = writeln!(log, "{seconds:8.2} {line}");
                    if send.send(line).is_err() {
                        break;
                    }
                }
            })?;
        Ok(Self {
            lines,
            input,
            seen: Vec::new(),
        })
    }

    /// Waits for a line that contains `text` and returns it.
    ///
    /// # Errors
    /// After `limit`, when the guest reports a failure, or when the machine ends.
    pub fn expect(&mut self, text: &str, limit: Duration) -> anyhow::Result<String> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return Ok(line);
                    }
                    if FATAL.iter().any(|word| line.contains(word)) {
                        bail!("waiting for `{text}`, the guest said: {}", self.tail());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "`{text}` did not come within {limit:?}; last: {}",
                        self.tail()
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("{MACHINE_ENDED} before `{text}`; last: {}", self.tail())
                }
            }
        }
    }

    /// Passes over what was said until now, so that the next line is a later one.
    ///
    /// # Errors
    /// When a failure was among it.
    pub fn catch_up(&mut self) -> anyhow::Result<()> {
        while let Ok(line) = self.lines.try_recv() {
            self.seen.push(line.clone());
            if FATAL.iter().any(|word| line.contains(word)) {
                bail!("the guest said: {}", self.tail());
            }
        }
        Ok(())
    }

    /// Sends one line.
    ///
    /// # Errors
    /// When the machine has gone.
    pub fn answer(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("This console has no input")?;
        input.write_all(format!("{line}\n").as_bytes())?;
        input.flush()?;
        Ok(())
    }

    /// Everything until the machine ends its output, at most `limit`.
    ///
    /// # Errors
    /// After `limit`.
    pub fn drain(&mut self, limit: Duration) -> anyhow::Result<&[String]> {
        let end = Instant::now() + limit;
        loop {
            match self
                .lines
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => return Ok(&self.seen),
                Err(RecvTimeoutError::Timeout) => bail!("the machine still runs: {}", self.tail()),
            }
        }
    }

    /// Every line so far.
    pub fn seen(&self) -> &[String] {
        &self.seen
    }

    fn tail(&self) -> String {
        let from = self.seen.len().saturating_sub(12);
        self.seen[from..].join("\n    ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDED: &str = "the machine ended before `inner: @@ up`; last: ...";

    #[test]
    fn a_stall_or_a_silent_end_is_the_hosts() {
        let stall = "1.0 inner: @@ up\n2.0 rcu: INFO: rcu_preempt self-detected stall on CPU\n";
        assert!(host_failed(stall, "`@@ monitor ended` did not come"));
        assert!(host_failed("1.0 @@ up\n2.0 inner: Power down\n", ENDED));
    }

    #[test]
    fn what_the_programs_or_the_inner_guest_did_is_not_the_hosts() {
        for last in [
            "@@ monitor ended with 139",
            "@@ failed with 1 in step: x",
            "Kernel panic",
        ] {
            assert!(
                !host_failed(&format!("1.0 @@ up\n2.0 {last}\n"), ENDED),
                "{last}"
            );
        }
        assert!(!host_failed(
            "1.0 inner: self-detected stall\n",
            "no answer"
        ));
        assert!(!host_failed("1.0 @@ up\n", "no answer"));
    }
}
