//! Reboots, restarts, memory that changes, a twin on another host. One rule: what is not known is not assumed.

use std::sync::Arc;

use device_model::Device;
use guest_memory::GuestMemory;
use virtio_spec::balloon::PAGE_SIZE;

use super::rig::*;
use crate::BalloonDevice;
use crate::BalloonSpec;
use crate::ByteSize;

const FIRST: u32 = (HIGH / PAGE_SIZE) as u32;

#[test]
fn a_guest_that_boots_anew_has_an_empty_balloon() {
    let mut rig = Rig::new(everything());
    rig.pages(INFLATE, FIRST..FIRST + 64);
    rig.device
        .write_config(4, &64_u32.to_le_bytes())
        .expect("actual");
    // Only the rings start anew: front-ends do not always say that the device was reset.
    rig.boot(u64::MAX);
    assert_eq!(rig.device.ballooned(), 0);
    rig.pages(INFLATE, FIRST..FIRST + 64);
    assert_eq!(rig.metrics().repeated_pages, 0);
}

#[test]
fn a_reset_forgets_the_guest_and_keeps_the_target() {
    let mut rig = Rig::new(everything());
    rig.pages(INFLATE, FIRST..FIRST + 64);
    rig.device.set_target(1 << 20);
    rig.device
        .write_config(0, &[0xff; 16])
        .expect("actual and poison");
    rig.lanes.clear();
    rig.device.reset();
    assert_eq!(rig.device.actual(), Some(u64::from(u32::MAX) * PAGE_SIZE));
    assert_eq!((rig.device.ballooned(), rig.device.statistics()), (0, None));
    assert_eq!(
        (rig.device.guest_memory(), rig.device.resident()),
        (None, None)
    );
    let mut bytes = [0; 16];
    rig.device.read_config(0, &mut bytes);
    assert_eq!(bytes[..4], 256_u32.to_le_bytes());
    assert_eq!(bytes[4..], [0; 12]);
    rig.device.reset();
}

#[test]
fn what_is_remembered_counts_until_a_new_driver_starts() {
    let device = BalloonDevice::new(BalloonSpec {
        packed: false,
        ..everything()
    })
    .expect("a balloon");
    device.recall(3 << 20, Some(2 << 20));
    assert_eq!((device.target(), device.actual()), (3 << 20, Some(2 << 20)));
    let mut bytes = [0; 8];
    device.read_config(0, &mut bytes);
    assert_eq!(bytes, [0, 3, 0, 0, 0, 0, 0, 0]);
    device
        .write_config(4, &512_u32.to_le_bytes())
        .expect("actual");
    assert_eq!(device.actual(), Some(2 << 20));
    // The session ends; another comes with the same guest.
    device.reset();
    assert_eq!(device.actual(), Some(2 << 20));
    let memory = GuestMemory::new(vec![region(LOW)]).expect("memory");
    let rig = Rig::on(device, memory, u64::MAX);
    assert_eq!((rig.device.target(), rig.device.actual()), (3 << 20, None));
}

#[test]
fn a_restarted_daemon_counts_pages_that_it_does_not_know() {
    let mut rig = Rig::new(everything());
    rig.pages(INFLATE, FIRST..FIRST + 64);
    let before = rig.resident();
    // Another process on the same memory; the rings go on where they stood.
    let device = BalloonDevice::new(BalloonSpec {
        packed: false,
        ..everything()
    })
    .expect("a balloon");
    device.acked(device.features());
    for (index, lane) in (0..).zip(&mut rig.lanes) {
        lane.handler = device
            .start_queue(index, device.features())
            .expect("a handler");
    }
    rig.device = device;
    rig.pages(INFLATE, FIRST + 64..FIRST + 128);
    rig.pages(DEFLATE, FIRST..FIRST + 128);
    let metrics = rig.metrics();
    assert_eq!((metrics.deflated_pages, metrics.unknown_pages), (64, 64));
    assert_eq!(before - rig.resident(), 64 * PAGE_SIZE);
    assert_eq!(rig.device.actual(), None);
}

#[test]
fn pages_of_memory_that_went_away_are_in_no_balloon() {
    let mut rig = Rig::new(everything());
    let border = (BORDER / PAGE_SIZE) as u32;
    rig.pages(INFLATE, border - 8..border + 8);
    let last = *rig.memory.regions().last().expect("a region");
    let smaller = rig.memory.without_region(&last).expect("memory");
    rig.memory = Arc::new(smaller);
    rig.kick(INFLATE);
    assert_eq!(rig.device.ballooned(), 8 * PAGE_SIZE);
    assert_eq!(rig.device.guest_memory(), Some(2 * REGION));
    rig.pages(INFLATE, [border]);
    assert_eq!(rig.metrics().foreign_pages, 1);
}

#[test]
fn memory_is_not_held_beyond_its_session() {
    let rig = Rig::new(everything());
    let memory = Arc::downgrade(&rig.memory);
    let device = rig.device.clone();
    drop(rig);
    assert!(memory.upgrade().is_none());
    assert_eq!(device.resident(), None);
    device.inhibit(true);
    device.inhibit(false);
}

#[test]
fn a_twin_takes_over_target_actual_and_set() {
    let mut rig = Rig::new(everything());
    rig.device.set_target(2 << 20);
    rig.pages(INFLATE, FIRST..FIRST + 64);
    rig.pages(INFLATE, [FIRST + 100]);
    rig.device
        .write_config(4, &65_u32.to_le_bytes())
        .expect("actual");
    let state = rig.device.save_state().expect("a state");
    let twin = BalloonDevice::new(BalloonSpec {
        packed: false,
        ..everything()
    })
    .expect("a balloon");
    twin.load_state(&state).expect("it loads");
    assert_eq!(
        (twin.target(), twin.actual()),
        (2 << 20, Some(65 * PAGE_SIZE))
    );
    twin.acked(twin.features());
    rig.device = twin;
    for (index, lane) in (0..).zip(&mut rig.lanes) {
        lane.handler = rig
            .device
            .start_queue(index, rig.device.features())
            .expect("a handler");
    }
    rig.pages(DEFLATE, FIRST..FIRST + 101);
    let metrics = rig.metrics();
    assert_eq!((metrics.deflated_pages, metrics.unknown_pages), (65, 36));
}

#[test]
fn states_that_lie_are_refused_and_change_nothing() {
    let mut rig = Rig::new(BalloonSpec {
        target: ByteSize(1 << 20),
        ..everything()
    });
    rig.pages(INFLATE, [FIRST, FIRST + 2]);
    let good = rig.device.save_state().expect("a state");
    let device = BalloonDevice::new(everything()).expect("a balloon");
    for len in 0..good.len() {
        assert!(device.load_state(&good[..len]).is_err(), "cut to {len}");
    }
    let swapped = [&good[..28], &good[44..60], &good[28..44]].concat();
    for bad in [
        [&good[..], &[0]].concat(),
        [&b"PVBALN02"[..], &good[8..]].concat(),
        [&good[..24], &u32::MAX.to_le_bytes(), &good[28..]].concat(),
        [&good[..52], &u64::MAX.to_le_bytes()].concat(),
        swapped,
    ] {
        assert!(device.load_state(&bad).is_err());
    }
    assert_eq!(device.target(), 0);
    device.load_state(&good).expect("the whole of it is fine");
    // Pages that are no memory here are dropped once the memory is known.
    let memory = GuestMemory::new(vec![region(LOW)]).expect("memory");
    let mut other = Rig::on(device, memory, u64::MAX);
    other.kick(INFLATE);
    assert_eq!(other.device.ballooned(), 0);
}
