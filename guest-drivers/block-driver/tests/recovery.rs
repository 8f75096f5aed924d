//! Reset of the device and of one queue while requests are outstanding.
//!
//! Rule: each request comes back exactly once, completed or to be issued again, and only when the device can no longer touch it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod rig;

use block_driver::BlockDriver;
use block_driver::Error;
use block_driver::Quiesced;
use block_driver::RequestError;
use block_driver::ResetProgress;
use block_driver::Success;
use driver_fakes::FakeMessages;
use driver_fakes::FakePlatform;
use driver_fakes::Habits;
use driver_platform::Interrupts;
use rig::*;
use virtio_spec::feature;
use virtio_spec::status;

/// Resets the first queue.
fn reset_first(rig: &mut Rig) -> Quiesced {
    let queue = &mut rig.queues[0];
    rig.driver.begin_queue_reset(&rig.platform, queue).unwrap();
    match rig.driver.poll_queue_reset(queue) {
        ResetProgress::Done(proof) => proof,
        other => panic!("{other:?}"),
    }
}

/// The first queue gives back one request, which was cut short by the reset, and nothing more.
fn comes_back_alone(rig: &mut Rig, proof: &Quiesced, cookie: u64) {
    let mut back = || {
        rig.queues[0]
            .take_outstanding(&rig.platform, proof)
            .unwrap()
    };
    let completion = back().unwrap();
    assert_eq!(
        (completion.cookie, completion.result),
        (cookie, Err(RequestError::Reset))
    );
    assert!(back().is_none());
}

#[test]
fn a_reset_returns_finished_requests_as_finished_and_the_rest_for_another_try() {
    for features in ring_feature_sets() {
        let mut rig = rig(11, features);
        rig.disk.habits = Habits {
            delays_one_in: 2,
            ..Habits::GOOD
        };
        for cookie in 0..6 {
            rig.queues[0]
                .submit(&rig.platform, read(cookie, 2048, cookie))
                .unwrap();
        }
        rig.queues[0].kick();
        let finished = rig.disk.serve(0);
        let proof = rig.reset();
        let (mut done, mut again) = (Vec::new(), Vec::new());
        while let Some(completion) = rig.queues[0]
            .take_outstanding(&rig.platform, &proof)
            .unwrap()
        {
            match completion.result {
                Ok(Success::Done) => done.push(completion.cookie),
                Err(RequestError::Reset) => again.push((completion.cookie, completion.buffer)),
                other => panic!("{other:?}"),
            }
        }
        assert!(done.len() <= finished);
        assert_eq!(done.len() + again.len(), 6);
        assert!(
            rig.queues[0]
                .take_outstanding(&rig.platform, &proof)
                .unwrap()
                .is_none()
        );
        assert!(
            rig.queues[1]
                .take_outstanding(&rig.platform, &proof)
                .unwrap()
                .is_none()
        );
        rig.restart(proof).unwrap();
        rig.disk.habits = Habits::GOOD;
        for (cookie, buffer) in again {
            let mut request = read(cookie, 0, cookie);
            request.buffer = buffer;
            assert_eq!(rig.run(request).cookie, cookie);
        }
        rig.finish();
    }
}

#[test]
fn one_queue_is_reset_while_the_other_goes_on() {
    let mut rig = rig(11, feature::RING_RESET);
    rig.queues[0]
        .submit(&rig.platform, read(0, 512, 1))
        .unwrap();
    rig.queues[1]
        .submit(&rig.platform, read(0, 512, 2))
        .unwrap();
    rig.queues[0].kick();
    rig.queues[1].kick();
    let proof = reset_first(&mut rig);
    let other = rig.queues[1].take_outstanding(&rig.platform, &proof);
    assert_eq!(other.err(), Some(Error::NotQuiesced));
    comes_back_alone(&mut rig, &proof, 1);
    rig.disk.serve(1);
    assert_eq!(
        rig.queues[1].poll(&rig.platform).unwrap().unwrap().cookie,
        2
    );
    rig.driver.restart_queue(proof, &mut rig.queues[0]).unwrap();
    assert_eq!(rig.run(read(0, 512, 3)).result, Ok(Success::Done));
    assert_eq!(rig.function.registers().resets, 1);
    rig.finish();
}

#[test]
fn a_queue_reset_needs_the_feature() {
    let mut rig = rig(11, 0);
    let queue = &mut rig.queues[0];
    let error = rig.driver.begin_queue_reset(&rig.platform, queue);
    assert_eq!(
        error,
        Err(Error::Transport(virtio_pci::Error::NotNegotiated))
    );
    rig.finish();
}

