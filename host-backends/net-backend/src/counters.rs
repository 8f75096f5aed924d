//! What a card has done, as numbers.
//!
//! Rule: reading them disturbs no worker.

use metrics::CounterSet as _;
use metrics::Samples;

use crate::control::Control;
use crate::path::tally::Totals;
use crate::port::Port;

metrics::counters! {
    /// What the control queue has done.
    pub struct ControlStatistics named "control_",
    /// Where the control queue counts.
    pub(crate) struct ControlCounters of metrics::SharedCounter {
        /// Control requests.
        commands,
        /// Control requests answered with ERR.
        refused,
        /// Control chains without a byte for the answer.
        unanswered,
    }
}

metrics::metrics! {
    /// How a card stands.
    pub struct CardState {
        /// Whether frames get through.
        link_up: bool as gauge,
        /// Queue pairs that the driver uses.
        active_pairs: u64 as gauge,
        /// Things that are wrong now; `status` says which.
        conditions: u64 as gauge,
    }
}

/// What a card's queues have done since it was made, and how it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Frames.
    pub frames: Totals,
    /// Control requests.
    pub control: ControlStatistics,
    /// What is now.
    pub state: CardState,
}

impl Metrics {
    pub(crate) fn of(port: &Port, control: &Control) -> Self {
        let state = port.state();
        Self {
            frames: port.totals(),
            control: control.counters.sums(),
            state: CardState {
                link_up: state.link_up,
                active_pairs: state.active_pairs.into(),
                conditions: port.conditions().len() as u64,
            },
        }
    }

    /// All of them.
    pub fn samples(&self) -> Samples {
        self.frames.samples().and(&self.control).and(&self.state)
    }
}
