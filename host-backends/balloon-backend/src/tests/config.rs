//! Features, configuration space, queue numbers. One rule: a driver may write two fields, in any pieces.

use device_model::Device;
use virtio_spec::balloon::PAGE_SIZE;
use virtio_spec::balloon::feature as balloon;
use virtio_spec::balloon::queue::Role;

use super::rig::*;
use crate::BalloonDevice;
use crate::BalloonSpec;
use crate::ByteSize;
use crate::Error;
use crate::config;

fn words(device: &BalloonDevice) -> [u32; 4] {
    let mut bytes = [0; 16];
    device.read_config(0, &mut bytes);
    let (words, _) = bytes.as_chunks::<4>();
    [0, 1, 2, 3].map(|at| u32::from_le_bytes(words[at]))
}

#[test]
fn the_target_stands_in_the_configuration_space() {
    let device = BalloonDevice::new(BalloonSpec {
        target: ByteSize(64 << 20),
        ..BalloonSpec::default()
    })
    .expect("a balloon");
    assert_eq!(words(&device), [16_384, 0, 0, 0]);
    assert_eq!(device.set_target(u64::MAX), u64::from(u32::MAX) * PAGE_SIZE);
    assert_eq!(device.set_target(4095), 0);
}

#[test]
fn actual_is_taken_as_it_is_said_and_believed_as_far_as_it_can_be() {
    // REGRESSIONS row 19.
    let rig = Rig::new(everything());
    assert_eq!(rig.device.actual(), None);
    rig.device.set_target(1 << 20);
    let size = rig.device.guest_memory().expect("memory");
    for (said, believed) in [
        (256, 1 << 20),
        // More than was asked: it is on its way down, or wrong.
        (512, 2 << 20),
        (u32::MAX, size),
        (u32::MAX - 1, size),
        (0, 0),
    ] {
        rig.device
            .write_config(4, &said.to_le_bytes())
            .expect("a write");
        assert_eq!(rig.device.actual(), Some(believed));
        assert_eq!(words(&rig.device)[1], said);
    }
    assert_eq!(rig.metrics().absurd_actual, 2);
}

#[test]
fn fields_are_written_in_any_pieces_and_the_rest_stays() {
    let rig = Rig::new(everything());
    rig.device.set_target(4 << 20);
    // Front-ends send the whole space when the guest wrote one field; what it says of the others is old.
    let mut all = [0xff; 16];
    all[4..8].copy_from_slice(&7_u32.to_le_bytes());
    all[12..].copy_from_slice(&9_u32.to_le_bytes());
    rig.device.write_config(0, &all).expect("the whole space");
    assert_eq!(words(&rig.device), [1024, 7, 0, 9]);
    for (at, byte) in [1, 2, 3, 4].iter().enumerate() {
        rig.device
            .write_config(4 + at as u32, &[*byte])
            .expect("one byte");
    }
    assert_eq!(words(&rig.device), [1024, 0x0403_0201, 0, 9]);
    rig.device
        .write_config(2, &[0, 0, 5, 0])
        .expect("across two fields");
    assert_eq!(words(&rig.device), [1024, 0x0403_0005, 0, 9]);
    for (offset, len) in [(0, 4), (0, 1), (8, 4), (3, 1), (16, 1), (u32::MAX, 4)] {
        assert!(
            rig.device.write_config(offset, &vec![0; len]).is_err(),
            "{offset}+{len}"
        );
    }
    assert_eq!(words(&rig.device), [1024, 0x0403_0005, 0, 9]);
}

#[test]
fn reads_past_the_end_are_zero() {
    let device = BalloonDevice::new(everything()).expect("a balloon");
    let mut bytes = [1; 8];
    device.read_config(14, &mut bytes);
    assert_eq!(bytes[2..], [0; 6]);
    device.read_config(u32::MAX, &mut bytes);
    assert_eq!(bytes, [0; 8]);
}