#[test]
fn a_queue_with_requests_outstanding_cannot_be_restarted() {
    let mut rig = rig(11, feature::RING_RESET);
    rig.queues[0]
        .submit(&rig.platform, read(0, 512, 1))
        .unwrap();
    let proof = reset_first(&mut rig);
    assert_eq!(
        rig.driver.restart_queue(proof, &mut rig.queues[0]),
        Err(Error::Outstanding)
    );
    // That proof is used up, and a queue that may be enabled gives no other before it is reset again.
    let progress = rig.driver.poll_queue_reset(&rig.queues[0]);
    assert!(matches!(progress, ResetProgress::Pending));
    let proof = reset_first(&mut rig);
    while rig.queues[0]
        .take_outstanding(&rig.platform, &proof)
        .unwrap()
        .is_some()
    {}
    rig.finish();
}

#[test]
fn a_device_that_never_finishes_its_reset_is_cut_off_before_requests_come_back() {
    let mut rig = rig(11, 0);
    rig.queues[0]
        .submit(&rig.platform, read(0, 512, 1))
        .unwrap();
    rig.queues[0].kick();
    rig.function.registers().lies.never_resets = true;
    rig.driver.begin_reset(&rig.platform);
    assert!(matches!(
        rig.driver.poll_reset(&rig.platform),
        ResetProgress::Pending
    ));
    rig.platform.advance_us(virtio_pci::RESET_TIMEOUT_US + 1);
    let ResetProgress::GaveUp(proof) = rig.driver.poll_reset(&rig.platform) else {
        panic!("still waiting")
    };
    assert_eq!(
        rig.function.config_space()[4] & 4,
        0,
        "bus mastering is still on"
    );
    let completion = rig.queues[0]
        .take_outstanding(&rig.platform, &proof)
        .unwrap()
        .unwrap();
    assert_eq!(completion.result, Err(RequestError::Reset));
    drop(completion);
    rig.function.registers().lies.never_resets = false;
    rig.finish();
}

#[test]
fn a_device_that_comes_back_as_another_one_is_refused() {
    let mut rig = rig(11, feature::RING_PACKED);
    let proof = rig.reset();
    rig.function.registers().offered &= !feature::RING_PACKED;
    assert_eq!(rig.restart(proof), Err(Error::Changed));
    rig.function.registers().offered |= feature::RING_PACKED;
    let given_up = rig.driver.poll_reset(&rig.platform);
    assert!(
        matches!(given_up, ResetProgress::Pending),
        "without a reset"
    );
    assert_ne!(rig.driver.transport().status() & status::FAILED, 0);
    let proof = rig.reset();
    assert_eq!(rig.restart(proof), Ok(()));
    assert_eq!(rig.run(read(0, 512, 3)).result, Ok(Success::Done));
    rig.finish();
}

#[test]
fn a_queue_that_does_not_reset_keeps_its_requests() {
    let mut rig = rig(11, feature::RING_RESET);
    rig.queues[0]
        .submit(&rig.platform, read(0, 512, 1))
        .unwrap();
    rig.queues[0].kick();
    rig.function.registers().lies.never_resets_queue = true;
    let queue = &mut rig.queues[0];
    rig.driver.begin_queue_reset(&rig.platform, queue).unwrap();
    for _ in 0..100 {
        let progress = rig.driver.poll_queue_reset(queue);
        assert!(matches!(progress, ResetProgress::Pending));
    }
    assert_eq!(rig.queues[0].in_flight(), 1);
    // What is left is a reset of the whole device.
    let proof = rig.reset();
    let back = rig.queues[0]
        .take_outstanding(&rig.platform, &proof)
        .unwrap();
    assert_eq!(back.unwrap().cookie, 1);
    rig.finish();
}

#[test]
fn a_reset_in_the_middle_of_a_split_request_returns_it_once() {
    let mut rig = rig(11, feature::RING_INDIRECT_DESC);
    rig.disk.habits = Habits {
        delays_one_in: 2,
        ..Habits::GOOD
    };
    for cookie in 0..3 {
        rig.queues[0]
            .submit(&rig.platform, write(0, vec![1; 16384], cookie))
            .unwrap();
    }
    rig.queues[0].kick();
    assert!(rig.queues[0].counters().chains > 3, "nothing was split");
    rig.disk.serve(0);
    let proof = rig.reset();
    let mut cookies = Vec::new();
    while let Some(completion) = rig.queues[0]
        .take_outstanding(&rig.platform, &proof)
        .unwrap()
    {
        cookies.push(completion.cookie);
    }
    cookies.sort_unstable();
    assert_eq!(cookies, [0, 1, 2]);
    rig.finish();
}

