//! How memory is shared out: a pure function from what is known of host and guests to new targets, each with its reason.
//!
//! Rule: it reads no clock and no file and changes nothing; a guest never gets less than its floor, and no growth makes
//! the sum of what guests may take exceed what there is.
//!
//! In one round, with "memory" meaning what a guest is left with (its size less its balloon):
//!
//! 1. The budget is the pool's size, and no more than what the guests hold plus what the host has available less its
//!    reserve. What a guest may take is the larger of what it is allowed and what it has not given up yet.
//! 2. A guest in distress (it swaps in, kills processes, or has little available) asks for more, twice as much each round
//!    that this goes on. One whose statistics stopped asks for all that it may have.
//! 3. What is free in the budget is granted at once, by weight.
//! 4. What lacks is taken from guests that have more available than they need, in proportion to their surplus and against
//!    their weight, at a limited rate; if that is not enough, from those above their fair share. It is granted in a later
//!    round, when it has really been given up.
//! 5. When nothing lacks and more is free than the margin, memory flows back slowly.
//!
//! Against oscillation: surplus begins well above distress, small changes are left alone, who was given memory for need
//! is not taken from for a while, and who gave does not get it back for a while unless in need.

mod guest;
mod share;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::time::Duration;

use control_protocol::Policy;
use serde::Serialize;

pub use guest::Guest;
pub use guest::Sample;
pub use guest::State;

use guest::View;

/// Smallest change that is worth a decision, in bytes.
pub const MIN_STEP: u64 = 16 << 20;
/// How long a guest that was given memory for need keeps it, and one that gave waits for more.
pub const CALM: Duration = Duration::from_secs(30);
/// How long a guest may take for any part of what it is to give up.
pub const STUCK: Duration = Duration::from_secs(10);

/// What the operator says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Memory for all guests together, in bytes.
    pub pool: Option<u64>,
    /// Memory that the host keeps available, in bytes.
    pub reserve: u64,
}

/// What is known of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Host {
    /// Bytes that programs could get without swapping.
    pub available: Option<u64>,
    /// Share of time, in percent of the last ten seconds, in which some task waited for memory.
    pub pressure: Option<f64>,
    /// The kernel told of pressure since the last round.
    pub alarm: bool,
}

/// Why a target moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The guest killed a process for lack of memory.
    OutOfMemory,
    /// The guest reads pages back from swap.
    SwapIn,
    /// The guest has little available.
    LowMemory,
    /// The guest no longer says how it is.
    NoStatistics,
    /// Floor or ceiling moved.
    Limits,
    /// Others need what this guest has available.
    Surplus,
    /// The host is short, and this guest is above its fair share.
    FairShare,
    /// Nobody needs what is free.
    Plenty,
}

/// One new target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Decision {
    /// Which guest, by its place in the input.
    #[serde(skip)]
    pub guest: usize,
    /// Memory that it was left with, in bytes.
    pub from: u64,
    /// Memory that it is left with from now on.
    pub to: u64,
    /// Why.
    pub reason: Reason,
}

/// How the pool stood in a round; bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Balance {
    /// Memory for all guests together.
    pub budget_bytes: u64,
    /// What guests are allowed, or have not given up yet.
    pub committed_bytes: u64,
    /// What guests were asked for and have not given up yet.
    pub coming_bytes: u64,
    /// What guests in need lack.
    pub wanted_bytes: u64,
}

/// One round: the new targets of guests under the policy, and what is to be remembered for the next round.
pub fn decide(
    settings: &Settings,
    host: &Host,
    guests: &[Guest],
    before: &[State],
    now: Duration,
) -> (Vec<Decision>, Vec<State>, Balance) {
    let mut states: Vec<State> = before.to_vec();
    states.resize_with(guests.len(), State::default);
    let mut views: Vec<View> = guests
        .iter()
        .zip(&mut states)
        .enumerate()
        .filter_map(|(at, (guest, state))| View::new(at, guest, state, now))
        .collect();
    let mut balance = measure(settings, host, &views);
    keep_limits(&mut views);
    grant(&mut views, &mut balance);
    let pressed = host.alarm || host.pressure.is_some_and(|some| some > 10.0);
    let lack = lacking(&views, &balance, pressed);
    if lack >= MIN_STEP {
        take(&mut views, &balance, lack, host);
    } else if lack == 0 && !pressed {
        give_back(&mut views, &mut balance);
    }
    let decisions: Vec<Decision> = views.iter().filter_map(View::decision).collect();
    for decision in &decisions {
        if let (Some(state), Some(guest)) =
            (states.get_mut(decision.guest), guests.get(decision.guest))
            && guest.policy == Policy::Auto
        {
            state.moved(decision, now);
        }
    }
    (decisions, states, balance)
}

