//! A device that writes lies into the rings or the answers.
//!
//! Rule: a lie ends in an error, and the reset path then returns every request once; memory that is not part of a request stays as it is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod rig;

use block_driver::Error;
use block_driver::RequestError;
use block_driver::Success;
use driver_fakes::Habits;
use driver_fakes::Random;
use rig::*;
use virtio_spec::feature;

/// Resets the device, returns the cookies that come back for another try, and checks that the disk works again.
fn recover(rig: &mut Rig) -> Vec<u64> {
    let proof = rig.reset();
    let mut cookies = Vec::new();
    for queue in &mut rig.queues {
        while let Some(completion) = queue.take_outstanding(&rig.platform, &proof).unwrap() {
            assert_eq!(completion.result, Err(RequestError::Reset));
            cookies.push(completion.cookie);
        }
    }
    assert_eq!(rig.platform.mapped(), 0);
    rig.restart(proof).unwrap();
    assert_eq!(rig.run(read(0, 4096, 99)).result, Ok(Success::Done));
    cookies.sort_unstable();
    cookies
}

/// Submits three reads, lets the device write `lie` into its area, and expects a broken queue and a clean way back.
fn broken_by(features: u64, lie: impl FnOnce(&Rig)) {
    let mut rig = rig(3, features);
    for cookie in 0..3 {
        rig.queues[0]
            .submit(&rig.platform, read(cookie, 4096, cookie))
            .unwrap();
    }
    rig.queues[0].kick();
    lie(&rig);
    let error = rig.queues[0].poll(&rig.platform);
    assert!(
        matches!(error, Err(Error::Ring(_) | Error::Broken)),
        "{error:?}"
    );
    let again = rig.queues[0].poll(&rig.platform);
    assert_eq!(
        error.err(),
        again.err(),
        "the queue forgot that it is broken"
    );
    assert!(
        rig.queues[0]
            .submit(&rig.platform, read(0, 512, 9))
            .is_err()
    );
    assert_eq!(recover(&mut rig), [0, 1, 2]);
    rig.finish();
}

fn split_used(rig: &Rig, index: u16, elements: &[(u32, u32)]) {
    let used = rig.disk.rings(0).unwrap().device;
    for (at, (id, len)) in elements.iter().enumerate() {
        used.write(4 + at * 8, &id.to_le_bytes());
        used.write(8 + at * 8, &len.to_le_bytes());
    }
    used.write(2, &index.to_le_bytes());
}

fn packed_used(rig: &Rig, at: usize, id: u16, len: u32, flags: u16) {
    let ring = rig.disk.rings(0).unwrap().descriptors;
    ring.write(at * 16 + 8, &len.to_le_bytes());
    ring.write(at * 16 + 12, &id.to_le_bytes());
    ring.write(at * 16 + 14, &flags.to_le_bytes());
}

const PACKED_USED: u16 = 1 << 15 | 1 << 7;

#[test]
fn split_used_ids_out_of_range_break_the_queue() {
    for id in [32, 33, 0xffff, 0x1_0000, u32::MAX] {
        broken_by(0, |rig| split_used(rig, 1, &[(id, 1)]));
    }
}

#[test]
fn a_split_used_id_in_the_middle_of_a_chain_breaks_the_queue() {
    broken_by(0, |rig| split_used(rig, 1, &[(1, 1)]));
}

#[test]
fn a_split_used_id_that_was_never_lent_breaks_the_queue() {
    broken_by(0, |rig| split_used(rig, 1, &[(31, 1)]));
}

#[test]
fn split_used_indices_that_jump_or_go_back_break_the_queue() {
    for index in [4, 33, 0x8000, 0xffff] {
        broken_by(0, |rig| split_used(rig, index, &[(0, 1)]));
    }
}

#[test]
fn packed_used_ids_out_of_range_break_the_queue() {
    for id in [32, 40, 0x8000, 0xffff] {
        broken_by(feature::RING_PACKED, |rig| {
            packed_used(rig, 0, id, 1, PACKED_USED)
        });
    }
}

#[test]
fn a_packed_used_id_that_was_never_lent_breaks_the_queue() {
    broken_by(feature::RING_PACKED, |rig| {
        packed_used(rig, 0, 31, 1, PACKED_USED)
    });
}

#[test]
fn a_duplicate_completion_breaks_the_queue_but_the_first_one_counts() {
    let mut rig = rig(3, 0);
    for cookie in 0..3 {
        rig.queues[0]
            .submit(&rig.platform, read(0, 512, cookie))
            .unwrap();
    }
    rig.queues[0].kick();
    split_used(&rig, 2, &[(0, 1), (0, 1)]);
    let first = rig.queues[0].poll(&rig.platform).unwrap().unwrap();
    assert_eq!(first.result, Err(RequestError::BadStatus(0xff)));
    assert!(rig.queues[0].poll(&rig.platform).is_err());
    assert_eq!(recover(&mut rig), [1, 2]);
    rig.finish();
}

