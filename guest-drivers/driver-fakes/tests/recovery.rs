//! Reset of the device and of one queue while requests are outstanding.
//!
//! Rule: each request comes back exactly once, completed or to be issued again, and only when the device can no longer touch it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod common;

use block_driver::Error;
use block_driver::RequestError;
use block_driver::ResetProgress;
use block_driver::Success;
use common::*;
use driver_fakes::Habits;
use virtio_spec::feature;
use virtio_spec::status;

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
        rig.driver.begin_reset(&rig.platform);
        let ResetProgress::Done(proof) = rig.driver.poll_reset(&rig.platform) else {
            panic!("pending")
        };
        let (mut done, mut again) = (Vec::new(), Vec::new());
        while let Some(completion) = rig.queues[0].take_outstanding(&rig.platform, &proof) {
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
                .is_none()
        );
        assert!(
            rig.queues[1]
                .take_outstanding(&rig.platform, &proof)
                .is_none()
        );
        let mut queues: Vec<&mut Queue> = rig.queues.iter_mut().collect();
        rig.driver.restart(&rig.platform, &mut queues).unwrap();
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
    rig.driver.begin_queue_reset(&rig.platform, 0).unwrap();
    let ResetProgress::Done(proof) = rig.driver.poll_queue_reset(0) else {
        panic!("pending")
    };
    assert!(
        rig.queues[1]
            .take_outstanding(&rig.platform, &proof)
            .is_none()
    );
    let completion = rig.queues[0]
        .take_outstanding(&rig.platform, &proof)
        .unwrap();
    assert_eq!(
        (completion.cookie, completion.result),
        (1, Err(RequestError::Reset))
    );
    assert!(
        rig.queues[0]
            .take_outstanding(&rig.platform, &proof)
            .is_none()
    );
    rig.disk.serve(1);
    assert_eq!(
        rig.queues[1].poll(&rig.platform).unwrap().unwrap().cookie,
        2
    );
    rig.driver.restart_queue(&mut rig.queues[0]).unwrap();
    assert_eq!(rig.run(read(0, 512, 3)).result, Ok(Success::Done));
    assert_eq!(rig.function.registers().resets, 1);
    rig.finish();
}

#[test]
fn a_queue_reset_needs_the_feature() {
    let mut rig = rig(11, 0);
    let error = rig.driver.begin_queue_reset(&rig.platform, 0);
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
    rig.driver.begin_queue_reset(&rig.platform, 0).unwrap();
    assert_eq!(
        rig.driver.restart_queue(&mut rig.queues[0]),
        Err(Error::Broken)
    );
    let ResetProgress::Done(proof) = rig.driver.poll_queue_reset(0) else {
        panic!("pending")
    };
    while rig.queues[0]
        .take_outstanding(&rig.platform, &proof)
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
        .unwrap();
    assert_eq!(completion.result, Err(RequestError::Reset));
    drop(completion);
    rig.function.registers().lies.never_resets = false;
    rig.finish();
}

#[test]
fn a_device_that_comes_back_as_another_one_is_refused() {
    let mut rig = rig(11, feature::RING_PACKED);
    rig.driver.begin_reset(&rig.platform);
    rig.function.registers().offered &= !feature::RING_PACKED;
    let mut queues: Vec<&mut Queue> = rig.queues.iter_mut().collect();
    assert_eq!(
        rig.driver.restart(&rig.platform, &mut queues),
        Err(Error::Changed)
    );
    rig.function.registers().offered |= feature::RING_PACKED;
    let given_up = rig.driver.restart(&rig.platform, &mut queues);
    assert_eq!(
        given_up,
        Err(Error::Transport(virtio_pci::Error::NeedsReset))
    );
    assert_ne!(rig.driver.transport().status() & status::FAILED, 0);
    rig.driver.begin_reset(&rig.platform);
    assert_eq!(rig.driver.restart(&rig.platform, &mut queues), Ok(()));
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
    rig.driver.begin_queue_reset(&rig.platform, 0).unwrap();
    for _ in 0..100 {
        let progress = rig.driver.poll_queue_reset(0);
        assert!(matches!(progress, ResetProgress::Pending));
    }
    assert_eq!(rig.queues[0].in_flight(), 1);
    // What is left is a reset of the whole device.
    rig.driver.begin_reset(&rig.platform);
    let ResetProgress::Done(proof) = rig.driver.poll_reset(&rig.platform) else {
        panic!("pending")
    };
    let back = rig.queues[0].take_outstanding(&rig.platform, &proof);
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
    rig.driver.begin_reset(&rig.platform);
    let ResetProgress::Done(proof) = rig.driver.poll_reset(&rig.platform) else {
        panic!("pending")
    };
    let mut cookies = Vec::new();
    while let Some(completion) = rig.queues[0].take_outstanding(&rig.platform, &proof) {
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
    rig.driver.begin_reset(&rig.platform);
    let ResetProgress::Done(proof) = rig.driver.poll_reset(&rig.platform) else {
        panic!("pending")
    };
    let completion = rig.queues[0]
        .take_outstanding(&rig.platform, &proof)
        .unwrap();
    assert_eq!(
        (completion.cookie, completion.result),
        (5, Err(RequestError::Reset))
    );
    assert!(
        rig.queues[0]
            .take_outstanding(&rig.platform, &proof)
            .is_none()
    );
    assert_eq!(rig.function.registers().queues[0].rings, rings);
    rig.finish();
}
