//! The daemon dies under load, again and again: every request must complete exactly once.
//!
//! One rule: the guest counts; the host only kills, restarts and reads the guest's verdict.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::daemon::Daemon;
use crate::monitor::Vm;

/// What a soak showed.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// How often the daemon died.
    pub rounds: u32,
    /// Requests that the guest submitted and saw complete, each exactly once.
    pub completed: u64,
    /// Longest pause that the guest saw, in milliseconds.
    pub longest_pause_ms: u64,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rounds,
            completed,
            longest_pause_ms,
        } = self;
        write!(
            f,
            "{rounds} times; {completed} requests, each completed exactly once; longest pause {longest_pause_ms} ms"
        )
    }
}

/// Kills and restarts `daemon` `rounds` times while the guest writes and reads numbered blocks.
///
/// # Errors
/// When a request is lost, doubled or failed, or the guest does not end.
pub fn kill_rounds(
    daemon: &mut Daemon,
    logs: &Path,
    rounds: u32,
    mut progress: impl FnMut(u32),
) -> anyhow::Result<Verdict> {
    let words = format!("sequence seconds={}", 2 + rounds);
    let disk = format!("socket={}", daemon.socket());
    let mut guest = Vm::probe(&words, &disk)?.start(logs, "sequence")?;
    guest.console.expect("started", Duration::from_secs(30))?;
    for round in 0..rounds {
        // From 3 to 600 ms, never the same twice in a row.
        let wait = 3 + u64::from(round) * 7919 % 600;
        std::thread::sleep(Duration::from_millis(wait));
        daemon.kill()?;
        daemon.restart()?;
        progress(round + 1);
    }
    let lines = guest.finish(Duration::from_secs(120 + u64::from(rounds)))?;
    let last = lines.last().context("The guest gave no verdict")?;
    let number = |key: &str| last.get(key).and_then(Value::as_u64);
    Ok(Verdict {
        rounds,
        completed: number("completed").with_context(|| format!("Verdict {last}"))?,
        longest_pause_ms: number("longest_pause_ms").unwrap_or(0),
    })
}