#[test]
fn an_oversized_length_does_no_harm() {
    for features in [0, feature::RING_PACKED] {
        let mut rig = rig(3, features);
        rig.queues[0]
            .submit(&rig.platform, read(0, 512, 1))
            .unwrap();
        rig.queues[0].kick();
        match features {
            0 => split_used(&rig, 1, &[(0, u32::MAX)]),
            _ => packed_used(&rig, 0, 0, u32::MAX, PACKED_USED),
        }
        let completion = rig.queues[0].poll(&rig.platform).unwrap().unwrap();
        assert_eq!(completion.result, Err(RequestError::BadStatus(0xff)));
        assert_eq!(completion.buffer.unwrap().data.len(), 512);
        recover(&mut rig);
        rig.finish();
    }
}

#[test]
fn descriptors_that_the_device_overwrote_do_not_lead_the_driver_astray() {
    for features in ring_feature_sets() {
        let mut rig = rig(3, features);
        for cookie in 0..3 {
            rig.queues[0]
                .submit(&rig.platform, read(0, 512, cookie))
                .unwrap();
        }
        rig.queues[0].kick();
        rig.disk.serve(0);
        if features & feature::RING_PACKED == 0 {
            let table = rig.disk.rings(0).unwrap().descriptors;
            table.write(0, &vec![0xff; table.len()]);
        }
        for cookie in 0..3 {
            assert_eq!(
                rig.queues[0].poll(&rig.platform).unwrap().unwrap().cookie,
                cookie
            );
        }
        assert!(rig.queues[0].poll(&rig.platform).unwrap().is_none());
        rig.finish();
    }
}

#[test]
fn unknown_and_missing_status_bytes_are_errors() {
    let mut rig = rig(3, 0);
    for status in [3, 0x80, 0xff] {
        rig.disk.habits = Habits {
            status: Some(status),
            ..Habits::GOOD
        };
        assert_eq!(
            rig.run(read(0, 512, 1)).result,
            Err(RequestError::BadStatus(status))
        );
    }
    rig.disk.habits = Habits {
        forgets_status: true,
        ..Habits::GOOD
    };
    assert_eq!(
        rig.run(read(0, 512, 1)).result,
        Err(RequestError::BadStatus(0xff))
    );
    assert_eq!(rig.queues[0].counters().bad_status, 4);
    for (status, error) in [(1, RequestError::Io), (2, RequestError::Unsupported)] {
        rig.disk.habits = Habits {
            status: Some(status),
            ..Habits::GOOD
        };
        assert_eq!(rig.run(read(0, 512, 1)).result, Err(error));
    }
    rig.disk.habits = Habits::GOOD;
    rig.finish();
}

#[test]
fn random_writes_into_the_device_area_never_fault_and_never_lose_a_request() {
    let mut random = Random::new(7);
    for round in 0..600 {
        let sets = ring_feature_sets();
        let mut rig = rig(round, sets[random.index(sets.len())]);
        let mut expected = std::collections::BTreeSet::new();
        for cookie in 0..4 {
            rig.queues[0]
                .submit(&rig.platform, read(cookie, 512, cookie))
                .unwrap();
            expected.insert(cookie);
        }
        rig.queues[0].kick();
        if random.one_in(2) {
            rig.disk.serve(0);
        }
        let rings = rig.disk.rings(0).unwrap();
        for _ in 0..1 + random.below(8) {
            let area = if random.one_in(2) {
                rings.device
            } else {
                rings.descriptors
            };
            area.write(random.index(area.len()), &[random.next_u64() as u8]);
        }
        for _ in 0..20 {
            match rig.queues[0].poll(&rig.platform) {
                Ok(Some(completion)) => {
                    assert!(expected.remove(&completion.cookie), "completed twice")
                }
                Ok(None) => {}
                Err(_) => break,
            }
            let _ = rig.queues[0].arm();
        }
        for cookie in recover(&mut rig) {
            assert!(expected.remove(&cookie), "returned twice");
        }
        assert!(expected.is_empty(), "lost {expected:?}");
        rig.finish();
    }
}

#[test]
fn interrupts_for_nothing_do_nothing() {
    for features in ring_feature_sets() {
        let mut rig = rig(3, features);
        for _ in 0..3 {
            assert!(rig.queues[0].poll(&rig.platform).unwrap().is_none());
            assert!(!rig.queues[0].arm());
        }
        assert!(recover(&mut rig).is_empty());
        assert!(rig.queues[0].poll(&rig.platform).unwrap().is_none());
        rig.finish();
    }
}

#[test]
fn packed_flags_that_flip_are_no_completion_until_both_agree() {
    let mut rig = rig(3, feature::RING_PACKED);
    for cookie in 0..2 {
        rig.queues[0]
            .submit(&rig.platform, read(0, 512, cookie))
            .unwrap();
    }
    rig.queues[0].kick();
    for flags in [1 << 7, 1 << 7 | 2, 0, 2] {
        packed_used(&rig, 0, 0, 1, flags);
        assert!(
            rig.queues[0].poll(&rig.platform).unwrap().is_none(),
            "flags {flags:#x}"
        );
    }
    packed_used(&rig, 0, 0, 1, PACKED_USED);
    assert_eq!(
        rig.queues[0].poll(&rig.platform).unwrap().unwrap().cookie,
        0
    );
    // What the device does to a slot afterwards is not looked at again before its turn comes.
    packed_used(&rig, 0, 0, 1, 0);
    packed_used(&rig, 0, 0, 1, PACKED_USED);
    assert!(rig.queues[0].poll(&rig.platform).unwrap().is_none());
    assert_eq!(recover(&mut rig), [1]);
    rig.finish();
}
