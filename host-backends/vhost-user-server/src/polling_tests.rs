//! The poller: how long it lasts, and when it ends.

use super::*;

const SHORT: Duration = Duration::from_micros(20);
const LONG: Duration = Duration::from_millis(5);
const LOOK: Duration = Duration::from_micros(2);

/// A poller and its clock.
struct Idler {
    poller: Poller,
    now: Instant,
}

impl Idler {
    fn new(mode: Polling) -> Self {
        Self {
            poller: Poller::new(mode),
            now: Instant::now(),
        }
    }

    /// Idles for `time`, looking at the clock every `step`; returns how much of it was polled.
    fn idle(&mut self, awaited: Awaited, time: Duration, step: Duration) -> Duration {
        let start = self.now;
        let end = start + time;
        while self.poller.look(awaited, self.now) {
            self.now += step;
            if self.now >= end {
                self.poller.look(awaited, self.now);
                self.poller.activity();
                return self.now - start;
            }
        }
        let polled = self.now - start;
        self.poller.slept(end.saturating_duration_since(self.now));
        self.now = self.now.max(end);
        polled
    }

    fn idle_often(&mut self, awaited: Awaited, time: Duration) {
        for _ in 0..64 {
            self.idle(awaited, time, LOOK);
        }
    }
}

#[test]
fn long_waits_are_slept_through_and_short_ones_polled_for_again() {
    let mut idler = Idler::new(Polling::Auto);
    assert!(idler.idle(Awaited::Request, SHORT, LOOK) >= WINDOW_MIN);
    idler.idle_often(Awaited::Request, LONG);
    assert_eq!(idler.idle(Awaited::Request, LONG, LOOK), Duration::ZERO);
    idler.idle_often(Awaited::Request, SHORT);
    assert!(idler.idle(Awaited::Request, SHORT, LOOK) >= SHORT);
}

#[test]
fn a_slow_driver_does_not_end_the_polling_for_a_fast_medium() {
    let mut idler = Idler::new(Polling::Auto);
    for _ in 0..64 {
        idler.idle(Awaited::Request, LONG, LOOK);
        idler.idle(Awaited::Completion, SHORT, LOOK);
    }
    assert!(idler.idle(Awaited::Completion, SHORT, LOOK) >= SHORT);
    assert_eq!(idler.idle(Awaited::Request, LONG, LOOK), Duration::ZERO);
}

#[test]
fn with_requests_in_flight_it_is_the_medium_that_is_waited_for() {
    let mut idler = Idler::new(Polling::Auto);
    idler.idle_often(Awaited::Request, LONG);
    assert!(!idler.poller.poll_on(0), "the driver is slow");
    idler.poller.slept(LONG);
    assert!(idler.poller.poll_on(3), "nothing is known of the medium");
}

#[test]
fn a_wait_of_the_usual_length_is_polled_to_its_end() {
    for micros in [5_u64, 30, 90, 180] {
        let usual = Duration::from_micros(micros);
        let mut idler = Idler::new(Polling::Auto);
        idler.idle_often(Awaited::Completion, usual);
        let polled = idler.idle(Awaited::Completion, usual, LOOK);
        assert!(polled >= usual, "{usual:?}: only {polled:?}");
    }
}

#[test]
fn whoever_keeps_the_cpu_for_long_ends_the_polling_for_a_while() {
    let mut idler = Idler::new(Polling::Auto);
    idler.idle_often(Awaited::Completion, SHORT);
    // A busy program takes the CPU for a time slice.
    idler.idle(Awaited::Completion, SHORT, 2 * LONG);
    let backed_off = idler.now;
    let mut pause = Duration::ZERO;
    while idler.idle(Awaited::Completion, SHORT, LOOK).is_zero() {
        pause = idler.now - backed_off;
        assert!(pause < 2 * BACK_OFF_MIN);
    }
    assert!(pause >= BACK_OFF_MIN / 2);
    // If it is still there, the next pause is longer.
    idler.idle(Awaited::Completion, SHORT, 2 * LONG);
    let backed_off = idler.now;
    while idler.now - backed_off < BACK_OFF_MIN + BACK_OFF_MIN / 2 {
        let polled = idler.idle(Awaited::Completion, SHORT, LOOK);
        assert!(polled.is_zero());
    }
}

#[test]
fn short_turns_of_others_do_not_end_the_polling() {
    let mut idler = Idler::new(Polling::Auto);
    for _ in 0..1000 {
        let polled = idler.idle(Awaited::Completion, Duration::from_micros(60), SHORT);
        assert!(!polled.is_zero());
    }
}

#[test]
fn a_window_that_was_asked_for_is_polled_whole_whatever_happens() {
    let window = Duration::from_millis(2);
    let mut idler = Idler::new(Polling::Window(window));
    idler.idle_often(Awaited::Request, LONG);
    let polled = idler.idle(Awaited::Request, LONG, LOOK);
    assert!((window..window + SHORT).contains(&polled));
    assert!(idler.idle(Awaited::Request, LONG, LONG) >= window);
    assert!(idler.idle(Awaited::Request, LONG, LOOK) >= window);
}

#[test]
fn off_never_polls_and_always_never_stops() {
    let mut off = Poller::new(Polling::Off);
    assert!(!off.poll_on(0));
    assert!(!off.poll_on(1));
    let mut always = Poller::new(Polling::Always);
    assert!((0..1000).all(|_| always.poll_on(0)));
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
