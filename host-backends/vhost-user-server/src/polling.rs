//! How long a worker polls before it sleeps. One rule: polling is only for a wait that is known to be short, on a CPU
//! that nobody else wants.
//!
//! Two things are waited for, and each has its own usual time: the driver's next request, and the end of what is in
//! flight. A wait that is usually longer than is worth polling for is slept through from its start; a shorter one is polled for a
//! little longer than it usually takes.
//!
//! A poller that shares its CPU keeps away the very threads it waits for: another queue's worker, the kernel's own, the
//! guest's. So it gives the CPU away at each look at the clock. With those that give it back soon that is all it takes.
//! Others keep it as long as the scheduler lets them; and a poller comes back last, because it has used up its share, where
//! a sleeper that is woken goes first. So a poller measures how long it was preempted, and sleeps for a while if that was
//! much.

use crate::Polling;
use std::time::Duration;
use std::time::Instant;

/// The longest usual wait for a completion that is polled for. A wake-up costs some ten microseconds, a twentieth of it.
const COMPLETION_MOST: Duration = Duration::from_micros(200);
/// The same for the driver's next request: nobody waits for an answer meanwhile, so the CPU's time counts for more.
const REQUEST_MOST: Duration = Duration::from_micros(100);
/// Longest window of `Polling::Auto`.
const WINDOW_MAX: Duration = Duration::from_micros(400);
/// Shortest: what a glance costs is not worth saving.
const WINDOW_MIN: Duration = Duration::from_micros(10);
/// Idle rounds between two looks at the clock.
const ROUNDS_PER_CLOCK: u32 = 8;
/// Between two looks at the clock pass a few microseconds, and a few more if another poller or the kernel had a turn. After
/// more than this the CPU was with somebody who does not give it back by himself.
const PREEMPTED: Duration = Duration::from_micros(500);
/// Polled time after which a new account begins.
const ACCOUNT: Duration = Duration::from_millis(20);
/// Preemption for more than this share (one in so many) of it ends the polling.
const TOLERATED: u32 = 4;
/// How long no polling begins then, at first and at most.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// What an idle worker waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// The driver's next request; nothing is in flight.
    Request,
    /// The end of something in flight, or another request.
    Completion,
}

/// Decides, after an idle round, whether to poll on.
#[derive(Debug)]
pub(crate) struct Poller {
    mode: Polling,
    requests: MeanWait,
    completions: MeanWait,
    /// The present wait; `None` while there is activity.
    wait: Option<Wait>,
    rounds: u32,
    contention: Contention,
}

/// One wait, from the first look at the clock on.
#[derive(Debug, Clone, Copy)]
struct Wait {
    awaited: Awaited,
    since: Instant,
    looked: Instant,
    window: Duration,
}

impl Poller {
    pub(crate) fn new(mode: Polling) -> Self {
        // The first waits are short: whoever starts a queue is about to use it.
        Self {
            mode,
            requests: MeanWait::up_to(REQUEST_MOST),
            completions: MeanWait::up_to(COMPLETION_MOST),
            wait: None,
            rounds: 0,
            contention: Contention::default(),
        }
    }

    /// Something was taken or completed.
    #[inline]
    pub(crate) fn activity(&mut self) {
        self.rounds = 0;
        if let Some(wait) = self.wait.take() {
            self.learn(wait.awaited, wait.looked - wait.since);
        }
    }

    /// Nothing was, and `in_flight` requests wait for their end; whether to poll once more instead of sleeping.
    #[inline]
    pub(crate) fn poll_on(&mut self, in_flight: usize) -> bool {
        match self.mode {
            Polling::Off => return false,
            Polling::Always => return true,
            Polling::Auto | Polling::Window(_) => {}
        }
        self.rounds += 1;
        if self.rounds > 1 && !self.rounds.is_multiple_of(ROUNDS_PER_CLOCK) {
            return true;
        }
        if self.wait.is_some() {
            // Pollers that share a CPU take turns, and the kernel's threads get theirs at once.
            std::thread::yield_now();
        }
        let awaited = match in_flight {
            0 => Awaited::Request,
            _ => Awaited::Completion,
        };
        self.look(awaited, Instant::now())
    }