#[test]
fn every_feature_can_be_switched() {
    let none = BalloonSpec {
        stats: false,
        must_tell_host: false,
        deflate_on_oom: false,
        page_reporting: false,
        page_poison: false,
        free_page_hint: false,
        packed: false,
        ..BalloonSpec::default()
    };
    let bits = |spec: &BalloonSpec| config::features(spec) & 0x3f;
    assert_eq!(bits(&none), 0);
    type Switch = fn(&mut BalloonSpec);
    let switches: [(Switch, u64); 6] = [
        (|s| s.must_tell_host = true, balloon::MUST_TELL_HOST),
        (|s| s.stats = true, balloon::STATS_VQ),
        (|s| s.deflate_on_oom = true, balloon::DEFLATE_ON_OOM),
        (|s| s.free_page_hint = true, balloon::FREE_PAGE_HINT),
        (|s| s.page_poison = true, balloon::PAGE_POISON),
        (|s| s.page_reporting = true, balloon::PAGE_REPORTING),
    ];
    for (switch, bit) in switches {
        let mut spec = none.clone();
        switch(&mut spec);
        assert_eq!(bits(&spec), bit);
    }
    assert_eq!(bits(&everything()), 0x3f);
}

#[test]
fn queues_are_numbered_as_either_school_does() {
    let stats = balloon::STATS_VQ;
    let hints = balloon::FREE_PAGE_HINT;
    let reports = balloon::PAGE_REPORTING;
    let role = |index, features| config::role(index, features, true);
    assert_eq!(role(0, 0), Some(Role::Inflate));
    assert_eq!(role(1, 0), Some(Role::Deflate));
    assert_eq!(role(2, 0), None);
    for (index, features, expected) in [
        (2, stats, Some(Role::Stats)),
        (3, stats, None),
        (3, stats | hints, Some(Role::FreePage)),
        (4, stats | hints, None),
        (4, stats | hints | reports, Some(Role::Reporting)),
        // Without gaps (Linux before 6.11, QEMU), and with.
        (3, stats | reports, Some(Role::Reporting)),
        (4, stats | reports, Some(Role::Reporting)),
        (2, reports, Some(Role::Reporting)),
        (4, reports, Some(Role::Reporting)),
        (2, hints, Some(Role::FreePage)),
        (3, hints, Some(Role::FreePage)),
        (2, hints | reports, Some(Role::FreePage)),
        (3, hints | reports, Some(Role::Reporting)),
        (5, stats | hints | reports, None),
    ] {
        assert_eq!(
            role(index, features),
            expected,
            "queue {index} with {features:#x}"
        );
    }
    // Who leaves a gap has no queue 2.
    assert_eq!(
        config::role(3, hints | reports, false),
        Some(Role::FreePage)
    );
    let count = |features| config::queue_count(features);
    assert_eq!(count(0), 2);
    assert_eq!(count(stats), 3);
    assert_eq!(count(stats | hints), 4);
    assert_eq!(count(reports), 5);
}

#[test]
fn the_target_stays_between_floor_and_ceiling() {
    let rig = Rig::new(BalloonSpec {
        floor: Some(ByteSize(8 << 20)),
        ceiling: Some(ByteSize(40 << 20)),
        ..everything()
    });
    let size = rig.device.guest_memory().expect("memory");
    assert_eq!(size, 48 << 20);
    assert_eq!(rig.device.set_target(0), 8 << 20, "ceiling");
    assert_eq!(rig.device.set_target(size), 40 << 20, "floor");
    rig.device.set_limits(Some(16 << 20), Some(0));
    assert_eq!(rig.device.target(), 32 << 20);
    assert_eq!(rig.device.set_target(0), 0);
}

#[test]
fn faults_of_a_specification_are_told_all_at_once() {
    let spec = BalloonSpec {
        queue_size: 3,
        stats_interval_ms: 1,
        floor: Some(ByteSize(2)),
        ceiling: Some(ByteSize(1)),
        ..BalloonSpec::default()
    };
    let Err(Error::Spec(faults)) = BalloonDevice::new(spec) else {
        panic!("the specification is refused");
    };
    assert_eq!(faults.len(), 3, "{faults:?}");
}
