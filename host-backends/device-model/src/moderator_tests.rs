//! Interrupts that are held back, and that each of them is sent.

use super::*;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use std::sync::atomic::AtomicBool;

/// Longer than any test.
const FOR_EVER: u32 = 3_600_000_000;

fn moderator(packets: u32, usecs: u32) -> Moderator {
    let moderator = Moderator::new().unwrap();
    moderator.set(packets, usecs);
    assert_eq!(moderator.limits(), (packets, usecs));
    moderator
}

fn wait(moderator: &Moderator) {
    let mut fds = [PollFd::new(moderator.as_fd(), PollFlags::POLLIN)];
    let woken = nix::poll::poll(&mut fds, PollTimeout::from(10_000_u16));
    assert_eq!(woken, Ok(1));
    moderator.rang();
}

#[test]
fn without_time_every_interrupt_is_sent() {
    for packets in [0, 1, 100] {
        let moderator = moderator(packets, 0);
        assert_eq!(moderator.judge(true, 1), Verdict::Interrupt);
        assert_eq!(moderator.judge(false, 1), Verdict::Nothing);
        assert_eq!(moderator.judge(true, 9), Verdict::Interrupt);
        assert!(!moderator.take());
    }
}

#[test]
fn enough_buffers_end_the_wait_whether_the_driver_asks_again_or_not() {
    let moderator = moderator(4, FOR_EVER);
    assert_eq!(moderator.judge(false, 9), Verdict::Nothing, "unwanted");
    assert_eq!(moderator.judge(true, 1), Verdict::Hold);
    assert_eq!(moderator.judge(false, 1), Verdict::Nothing);
    assert_eq!(moderator.judge(true, 1), Verdict::Nothing);
    assert!(!moderator.take_late());
    assert_eq!(moderator.judge(false, 1), Verdict::InterruptHeld);
    assert_eq!(moderator.judge(false, 9), Verdict::Nothing, "a new start");
    assert_eq!(moderator.judge(true, 4), Verdict::Interrupt, "at once");
    assert!(!moderator.take());
}

#[test]
fn the_worker_hears_when_the_time_is_over_and_sends_once() {
    for packets in [0, 100] {
        let moderator = moderator(packets, 2000);
        for _ in 0..3 {
            let start = Instant::now();
            assert_eq!(moderator.judge(true, 1), Verdict::Hold);
            wait(&moderator);
            assert!(start.elapsed() >= Duration::from_millis(2));
            assert!(moderator.take_late());
            assert!(!moderator.take_late() && !moderator.take());
        }
    }
}

#[test]
fn a_user_of_the_queue_that_is_late_sends_itself() {
    let moderator = moderator(0, 1);
    assert_eq!(moderator.judge(true, 1), Verdict::Hold);
    wait(&moderator);
    assert_eq!(moderator.judge(false, 1), Verdict::InterruptHeld);
    assert!(!moderator.take_late());
}

#[test]
fn what_is_held_back_is_sent_when_the_limits_go() {
    let moderator = moderator(0, FOR_EVER);
    assert_eq!(moderator.judge(true, 1), Verdict::Hold);
    moderator.set(0, 0);
    assert_eq!(moderator.judge(false, 1), Verdict::InterruptHeld);
    assert_eq!(moderator.judge(true, 1), Verdict::Interrupt);
    moderator.set(1000, FOR_EVER);
    assert_eq!(moderator.judge(true, 1), Verdict::Hold);
    assert!(moderator.take(), "the queue stops");
}

#[test]
fn no_interrupt_is_left_out_between_a_user_and_the_worker() {
    let moderator = moderator(7, 20);
    let done = AtomicBool::new(false);
    let (mut held, mut sent) = (0_u64, 0_u64);
    let by_worker = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut sent = 0_u64;
            while !done.load(Ordering::Acquire) {
                let mut fds = [PollFd::new(moderator.as_fd(), PollFlags::POLLIN)];
                let _ = nix::poll::poll(&mut fds, PollTimeout::from(1_u16));
                moderator.rang();
                sent += u64::from(moderator.take_late());
            }
            sent
        });
        for round in 0..200_000_u64 {
            match moderator.judge(round % 3 == 0, 1) {
                Verdict::Hold => held += 1,
                Verdict::InterruptHeld => sent += 1,
                Verdict::Interrupt | Verdict::Nothing => {}
            }
            if round % 100 == 0 {
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::Release);
        worker.join().unwrap()
    });
    sent += by_worker + u64::from(moderator.take());
    assert!(held > 0 && sent >= held, "{sent} of {held}");
}
