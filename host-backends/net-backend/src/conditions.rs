//! What is wrong with a card, in words for the operator: whatever makes it useless, or of less use than it looks, and
//! would show in a counter only.
//!
//! Rule: a condition is told when it begins, with its mend, and shown for as long as it holds. What a guest can bring
//! about again and again is told once in [`SILENCE`] and put into words once in a second.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use host_os::sync::lock;
use serde::Serialize;

/// Between two lines of the log about the same kind of condition of one card.
const SILENCE: Duration = Duration::from_secs(60);
/// Between two looks at what a condition that holds is about.
const PAUSE: Duration = Duration::from_secs(1);
/// For so long after its last sign a condition is shown that nothing ends: as long as a switch remembers a station.
const SHOWN: Duration = Duration::from_secs(300);

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConditionKind {
    /// Another port of the switch sends from an address that this one has, or the other way round.
    AddressInUse,
    /// The address filter drops what the guest sends.
    Spoofed,
    /// The card's MTU is not its link's.
    Mtu,
    /// The interface behind the link is down.
    Interface,
    /// The rate limit is below one full frame a second.
    RateLimit,
    /// All that the guest sends is dropped: the cable is out.
    Unplugged,
    /// All that the guest sends is dropped: offloads that were not negotiated.
    SentHeaders,
    /// All that the guest sends is dropped: too long or too short.
    SentLengths,
    /// All that the guest sends is dropped: no memory, or buffers to write to.
    SentChains,
    /// All that the guest sends is dropped: the link takes none of it.
    LinkRefuses,
    /// All that the guest sends is dropped: it is for addresses behind the guest's own port.
    Nowhere,
    /// All that the guest sends is dropped: offloads that cannot be done in software.
    SentOffloads,
    /// All that is for the guest is dropped: its driver gives no buffers.
    Starved,
    /// All that is for the guest is dropped: its buffers are too small.
    SmallBuffers,
    /// All that is for the guest is dropped: its buffers are no memory.
    BadBuffers,
    /// All that is for the guest is dropped: longer than the MTU that it was told.
    ReceivedLengths,
    /// All that is for the guest is dropped: offloads that it did not accept and that cannot be done in software.
    ReceivedOffloads,
}

impl ConditionKind {
    /// Whether it ends by time, because nothing tells that it has ended.
    fn fades(self) -> bool {
        matches!(self, Self::AddressInUse | Self::Spoofed)
    }
}

/// One thing that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// What.
    pub kind: ConditionKind,
    /// The same in words, with what mends it.
    pub message: String,
}

/// All that was ever wrong with one card.
#[derive(Debug)]
pub(crate) struct Conditions {
    /// The card's name, for the log.
    name: String,
    entries: Mutex<BTreeMap<ConditionKind, Entry>>,
}

#[derive(Debug)]
struct Entry {
    message: String,
    holds: bool,
    seen: Instant,
    told: Instant,
}

impl Conditions {
    /// Nothing is wrong with the card `name`.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            entries: Mutex::default(),
        }
    }

    /// `kind` holds, which `message` puts into words; returns whether it was told.
    #[cold]
    pub fn raise(&self, kind: ConditionKind, message: impl FnOnce() -> String) -> bool {
        self.raise_at(Instant::now(), kind, message)
    }

    fn raise_at(
        &self,
        now: Instant,
        kind: ConditionKind,
        message: impl FnOnce() -> String,
    ) -> bool {
        let mut entries = lock(&self.entries);
        let before = entries.get(&kind);
        let since = |then: Instant| now.saturating_duration_since(then);
        if before.is_some_and(|entry| entry.holds && since(entry.seen) < PAUSE) {
            return false;
        }
        let message = message();
        let news = before.is_none_or(|entry| {
            let faded = kind.fades() && since(entry.seen) >= SHOWN;
            !entry.holds || faded || entry.message != message
        });
        let tell = news && before.is_none_or(|entry| since(entry.told) >= SILENCE);
        if tell {
            tracing::warn!(name = self.name, "{message}");
        }
        let told = before.filter(|_| !tell).map_or(now, |entry| entry.told);
        let entry = Entry {
            message,
            holds: true,
            seen: now,
            told,
        };
        entries.insert(kind, entry);
        tell
    }

    /// `kind` does not hold any more.
    pub fn clear(&self, kind: ConditionKind) {
        if let Some(entry) = lock(&self.entries).get_mut(&kind) {
            entry.holds = false;
        }
    }

    /// Nothing that a driver or its front-end brought about holds any more.
    pub fn clear_drivers(&self) {
        use ConditionKind as Kind;
        let ours = [Kind::Mtu, Kind::Interface, Kind::RateLimit, Kind::Unplugged];
        for (kind, entry) in lock(&self.entries).iter_mut() {
            entry.holds &= ours.contains(kind);
        }
    }

    /// What is wrong now.
    pub fn list(&self) -> Vec<Condition> {
        self.list_at(Instant::now())
    }

    fn list_at(&self, now: Instant) -> Vec<Condition> {
        let entries = lock(&self.entries);
        let hold = entries.iter().filter(|(kind, entry)| {
            entry.holds && !(kind.fades() && now.saturating_duration_since(entry.seen) >= SHOWN)
        });
        hold.map(|(kind, entry)| Condition {
            kind: *kind,
            message: entry.message.clone(),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_told_when_it_begins_and_seldom_again() {
        let conditions = Conditions::new("card");
        let start = Instant::now();
        let raise = |seconds: u64, text: &str| {
            let now = start + Duration::from_secs(seconds);
            conditions.raise_at(now, ConditionKind::Starved, || text.to_owned())
        };
        assert!(raise(0, "first"));
        assert!(!raise(0, "second"), "not even put into words");
        assert_eq!(conditions.list()[0].message, "first");
        assert!(!raise(1, "second"), "shown, but not told so soon");
        assert_eq!(conditions.list()[0].message, "second");
        assert!(!raise(100, "second"), "it holds all the time");
        conditions.clear(ConditionKind::Starved);
        assert!(conditions.list().is_empty());
        assert!(raise(200, "second"), "it began anew");
        conditions.clear(ConditionKind::Starved);
        assert!(!raise(201, "second"), "but not every second");
        assert_eq!(conditions.list().len(), 1);
    }

    #[test]
    fn what_nothing_ends_fades() {
        let conditions = Conditions::new("card");
        let start = Instant::now();
        let told = conditions.raise_at(start, ConditionKind::Spoofed, || "spoofed".to_owned());
        assert!(told);
        conditions.raise_at(start, ConditionKind::Mtu, || "mtu".to_owned());
        let later = |seconds| {
            conditions
                .list_at(start + Duration::from_secs(seconds))
                .len()
        };
        assert_eq!((later(0), later(299), later(300)), (2, 2, 1));
        let again = start + Duration::from_secs(1000);
        assert!(conditions.raise_at(again, ConditionKind::Spoofed, || "spoofed".to_owned()));
    }

    #[test]
    fn a_reset_ends_what_its_driver_brought_about() {
        let conditions = Conditions::new("card");
        for kind in [ConditionKind::Starved, ConditionKind::Mtu] {
            conditions.raise(kind, String::new);
        }
        conditions.clear_drivers();
        let left: Vec<_> = conditions
            .list()
            .into_iter()
            .map(|left| left.kind)
            .collect();
        assert_eq!(left, [ConditionKind::Mtu]);
    }
}
