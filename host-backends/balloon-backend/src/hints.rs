//! Free page hinting (virtio 1.4 sec. 5.5.6.4): rounds, and what is known to be free in the current one.
//!
//! Rule: hinted pages are remembered and never touched. A driver may use one again, before its hint was even looked at
//! (driver clauses of 5.5.6.4.1), and then its content must stay; a device that sees no writes cannot tell. The set
//! serves those who copy guest memory: together with a dirty log that runs since before the round, it says what need
//! not be copied.

use std::hash::BuildHasher;
use std::hash::Hasher;
use std::hash::RandomState;
use std::ops::Range;

use virtio_spec::balloon::hint_command;

use crate::pages::Pages;

/// Where a round stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HintState {
    /// No round; the driver may keep what it hinted.
    Stopped,
    /// The device asked for hints; none came yet.
    Asked,
    /// Hints come.
    Running,
    /// The driver has no more.
    Complete,
    /// The driver has its pages back.
    Done,
}

/// The current round.
#[derive(Debug)]
pub(crate) struct Hints {
    /// What the configuration space shows.
    pub command: u32,
    pub state: HintState,
    next: u32,
    /// The round of the driver's hints that are now coming.
    theirs: Option<u32>,
    pages: Pages,
}

impl Default for Hints {
    fn default() -> Self {
        Self {
            command: hint_command::STOP,
            state: HintState::Stopped,
            next: somewhere(),
            theirs: None,
            pages: Pages::default(),
        }
    }
}

/// The id of a process's first round. A driver ignores an id that it had before, and may have had it from an earlier
/// process: it is not reset when that one ends (sec. 5.5.6.4.2).
fn somewhere() -> u32 {
    let random = RandomState::new().build_hasher().finish() as u32;
    random.max(hint_command::FIRST)
}

impl Hints {
    /// The device serves nobody; the rounds to come have other ids than those before.
    pub fn leave(&mut self) {
        *self = Self {
            next: self.next,
            ..Self::default()
        };
    }

    /// A new round; returns its command id.
    pub fn start(&mut self) -> u32 {
        self.command = self.next;
        self.next = self.next.checked_add(1).unwrap_or(hint_command::FIRST);
        self.state = HintState::Asked;
        self.pages.clear();
        self.command
    }

    /// The host has no use for hints now; the driver keeps its pages.
    pub fn stop(&mut self) {
        self.command = hint_command::STOP;
        self.state = HintState::Stopped;
    }

    /// The host needs the hints no longer; the driver may use its pages.
    pub fn done(&mut self) {
        self.command = hint_command::DONE;
        self.state = HintState::Done;
        self.pages.clear();
    }

    /// The driver's word; `false` for one that belongs to no round of ours.
    pub fn told(&mut self, command: u32) -> bool {
        let current = command >= hint_command::FIRST && command == self.command;
        match command {
            hint_command::STOP => {
                let ours = self.theirs.take() == Some(self.command);
                if ours && self.state == HintState::Running {
                    self.state = HintState::Complete;
                }
                true
            }
            _ => {
                self.theirs = Some(command);
                if current {
                    self.state = HintState::Running;
                }
                current
            }
        }
    }

    /// Whether hints that come now belong to the current round.
    pub fn current(&self) -> bool {
        self.state == HintState::Running && self.theirs == Some(self.command)
    }

    /// Pages that are free.
    pub fn add(&mut self, pages: Range<u64>) {
        self.pages.insert(pages);
    }

    /// How many pages were hinted in this round.
    pub fn len(&self) -> u64 {
        self.pages.len()
    }

    /// Hinted pages by runs.
    pub fn runs(&self) -> Vec<Range<u64>> {
        let mut runs = Vec::new();
        self.pages.for_each_run(|run| runs.push(run));
        runs
    }
}
