//! What a restarted daemon has to know of a guest.

use control_protocol::BalloonSettings;
use serde::Deserialize;
use serde::Serialize;

/// The state of one balloon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VmState {
    /// Bytes that the guest was asked to give up.
    pub target: u64,
    /// Bytes that it said it had given up.
    pub actual: Option<u64>,
    /// What else `set` changed, and who moved the target if that is not what the configuration says.
    pub set: BalloonSettings,
}

impl VmState {
    /// Reads a line of an earlier version: `paravane-balloon-1 TARGET ACTUAL [POLICY]`.
    pub fn older(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        if words.next() != Some("paravane-balloon-1") {
            return None;
        }
        let target = words.next()?.parse().ok()?;
        let actual = match words.next()? {
            "-" => None,
            bytes => Some(bytes.parse().ok()?),
        };
        let policy = words.next().and_then(|word| word.parse().ok());
        let set = BalloonSettings {
            policy,
            ..BalloonSettings::default()
        };
        Some(Self {
            target,
            actual,
            set,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_protocol::Policy;

    #[test]
    fn lines_of_an_earlier_version_are_read() {
        let read = |line: &str| {
            let state = VmState::older(line)?;
            Some((state.target, state.actual, state.set.policy))
        };
        for (line, state) in [
            ("paravane-balloon-1 4096 -", Some((4096, None, None))),
            ("paravane-balloon-1 4096 - x", Some((4096, None, None))),
            (
                "paravane-balloon-1 0 4096 dry-run   \n",
                Some((0, Some(4096), Some(Policy::DryRun))),
            ),
            ("paravane-balloon-1", None),
            ("paravane-balloon-1 5", None),
            ("paravane-balloon-1 x -", None),
            ("paravane-balloon-1\0\0", None),
            ("", None),
        ] {
            assert_eq!(read(line), state, "{line:?}");
        }
    }
}
