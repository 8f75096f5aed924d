//! What is known of one guest, and what follows from it.
//!
//! Rule: figures that a guest gives are claims; they move its own target between its own limits and nothing else.

use std::time::Duration;

use control_protocol::Policy;
use serde::Serialize;

use super::CALM;
use super::Decision;
use super::MIN_STEP;
use super::Reason;
use super::STUCK;
use super::share::Wish;

/// Bytes per second read back from swap that count as distress.
const SWAP_IN_RATE: u64 = 1 << 20;

/// What a guest said last; counters since its boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// How long ago.
    pub age: Duration,
    /// Bytes that programs could get without swapping.
    pub available: Option<u64>,
    /// Bytes swapped in.
    pub swap_in: Option<u64>,
    /// Processes killed for lack of memory.
    pub oom_kills: Option<u64>,
    /// Allocations that had to wait.
    pub stalls: Option<u64>,
}

/// One guest as it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guest {
    /// Its memory with an empty balloon, in bytes; nothing while no guest is there.
    pub size: Option<u64>,
    /// The balloon's target.
    pub target: u64,
    /// The balloon, as the guest says.
    pub actual: Option<u64>,
    /// Host memory behind the guest's.
    pub resident: u64,
    /// It keeps at least this.
    pub floor: Option<u64>,
    /// It gets at most this.
    pub ceiling: Option<u64>,
    /// Its share under shortage.
    pub weight: u32,
    /// Who moves its target.
    pub policy: Policy,
    /// What it said last.
    pub sample: Option<Sample>,
    /// How old a sample may be.
    pub patience: Duration,
}

/// What is remembered of a guest from round to round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    swap_in: Option<u64>,
    oom_kills: Option<u64>,
    stalls: Option<u64>,
    last: Option<Duration>,
    /// Rounds of distress in a row.
    rounds: u32,
    /// The guest was first seen.
    since: Option<Duration>,
    /// When it was given memory for need.
    given: Option<Duration>,
    /// When memory was taken from it.
    taken: Option<Duration>,
    /// Its balloon, and when that last changed.
    actual: u64,
    progress: Duration,
}

/// How a guest is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// It said nothing yet, or nothing useful.
    #[default]
    Unknown,
    /// It has enough.
    Well,
    /// It needs memory now.
    Distress(Reason),
    /// Its statistics stopped.
    Silent,
}

impl Need {
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Distress(reason) => Some(reason),
            Self::Silent => Some(Reason::NoStatistics),
            Self::Unknown | Self::Well => None,
        }
    }
}

impl State {
    /// Judges the guest's figures against the last ones, and remembers them.
    fn judge(&mut self, guest: &Guest, allowed: u64, now: Duration) -> Need {
        let since = *self.since.get_or_insert(now);
        let Some(sample) = guest.sample else {
            // A guest that boots has time for a first word.
            let silent = now.saturating_sub(since) > guest.patience.max(Duration::from_secs(60));
            return if silent { Need::Silent } else { Need::Unknown };
        };
        if sample.age > guest.patience {
            return Need::Silent;
        }
        let elapsed = self
            .last
            .map_or(Duration::from_secs(1), |last| now.saturating_sub(last));
        self.last = Some(now);
        let grown = |now: Option<u64>, before: &mut Option<u64>| {
            let grown = now
                .zip(*before)
                .map(|(now, before)| now.saturating_sub(before));
            *before = now;
            grown.unwrap_or(0)
        };
        let swapped = grown(sample.swap_in, &mut self.swap_in);
        let killed = grown(sample.oom_kills, &mut self.oom_kills);
        let stalled = grown(sample.stalls, &mut self.stalls);
        let rate = u128::from(swapped) * 1000 / elapsed.as_millis().max(1);
        let low = sample
            .available
            .is_some_and(|available| available < low_mark(allowed));
        let lowish = sample
            .available
            .is_some_and(|available| available < 2 * low_mark(allowed));
        let reason = if killed != 0 {
            Some(Reason::OutOfMemory)
        } else if rate > u128::from(SWAP_IN_RATE) {
            Some(Reason::SwapIn)
        } else if low || lowish && stalled != 0 {
            Some(Reason::LowMemory)
        } else {
            None
        };
        match (reason, sample.available) {
            (Some(reason), _) => Need::Distress(reason),
            (None, Some(_)) => Need::Well,
            (None, None) => Need::Unknown,
        }
    }

    /// Whether the guest still gives up what it was asked for.
    fn progresses(&mut self, actual: u64, target: u64, now: Duration) -> bool {
        if actual != self.actual || actual >= target {
            (self.actual, self.progress) = (actual, now);
        }
        now.saturating_sub(self.progress) < STUCK
    }

    /// Takes note of a decision that was carried out.
    pub(super) fn moved(&mut self, decision: &Decision, now: Duration) {
        if decision.to < decision.from {
            self.taken = Some(now);
        } else if decision.reason != Reason::Plenty {
            self.given = Some(now);
        }
    }
}

/// Below this a guest is in distress; bytes of `allowed`.
fn low_mark(allowed: u64) -> u64 {
    (allowed / 16).max(32 << 20).min(allowed / 4)
}

/// What a guest keeps available when others need its surplus.
fn keep_mark(allowed: u64) -> u64 {
    3 * low_mark(allowed)
}

