//! The daemon dies under load, again and again: every request must complete exactly once.
//!
//! One rule: the guest counts; the host only kills, restarts and reads the guest's verdict.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

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

/// Rounds in one life of the guest.
const BATCH: u32 = 25;
/// What a restart may take on a busy computer, for the guest's working time.
const RESTART: Duration = Duration::from_millis(150);

/// Kills and restarts `daemon` `rounds` times while the guest writes and reads numbered blocks;
/// the lives of the guest take turns with split and packed rings, and with one queue and `queues`. A guest whose time is
/// over before its rounds, on a busy computer, leaves the rest to the next.
///
/// # Errors
/// When a request is lost, doubled or failed, or the guest does not end, or ends before the daemon was killed at all.
pub fn kill_rounds(
    daemon: &mut Daemon,
    logs: &Path,
    queues: u16,
    rounds: u32,
    mut progress: impl FnMut(u32),
) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict::default();
    let mut life = 0;
    while verdict.rounds < rounds {
        let batch = BATCH.min(rounds.div_ceil(4)).min(rounds - verdict.rounds);
        one_life(daemon, logs, (life, queues), batch, &mut verdict)
            .with_context(|| format!("Life {life}, after {} rounds", verdict.rounds))?;
        progress(verdict.rounds);
        life += 1;
    }
    Ok(verdict)
}

/// How long the daemon lives in this round: from 3 to 600 ms, spread evenly.
fn lifetime(round: u32) -> Duration {
    Duration::from_millis(3 + u64::from(round) * 7919 % 600)
}

fn one_life(
    daemon: &mut Daemon,
    logs: &Path,
    (life, queues): (u32, u16),
    batch: u32,
    verdict: &mut Verdict,
) -> anyhow::Result<()> {
    let before = verdict.rounds;
    let rounds = before..before + batch;
    let work: Duration = rounds.clone().map(|round| lifetime(round) + RESTART).sum();
    let packed = life % 2;
    let queues = if life / 2 % 2 == 0 { 1 } else { queues };
    let seconds = work.as_secs() + 1;
    let words = format!(
        "sequence seconds={seconds} packed={packed} queues={queues} seed={}",
        life + 1
    );
    let packed = if packed == 1 { "on" } else { "off" };
    let disk = format!("socket={},packed={packed},queues={queues}", daemon.socket());
    let mut guest = Vm::probe(&words, &disk)?.start(logs, "sequence")?;
    guest.console.expect("started", Duration::from_secs(60))?;
    for round in rounds {
        std::thread::sleep(lifetime(round));
        if !guest.running() {
            break;
        }
        daemon.kill()?;
        daemon.restart()?;
        verdict.rounds += 1;
    }
    anyhow::ensure!(
        verdict.rounds > before,
        "The guest ended before the daemon was killed"
    );
    let lines = guest.finish(Duration::from_secs(120 + seconds))?;
    let number = |key: &str| lines.iter().rev().find_map(|line| line.get(key)?.as_u64());
    verdict.completed += number("completed").context("The guest gave no verdict")?;
    let pause = number("longest_pause_ms").unwrap_or(0);
    verdict.longest_pause_ms = verdict.longest_pause_ms.max(pause);
    Ok(())
}