/// What there is, and what is promised.
fn measure(settings: &Settings, host: &Host, views: &[View]) -> Balance {
    let held: u64 = views.iter().map(|view| view.resident).sum();
    let on_host = host
        .available
        .map(|available| (held + available).saturating_sub(settings.reserve));
    let budget = match (settings.pool, on_host) {
        (Some(pool), Some(host)) => pool.min(host),
        (Some(pool), None) => pool,
        (None, Some(host)) => host,
        // Nothing is known: what was promised stays, and nothing more is.
        (None, None) => views.iter().map(View::committed).sum(),
    };
    Balance {
        budget_bytes: budget,
        committed_bytes: views.iter().map(View::committed).sum(),
        coming_bytes: views.iter().map(View::coming).sum(),
        wanted_bytes: views.iter().map(|view| view.asks).sum(),
    }
}

impl Balance {
    fn free(&self) -> u64 {
        self.budget_bytes.saturating_sub(self.committed_bytes)
    }

    fn grow(&mut self, bytes: u64) {
        self.committed_bytes += bytes;
    }
}

/// Who is above its ceiling gives; who is below its floor gets, even before it asks.
fn keep_limits(views: &mut [View]) {
    for view in views.iter_mut().filter(|view| view.moves) {
        if view.allowed > view.ceiling {
            view.set(view.ceiling, Reason::Limits);
        } else if view.allowed < view.floor {
            view.set(view.floor, Reason::Limits);
        }
    }
}

/// Shares what is free among those who ask.
fn grant(views: &mut [View], balance: &mut Balance) {
    let asking: Vec<(u64, u64)> = views.iter().map(|view| (view.asks, view.weight)).collect();
    let grants = share::by_weight(balance.free(), &asking);
    for (view, bytes) in views.iter_mut().zip(grants) {
        let worth = bytes >= MIN_STEP || bytes != 0 && bytes == view.asks;
        let Some(reason) = view.need.reason().filter(|_| worth) else {
            continue;
        };
        // Memory on its way out of the guest is committed already.
        let before = view.committed();
        view.set(view.allowed + bytes, reason);
        balance.grow(view.committed() - before);
        view.asks -= bytes;
    }
}

/// What is to be taken beyond what is already on its way.
fn lacking(views: &[View], balance: &Balance, pressed: bool) -> u64 {
    let unmet: u64 = views.iter().map(|view| view.asks).sum();
    let over = balance.committed_bytes.saturating_sub(balance.budget_bytes);
    let extra = if pressed {
        (balance.budget_bytes / 64).max(MIN_STEP)
    } else {
        0
    };
    (unmet + over + extra).saturating_sub(balance.coming_bytes)
}

/// Takes `lack` bytes: first what guests have to spare, then what is above their fair share.
fn take(views: &mut [View], balance: &Balance, lack: u64, host: &Host) {
    let spare: Vec<(u64, u64)> = views
        .iter()
        .map(|view| (view.spare(), view.inverse_weight()))
        .collect();
    let mut left = lack;
    for (view, bytes) in views.iter_mut().zip(share::by_weight(lack, &spare)) {
        if bytes != 0 {
            // Small parts of a lack that many share would otherwise be left alone for ever.
            let bytes = bytes.max(MIN_STEP);
            view.set(view.allowed.saturating_sub(bytes), Reason::Surplus);
            left = left.saturating_sub(bytes);
        }
    }
    let over = balance.committed_bytes > balance.budget_bytes;
    let needy = views.iter().any(|view| view.asks != 0);
    if left < MIN_STEP || !(over || needy) || host.available.is_none() && balance.budget_bytes == 0
    {
        return;
    }
    let wishes: Vec<_> = views.iter().map(View::wish).collect();
    let fair = share::fair(balance.budget_bytes, &wishes);
    let above: Vec<(u64, u64)> = views
        .iter()
        .zip(&fair)
        .map(|(view, fair)| (view.above(*fair), view.inverse_weight()))
        .collect();
    for (view, bytes) in views.iter_mut().zip(share::by_weight(left, &above)) {
        if bytes != 0 {
            view.set(
                view.allowed.saturating_sub(bytes.max(MIN_STEP)),
                Reason::FairShare,
            );
        }
    }
}

/// Lets memory flow back that nobody needs, as long as a margin stays.
fn give_back(views: &mut [View], balance: &mut Balance) {
    let margin = balance.budget_bytes / 16;
    let free = balance.free().saturating_sub(margin);
    let room: Vec<(u64, u64)> = views
        .iter()
        .map(|view| (view.room(), view.weight))
        .collect();
    for (view, bytes) in views.iter_mut().zip(share::by_weight(free, &room)) {
        if bytes >= MIN_STEP || bytes != 0 && view.allowed + bytes == view.ceiling {
            let before = view.committed();
            view.set(view.allowed + bytes, Reason::Plenty);
            balance.grow(view.committed() - before);
        }
    }
}