/// A guest in one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    at: usize,
    from: u64,
    size: u64,
    actual: u64,
    reason: Option<Reason>,
    available: Option<u64>,
    /// It was given memory, or memory was taken from it, a short while ago.
    given: bool,
    taken: bool,
    progresses: bool,
    pub need: Need,
    /// What it is left with.
    pub allowed: u64,
    pub floor: u64,
    pub ceiling: u64,
    pub weight: u64,
    pub resident: u64,
    /// What it lacks.
    pub asks: u64,
    /// Its target is the policy's to move.
    pub moves: bool,
}

impl View {
    pub fn new(at: usize, guest: &Guest, state: &mut State, now: Duration) -> Option<Self> {
        let Some(size) = guest.size else {
            // The next guest behind this device is another one.
            *state = State::default();
            return None;
        };
        let allowed = size.saturating_sub(guest.target);
        let actual = guest.actual.unwrap_or(0).min(size);
        let ceiling = guest.ceiling.unwrap_or(size).min(size);
        let floor = guest.floor.unwrap_or(size / 4).min(ceiling);
        let moves = guest.policy != Policy::Manual;
        let need = state.judge(guest, allowed, now);
        let recent =
            |then: Option<Duration>| then.is_some_and(|then| now.saturating_sub(then) < CALM);
        let mut view = Self {
            at,
            from: allowed,
            size,
            actual,
            reason: None,
            available: guest.sample.and_then(|sample| sample.available),
            given: recent(state.given),
            taken: recent(state.taken),
            progresses: state.progresses(actual, guest.target, now),
            need,
            allowed,
            floor,
            ceiling,
            weight: u64::from(guest.weight.max(1)),
            resident: guest.resident.min(size),
            asks: 0,
            moves,
        };
        view.ask(state);
        Some(view)
    }

    fn ask(&mut self, state: &mut State) {
        let room = self.ceiling.saturating_sub(self.allowed);
        let wanted = match self.need {
            Need::Distress(_) => {
                state.rounds = state.rounds.saturating_add(1);
                let step = (self.size / 32).max(2 * MIN_STEP) << state.rounds.min(4);
                let lacks = keep_mark(self.allowed).saturating_sub(self.available.unwrap_or(0));
                step.max(lacks)
            }
            Need::Silent => self.size,
            Need::Unknown | Need::Well => {
                state.rounds = 0;
                0
            }
        };
        self.asks = if self.moves { wanted.min(room) } else { 0 };
    }

    /// What it has now: all that it has not given up.
    fn holds(&self) -> u64 {
        self.size - self.actual
    }

    /// What it may take.
    pub fn committed(&self) -> u64 {
        self.allowed.max(self.holds())
    }

    /// What it is giving up, as far as it can be counted on.
    pub fn coming(&self) -> u64 {
        if self.progresses {
            self.holds().saturating_sub(self.allowed)
        } else {
            0
        }
    }

    /// Most that is taken from it in one round.
    fn rate(&self) -> u64 {
        (self.size / 8).max(4 * MIN_STEP)
    }

    /// What it can spare.
    pub fn spare(&self) -> u64 {
        if !self.moves || self.given || !self.progresses || self.need != Need::Well {
            return 0;
        }
        // What it is giving up already comes out of what it has available now.
        let available = self
            .available
            .unwrap_or(0)
            .saturating_sub(self.holds().saturating_sub(self.allowed));
        let surplus = available.saturating_sub(keep_mark(self.allowed));
        worth(
            surplus
                .min(self.allowed.saturating_sub(self.floor))
                .min(self.rate()),
        )
    }

    /// What it has above `fair`.
    pub fn above(&self, fair: u64) -> u64 {
        if !self.moves {
            return 0;
        }
        worth(
            self.allowed
                .saturating_sub(fair.max(self.floor))
                .min(self.rate()),
        )
    }

    /// What it may still be given without need.
    pub fn room(&self) -> u64 {
        if !self.moves || self.taken || self.reason.is_some() {
            return 0;
        }
        self.ceiling
            .saturating_sub(self.allowed)
            .min(self.rate() / 4)
    }

    /// What it wants of a short whole: those who said that they are well want what they use.
    pub fn wish(&self) -> Wish {
        if !self.moves {
            return Wish {
                floor: self.committed(),
                most: self.committed(),
                weight: self.weight,
            };
        }
        let most = match (self.need, self.available) {
            (Need::Well, Some(available)) => {
                let used = self.holds().saturating_sub(available);
                (used + keep_mark(self.allowed)).max(self.floor)
            }
            _ => self.ceiling,
        };
        Wish {
            floor: self.floor,
            most: most.min(self.ceiling),
            weight: self.weight,
        }
    }

    /// Weight as a giver: the heavier, the less it gives.
    pub fn inverse_weight(&self) -> u64 {
        (1 << 32) / self.weight
    }

    pub fn set(&mut self, allowed: u64, reason: Reason) {
        self.allowed = allowed.clamp(self.floor, self.ceiling);
        self.reason = Some(reason);
    }

    pub fn decision(&self) -> Option<Decision> {
        let reason = self.reason.filter(|_| self.allowed != self.from)?;
        Some(Decision {
            guest: self.at,
            from: self.from,
            to: self.allowed,
            reason,
        })
    }
}

/// Nothing, unless it is worth the trouble.
fn worth(bytes: u64) -> u64 {
    if bytes < MIN_STEP { 0 } else { bytes }
}