    /// Looks at the clock.
    fn look(&mut self, awaited: Awaited, now: Instant) -> bool {
        let Some(wait) = &mut self.wait else {
            let window = self.window(awaited, now);
            self.wait = Some(Wait {
                awaited,
                since: now,
                looked: now,
                window,
            });
            return !window.is_zero();
        };
        let passed = now - wait.looked;
        wait.looked = now;
        let lasts = now - wait.since < wait.window;
        let contended = self.mode == Polling::Auto && self.contention.note(passed, now);
        lasts && !contended
    }

    /// How long the wait that begins is polled for.
    fn window(&mut self, awaited: Awaited, now: Instant) -> Duration {
        match self.mode {
            Polling::Window(window) => window,
            _ if self.contention.backs_off(now) => Duration::ZERO,
            _ => self.mean_of(awaited).window(),
        }
    }

    /// The worker slept for `time`, then was woken.
    pub(crate) fn slept(&mut self, time: Duration) {
        self.rounds = 0;
        if let Some(wait) = self.wait.take() {
            self.learn(wait.awaited, wait.looked - wait.since + time);
        }
    }

    fn learn(&mut self, awaited: Awaited, time: Duration) {
        self.mean_of(awaited).learn(time);
    }

    fn mean_of(&mut self, awaited: Awaited) -> &mut MeanWait {
        match awaited {
            Awaited::Request => &mut self.requests,
            Awaited::Completion => &mut self.completions,
        }
    }
}

/// How long a kind of wait usually is: a mean in which the last waits count most.
#[derive(Debug)]
struct MeanWait {
    mean: Duration,
    most: Duration,
}

impl MeanWait {
    fn up_to(most: Duration) -> Self {
        Self {
            mean: Duration::ZERO,
            most,
        }
    }

    fn learn(&mut self, time: Duration) {
        // One very long wait says no more than one that is too long; a few short ones outweigh it.
        let time = time.min(2 * WINDOW_MAX);
        self.mean = (self.mean * 7 + time) / 8;
    }

    /// How long the next one is polled for.
    fn window(&self) -> Duration {
        if self.mean <= self.most {
            (2 * self.mean).clamp(WINDOW_MIN, WINDOW_MAX)
        } else {
            Duration::ZERO
        }
    }
}

/// Whether others want the CPU that we poll on.
#[derive(Debug)]
struct Contention {
    polled: Duration,
    preempted: Duration,
    back_off: Duration,
    backs_off_until: Option<Instant>,
}

impl Default for Contention {
    fn default() -> Self {
        Self {
            polled: Duration::ZERO,
            preempted: Duration::ZERO,
            back_off: BACK_OFF_MIN,
            backs_off_until: None,
        }
    }
}

impl Contention {
    /// Whether no polling is to begin `now`.
    fn backs_off(&self, now: Instant) -> bool {
        self.backs_off_until.is_some_and(|until| now < until)
    }

    /// `time` passed between two looks at the clock; whether the polling is to end.
    fn note(&mut self, time: Duration, now: Instant) -> bool {
        self.polled += time;
        if time > PREEMPTED {
            self.preempted += time;
        }
        if self.preempted > ACCOUNT / TOLERATED {
            self.backs_off_until = Some(now + self.back_off);
            self.back_off = (2 * self.back_off).min(BACK_OFF_MAX);
            (self.polled, self.preempted) = (Duration::ZERO, Duration::ZERO);
            return true;
        }
        if self.polled > ACCOUNT {
            self.back_off = BACK_OFF_MIN;
            (self.polled, self.preempted) = (Duration::ZERO, Duration::ZERO);
        }
        false
    }
}

#[cfg(test)]
#[path = "polling_tests.rs"]
mod tests;
