//! What the pool decided lately.
//!
//! Rule: bounded; the log has the rest.

use std::collections::VecDeque;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use serde_json::Value;
use serde_json::json;

use crate::policy::Decision;

/// Decisions that are kept.
const KEPT: usize = 64;

/// The last decisions.
#[derive(Debug, Default)]
pub struct Journal {
    entries: VecDeque<Value>,
    decisions: u64,
    shrunk_bytes: u64,
    grown_bytes: u64,
}

impl Journal {
    /// Keeps and logs a decision about the device `name`.
    pub fn add(&mut self, name: &str, decision: &Decision, carried_out: bool) {
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64());
        tracing::info!(device = name, from = decision.from, to = decision.to, reason = ?decision.reason,
            carried_out, "memory of a guest");
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back(json!({
            "time": seconds,
            "device": name,
            "from": decision.from,
            "to": decision.to,
            "reason": decision.reason,
            "carried_out": carried_out,
        }));
        if carried_out {
            self.decisions += 1;
            self.shrunk_bytes += decision.from.saturating_sub(decision.to);
            self.grown_bytes += decision.to.saturating_sub(decision.from);
        }
    }

    /// The last decisions, the newest last.
    pub fn entries(&self) -> Value {
        self.entries.iter().cloned().collect()
    }

    /// Decisions carried out, bytes taken from guests, bytes given to them.
    pub fn sums(&self) -> (u64, u64, u64) {
        (self.decisions, self.shrunk_bytes, self.grown_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Reason;

    #[test]
    fn the_journal_keeps_the_newest_and_sums_all() {
        let mut journal = Journal::default();
        for at in 0..200 {
            let decision = Decision {
                guest: 0,
                from: 1000 + at,
                to: 1000,
                reason: Reason::Surplus,
            };
            journal.add("vm", &decision, at % 2 == 0);
        }
        let entries = journal.entries();
        assert_eq!(entries.as_array().map(Vec::len), Some(KEPT));
        assert_eq!(entries[KEPT - 1]["from"], 1199);
        assert_eq!(entries[0]["reason"], "surplus");
        assert_eq!(journal.sums(), (100, (0..200).step_by(2).sum(), 0));
    }
}
