//! A host and guests that behave as real ones do, one second a round.
//!
//! Rule: no randomness of its own; what varies comes from the test.

use std::time::Duration;

use control_protocol::Policy;

use super::Decision;
use super::Guest;
use super::Host;
use super::Sample;
use super::Settings;
use super::State;
use super::decide;

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// A guest with a working set.
#[derive(Clone, Debug)]
pub struct Actor {
    pub guest: Guest,
    /// What its programs use, in bytes.
    pub uses: u64,
    /// Bytes that it moves into or out of its balloon in a second; zero for one that does not cooperate.
    pub speed: u64,
    /// It answers questions.
    pub talks: bool,
    balloon: u64,
    swapped: u64,
    silent: Duration,
    pub log: Vec<(Duration, Decision)>,
}

impl Actor {
    pub fn new(size: u64, uses: u64) -> Self {
        Self {
            guest: Guest {
                size: Some(size),
                target: 0,
                actual: None,
                resident: 0,
                floor: None,
                ceiling: None,
                weight: 100,
                policy: Policy::Auto,
                sample: None,
                patience: Duration::from_secs(5),
            },
            uses,
            speed: 512 * MIB,
            talks: true,
            balloon: 0,
            swapped: 0,
            silent: Duration::ZERO,
            log: Vec::new(),
        }
    }

    pub fn weight(mut self, weight: u32) -> Self {
        self.guest.weight = weight;
        self
    }

    pub fn limits(mut self, floor: u64, ceiling: u64) -> Self {
        (self.guest.floor, self.guest.ceiling) = (Some(floor), Some(ceiling));
        self
    }

    pub fn size(&self) -> u64 {
        self.guest.size.unwrap_or(0)
    }

    /// What the guest has now.
    pub fn holds(&self) -> u64 {
        self.size() - self.balloon
    }

    /// What it is allowed.
    pub fn allowed(&self) -> u64 {
        self.size().saturating_sub(self.guest.target)
    }

    /// One second passes.
    fn live(&mut self) {
        let target = self.guest.target;
        if self.balloon < target {
            // A guest gives what it can without dying of it.
            let can = self.holds().saturating_sub(64 * MIB).min(self.speed);
            self.balloon += can.min(target - self.balloon);
        } else {
            self.balloon -= (self.balloon - target).min(self.speed);
        }
        self.guest.actual = Some(self.balloon);
        // Memory that was never used is not there.
        self.guest.resident = self.guest.resident.max(self.uses).min(self.holds());
        let lacks = self.uses.saturating_sub(self.holds());
        self.swapped += lacks / 4;
        self.silent = if self.talks {
            Duration::ZERO
        } else {
            self.silent + Duration::from_secs(1)
        };
        let sample = Sample {
            age: self.silent,
            available: Some(self.holds().saturating_sub(self.uses)),
            swap_in: Some(self.swapped),
            oom_kills: Some(0),
            stalls: Some(0),
        };
        if self.talks {
            self.guest.sample = Some(sample);
        } else if let Some(last) = &mut self.guest.sample {
            last.age = self.silent;
        }
    }
}

/// A host with guests.
pub struct World {
    pub settings: Settings,
    pub memory: u64,
    /// What the host's other programs use.
    pub others: u64,
    pub actors: Vec<Actor>,
    states: Vec<State>,
    pub now: Duration,
}

impl World {
    pub fn new(memory: u64, actors: Vec<Actor>) -> Self {
        Self {
            settings: Settings {
                pool: None,
                reserve: memory / 16,
            },
            memory,
            others: 0,
            actors,
            states: Vec::new(),
            now: Duration::from_secs(100),
        }
    }

    pub fn host(&self) -> Host {
        let held: u64 = self.actors.iter().map(|actor| actor.guest.resident).sum();
        Host {
            available: Some(self.memory.saturating_sub(held + self.others)),
            pressure: None,
            alarm: false,
        }
    }

    pub fn committed(&self) -> u64 {
        self.actors
            .iter()
            .map(|actor| actor.allowed().max(actor.holds()))
            .sum()
    }

    /// One second: guests live, the policy decides, targets move. What must always hold is asserted here.
    pub fn step(&mut self) -> Vec<Decision> {
        self.actors.iter_mut().for_each(Actor::live);
        self.now += Duration::from_secs(1);
        let guests: Vec<Guest> = self.actors.iter().map(|actor| actor.guest).collect();
        let before = self.committed();
        let (decisions, states, balance) = decide(
            &self.settings,
            &self.host(),
            &guests,
            &self.states,
            self.now,
        );
        self.states = states;
        for decision in &decisions {
            let actor = &mut self.actors[decision.guest];
            let (size, floor) = (actor.size(), actor.guest.floor);
            let ceiling = actor.guest.ceiling.unwrap_or(size).min(size);
            let floor = floor.unwrap_or(size / 4).min(ceiling);
            assert!(
                (floor..=ceiling).contains(&decision.to),
                "{decision:?} leaves {floor}..{ceiling}"
            );
            assert_eq!(decision.from, actor.allowed());
            if actor.guest.policy == Policy::Auto {
                actor.guest.target = size - decision.to;
            }
            actor.log.push((self.now, *decision));
        }
        let after = self.committed();
        let budget = balance.budget_bytes;
        let raised = decisions.iter().any(|d| d.reason == super::Reason::Limits);
        assert!(
            raised || after <= before.max(budget),
            "{before} became {after} with a budget of {budget}"
        );
        decisions
    }

    pub fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.step();
        }
    }

    /// Asserts that nothing moves any more.
    pub fn is_calm(&mut self, seconds: u64) {
        for _ in 0..seconds {
            let decisions = self.step();
            assert!(decisions.is_empty(), "{decisions:?} after {:?}", self.now);
        }
    }
}
