//! How long a worker polls before it sleeps. One rule: an idle queue costs nothing, so a window that did not pay
//! shrinks to zero, and only a wake-up that polling would have spared lets it grow again.

use crate::Polling;
use std::time::Duration;
use std::time::Instant;

/// Longest window of `Polling::Auto`.
const AUTO_MAX: Duration = Duration::from_micros(50);
/// First window after zero.
const AUTO_MIN: Duration = Duration::from_micros(10);
/// A sleep up to this long would have been spared by polling. Longer than the window, because it contains what sleeping itself costs: a
/// guest's doorbell is an exit to the host, and waking takes as long again, so that a driver that answers within a microsecond is not
/// seen before 60 us or so where exits are dear; judged by the window alone, one bad moment would end polling for ever.
const GROW_BELOW: Duration = Duration::from_micros(200);
/// After a sleep of this length polling was in vain.
const SHRINK_ABOVE: Duration = Duration::from_micros(800);
/// Idle rounds between two looks at the clock.
const ROUNDS_PER_CLOCK: u32 = 8;

/// Decides, after an idle round, whether to poll on.
#[derive(Debug)]
pub(crate) struct Poller {
    mode: Polling,
    window: Duration,
    /// Start of the present window; `None` while there is activity.
    idle_since: Option<Instant>,
    rounds: u32,
}

impl Poller {
    pub(crate) fn new(mode: Polling) -> Self {
        let window = match mode {
            Polling::Auto => AUTO_MAX,
            Polling::Off => Duration::ZERO,
            Polling::Always => Duration::MAX,
            Polling::Window(window) => window,
        };
        Self {
            mode,
            window,
            idle_since: None,
            rounds: 0,
        }
    }

    /// Something was taken or completed.
    #[inline]
    pub(crate) fn activity(&mut self) {
        self.idle_since = None;
        self.rounds = 0;
    }

    /// Nothing was; whether to poll once more instead of sleeping.
    #[inline]
    pub(crate) fn poll_on(&mut self) -> bool {
        if self.window.is_zero() {
            return false;
        }
        if self.mode == Polling::Always {
            return true;
        }
        self.rounds += 1;
        if !self.rounds.is_multiple_of(ROUNDS_PER_CLOCK) {
            return true;
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        since.elapsed() < self.window
    }

    /// The worker slept for `time`, then work arrived.
    pub(crate) fn slept(&mut self, time: Duration) {
        self.activity();
        if self.mode != Polling::Auto {
            return;
        }
        if time <= GROW_BELOW {
            self.window = (self.window * 2).clamp(AUTO_MIN, AUTO_MAX);
        } else if time > SHRINK_ABOVE {
            let half = self.window / 2;
            self.window = if half < AUTO_MIN / 2 {
                Duration::ZERO
            } else {
                half
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_requests_end_the_polling_and_frequent_ones_bring_it_back() {
        let mut poller = Poller::new(Polling::Auto);
        assert_eq!(poller.window, AUTO_MAX);
        for _ in 0..8 {
            poller.slept(Duration::from_millis(5));
        }
        assert!(!poller.poll_on());
        poller.slept(Duration::from_micros(20));
        assert_eq!(poller.window, AUTO_MIN);
        for _ in 0..8 {
            poller.slept(Duration::from_micros(20));
        }
        assert_eq!(poller.window, AUTO_MAX);
    }

    #[test]
    fn window_ends_after_its_time() {
        let mut poller = Poller::new(Polling::Window(Duration::from_millis(2)));
        let start = Instant::now();
        while poller.poll_on() {
            assert!(start.elapsed() < Duration::from_secs(5));
        }
        assert!(start.elapsed() >= Duration::from_millis(2));
    }

    #[test]
    fn off_never_polls_and_always_never_stops() {
        assert!(!Poller::new(Polling::Off).poll_on());
        let mut always = Poller::new(Polling::Always);
        assert!((0..1000).all(|_| always.poll_on()));
    }

    #[test]
    fn modes_are_read_from_text() {
        assert_eq!("auto".parse(), Ok(Polling::Auto));
        assert_eq!(
            "75us".parse(),
            Ok(Polling::Window(Duration::from_micros(75)))
        );
        assert_eq!("75".parse(), Ok(Polling::Window(Duration::from_micros(75))));
        assert!("sometimes".parse::<Polling>().is_err());
    }
}
