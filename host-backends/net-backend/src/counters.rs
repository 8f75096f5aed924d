//! What a card has done, as numbers.
//!
//! Rule: reading them disturbs no worker.

use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::control::Control;
use crate::path::tally::Totals;
use crate::port::Port;

/// What a card's queues have done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// Frames.
    #[serde(flatten)]
    pub frames: Totals,
    /// Control requests.
    pub control_commands_total: u64,
    /// Control requests answered with ERR.
    pub control_refused_total: u64,
    /// Control chains without a byte for the answer.
    pub control_unanswered_total: u64,
    /// 1 while frames get through.
    pub link_up: u64,
    /// Queue pairs that the driver uses.
    pub active_pairs: u64,
    /// Things that are wrong now; `status` says which.
    pub conditions: u64,
}

impl Metrics {
    pub(crate) fn of(port: &Port, control: &Control) -> Self {
        let counters = &control.counters;
        let state = port.state();
        Self {
            frames: port.totals(),
            control_commands_total: counters.commands.load(Ordering::Relaxed),
            control_refused_total: counters.refused.load(Ordering::Relaxed),
            control_unanswered_total: counters.unanswered.load(Ordering::Relaxed),
            link_up: u64::from(state.link_up),
            active_pairs: u64::from(state.active_pairs),
            conditions: port.conditions().len() as u64,
        }
    }
}