#[test]
fn a_reset_in_the_middle_of_a_long_range_returns_it_once_and_issues_nothing() {
    let mut rig = rig(11, 0);
    let discard = block_driver::Operation::Discard {
        sector: 0,
        sectors: 1000,
    };
    rig.queues[0]
        .submit(&rig.platform, plain(discard, 5))
        .unwrap();
    rig.queues[0].kick();
    rig.disk.serve(0);
    let rings = rig.function.registers().queues[0].rings;
    let proof = rig.reset();
    comes_back_alone(&mut rig, &proof, 5);
    assert_eq!(rig.function.registers().queues[0].rings, rings);
    rig.finish();
}

#[test]
fn the_proof_of_one_disk_takes_nothing_back_from_another() {
    let (mut reset, mut live) = (rig(11, 0), rig(12, 0));
    live.queues[0]
        .submit(&live.platform, read(0, 512, 1))
        .unwrap();
    live.queues[0].kick();
    let proof = reset.reset();
    let back = live.queues[0].take_outstanding(&live.platform, &proof);
    assert_eq!(back.err(), Some(Error::NotQuiesced));
    assert_eq!(live.platform.mapped(), 1);
    assert_eq!(live.restart(proof), Err(Error::NotQuiesced));
    live.disk.serve(0);
    let done = live.queues[0].poll(&live.platform).unwrap().unwrap();
    assert_eq!((done.cookie, done.result), (1, Ok(Success::Done)));
    live.finish();
    reset.finish();
}

#[test]
fn a_second_proof_is_worth_nothing_once_the_disk_works_again() {
    let mut rig = rig(11, feature::RING_RESET);
    let first = rig.reset();
    let ResetProgress::Done(second) = rig.driver.poll_reset(&rig.platform) else {
        panic!("it was done")
    };
    rig.restart(first).unwrap();
    rig.queues[0]
        .submit(&rig.platform, read(0, 512, 1))
        .unwrap();
    rig.queues[0].kick();
    let back = rig.queues[0].take_outstanding(&rig.platform, &second);
    assert_eq!(back.err(), Some(Error::NotQuiesced));
    assert_eq!(rig.platform.mapped(), 1);
    assert_eq!(rig.restart(second), Err(Error::NotQuiesced));
    rig.disk.serve(0);
    let done = rig.queues[0].poll(&rig.platform).unwrap().unwrap();
    assert_eq!(done.result, Ok(Success::Done));
    // Nor is that of a queue that was enabled again.
    let first = reset_first(&mut rig);
    let ResetProgress::Done(second) = rig.driver.poll_queue_reset(&rig.queues[0]) else {
        panic!("it was done")
    };
    let queue = &mut rig.queues[0];
    rig.driver.restart_queue(first, queue).unwrap();
    queue.submit(&rig.platform, read(0, 512, 2)).unwrap();
    let back = queue.take_outstanding(&rig.platform, &second);
    assert_eq!(back.err(), Some(Error::NotQuiesced));
    assert_eq!(rig.run(read(0, 512, 3)).cookie, 2);
    rig.disk.serve(0);
    let _ = rig.queues[0].poll(&rig.platform).unwrap();
    rig.finish();
}

#[test]
fn a_device_that_claims_a_reset_nobody_asked_for_gives_no_proof() {
    let mut rig = rig(11, feature::RING_RESET);
    rig.queues[0]
        .submit(&rig.platform, read(0, 512, 1))
        .unwrap();
    rig.function.registers().status = 0;
    rig.function.registers().queues[0].enabled = false;
    let progress = rig.driver.poll_reset(&rig.platform);
    assert!(matches!(progress, ResetProgress::Pending));
    let progress = rig.driver.poll_queue_reset(&rig.queues[0]);
    assert!(matches!(progress, ResetProgress::Pending));
    let proof = rig.reset();
    let back = rig.queues[0].take_outstanding(&rig.platform, &proof);
    assert_eq!(back.unwrap().unwrap().cookie, 1);
    rig.finish();
}

#[test]
fn messages_are_held_back_until_the_disk_runs_and_for_good_when_it_does_not() {
    let messages = FakeMessages::new(3);
    let platform = FakePlatform::new(1);
    let (good, mut bad) = (registers(0, config()), registers(0, config()));
    bad.lies.refuses_features = true;
    let started = BlockDriver::start(&platform, function(bad), &messages, options());
    platform.release_all(started.err().expect("it started").memory);
    assert_eq!(messages.states(), [(true, 0); 3]);
    let started = BlockDriver::start(&platform, function(good), &messages, options());
    let (_, queues) = started.unwrap_or_else(|failure| panic!("{}", failure.error));
    assert_eq!(messages.states(), [(false, 0); 3]);
    // What a shell does to steer a queue.
    for (processor, queue) in (4..).zip(&queues) {
        let message = queue.message().expect("there are messages");
        assert!(messages.set_target(message, processor));
    }
    assert_eq!(messages.states(), [(false, 0), (false, 4), (false, 5)]);
}
