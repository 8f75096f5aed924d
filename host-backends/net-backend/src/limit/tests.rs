//! Limits against a clock that only the tests move.
//!
//! Rule: no test sleeps.

use std::time::Duration;

use proptest::prelude::*;

use super::BURST;
use super::Limiter;
use super::Limits;
use super::Verdict;

const HOUR: Duration = Duration::from_secs(3600);

/// Sends frames of `size` as fast as the limiter lets it for `time`; returns how many.
fn pump(limiter: &Limiter, start: Duration, time: Duration, size: u64) -> u64 {
    let (mut now, mut sent) = (start, 0);
    while now < start + time {
        match limiter.take(now, size, 1) {
            Verdict::Pass => sent += 1,
            Verdict::Wait(wait) => {
                assert!(!wait.is_zero());
                now += wait;
            }
        }
    }
    sent
}

#[test]
fn without_limits_everything_passes() {
    let limiter = Limiter::new(Limits::default());
    assert!(!limiter.is_limiting());
    for _ in 0..1000 {
        assert_eq!(limiter.take(HOUR, u64::MAX, u64::MAX), Verdict::Pass);
    }
}

#[test]
fn the_rate_is_kept_over_time_whatever_the_frame_size() {
    for (rate, size) in [
        (1_000_000, 64),
        (125_000_000, 1514),
        (1_250_000_000, 64),
        (12_500_000_000, 64),
        (10_000, 65_549),
        (3, 1),
    ] {
        let limiter = Limiter::new(Limits {
            bytes: rate,
            packets: 0,
        });
        // As many seconds as make a million frames at most, but ten frames at least.
        let seconds = (1_000_000 * size / rate)
            .clamp(1, 10)
            .max(10 * size / rate + 1);
        let sent = pump(&limiter, HOUR, Duration::from_secs(seconds), size) * size;
        let burst = rate / 50;
        let most = rate * seconds + burst + 2 * size;
        assert!(sent <= most, "{rate} {size}: {sent} > {most}");
        // Rounding up costs less than one part in a hundred.
        assert!(sent * 100 >= rate * seconds * 99, "{rate} {size}: {sent}");
    }
}

#[test]
fn a_pause_allows_one_burst_and_no_more() {
    let limiter = Limiter::new(Limits {
        bytes: 0,
        packets: 1000,
    });
    for pause in [Duration::ZERO, Duration::from_secs(5), HOUR] {
        let now = HOUR * 2 + pause;
        let at_once = (0..10_000)
            .take_while(|_| limiter.take(now, 1500, 1) == Verdict::Pass)
            .count();
        // What the burst pays for, and the frame that goes into debt.
        assert!((20..=21).contains(&at_once), "{at_once}");
    }
}

#[test]
fn a_frame_larger_than_the_burst_passes_and_is_paid_for() {
    let limiter = Limiter::new(Limits {
        bytes: 1000,
        packets: 0,
    });
    assert_eq!(limiter.take(HOUR, 64_000, 1), Verdict::Pass);
    let Verdict::Wait(wait) = limiter.take(HOUR, 1, 1) else {
        panic!("debt is forgotten");
    };
    assert_eq!(wait, Duration::from_secs(64) - BURST);
    assert_eq!(limiter.take(HOUR + wait, 1, 1), Verdict::Pass);
}

#[test]
fn a_frame_refused_by_one_limit_is_not_charged_to_the_other() {
    let limiter = Limiter::new(Limits {
        bytes: 1_000_000,
        packets: 1,
    });
    assert_eq!(limiter.take(HOUR, 1, 1), Verdict::Pass);
    for _ in 0..100_000 {
        assert!(matches!(limiter.take(HOUR, 1500, 1), Verdict::Wait(_)));
    }
    let later = HOUR + Duration::from_secs(1);
    assert_eq!(limiter.take(later, 20_000, 1), Verdict::Pass);
}

#[test]
fn limits_change_while_frames_pass() {
    let limiter = Limiter::new(Limits {
        bytes: 1,
        packets: 0,
    });
    assert_eq!(limiter.take(HOUR, 1_000_000, 1), Verdict::Pass);
    assert!(matches!(limiter.take(HOUR, 1, 1), Verdict::Wait(_)));
    let raised = Limits {
        bytes: 1_000_000_000,
        packets: 5,
    };
    limiter.set(raised);
    assert_eq!(limiter.limits(), raised);
    assert_eq!(
        limiter.take(HOUR, 1, 1),
        Verdict::Pass,
        "old debts are forgiven"
    );
    limiter.set(raised);
    limiter.set(Limits::default());
    assert!(!limiter.is_limiting());
    assert_eq!(limiter.take(HOUR, u64::MAX, 1), Verdict::Pass);
}

#[test]
fn workers_share_one_limit() {
    let limiter = Limiter::new(Limits {
        bytes: 0,
        packets: 100_000,
    });
    let sent: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| pump(&limiter, HOUR, Duration::from_secs(1), 64)))
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .sum()
    });
    assert!((99_000..=102_010).contains(&sent), "{sent}");
}

proptest! {
    #[test]
    fn no_numbers_make_it_panic_or_wait_for_nothing(
        rate in any::<(u64, u64)>(),
        asks in proptest::collection::vec(any::<(u64, u64, u32)>(), 1..50),
    ) {
        let limiter = Limiter::new(Limits { bytes: rate.0, packets: rate.1 });
        let mut now = Duration::ZERO;
        for (bytes, packets, step) in asks {
            now += Duration::from_micros(u64::from(step));
            if let Verdict::Wait(wait) = limiter.take(now, bytes, packets) {
                prop_assert!(!wait.is_zero());
            }
        }
    }
}
