//! States that outlive their writer, or lie.

use super::*;
use crate::InflightRegion;
use crate::NewInflight;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

const STATE_BYTES: u32 = 1000;

fn area(state: u32) -> NewInflight {
    InflightRegion::create(3, 16, None, state).unwrap()
}

/// The record as a process finds it that is given the area.
fn given(area: &NewInflight) -> Option<DeviceRecord> {
    let region = InflightRegion::from_fd(area.fd.as_fd(), area.offset, area.size, 3, 16);
    region.unwrap().device()
}

fn write(fd: &OwnedFd, at: usize, word: u64) {
    let at = i64::try_from(at).unwrap();
    let written = nix::sys::uio::pwrite(fd, &word.to_le_bytes(), at).unwrap();
    assert_eq!(written, 8);
}

#[test]
fn what_a_device_keeps_is_there_for_the_next_process() {
    let area = area(STATE_BYTES);
    assert_eq!(given(&area).unwrap().load(), None);
    for len in (0..=1000).chain([3, 0, 999]) {
        let state: Vec<u8> = (0..len).map(|at| (at * 7 + len) as u8).collect();
        assert!(given(&area).unwrap().store(&state));
        assert_eq!(given(&area).unwrap().load(), Some(state));
    }
    given(&area).unwrap().clear();
    assert_eq!(given(&area).unwrap().load(), None);
}

#[test]
fn records_of_queues_and_device_do_not_touch_each_other() {
    let area = area(STATE_BYTES);
    let device = given(&area).unwrap();
    let room = device.slot - STATE;
    assert!(device.store(&vec![0xff; room]) && device.store(&vec![0xff; room]));
    assert!(!device.store(&vec![1; room + 1]), "no room");
    assert_eq!(device.load(), Some(vec![0xff; room]), "the last stays");
    let mut queues = vec![1; usize::try_from(area.size).unwrap()];
    let at = i64::try_from(area.offset).unwrap();
    nix::sys::uio::pread(&area.fd, &mut queues, at).unwrap();
    assert!(queues.iter().all(|byte| *byte == 0));
    let region = InflightRegion::from_fd(area.fd.as_fd(), area.offset, area.size, 3, 16);
    region.unwrap().wipe();
    assert!(given(&area).unwrap().load().is_some());
}

#[test]
fn a_state_whose_writer_died_half_way_does_not_count() {
    let area = area(STATE_BYTES);
    let device = given(&area).unwrap();
    for (last, next) in [
        (b"first state", b"second one "),
        (b"third state", b"and another"),
    ] {
        assert!(device.store(last));
        let (_, kept) = device.newest();
        assert!(device.store(next));
        let (_, torn) = device.newest();
        assert_ne!(kept, torn);
        // As the writer leaves it at any point before the last store.
        write(&area.fd, torn, 0);
        write(&area.fd, torn + STATE, u64::MAX);
        assert_eq!(given(&area).unwrap().load(), Some(last.to_vec()));
    }
}

#[test]
fn lengths_and_counts_that_lie_are_survived() {
    let area = area(STATE_BYTES);
    let device = given(&area).unwrap();
    for lie in [device.slot as u64, u64::MAX, 1 << 40] {
        assert!(device.store(b"true"));
        let (_, at) = device.newest();
        write(&area.fd, at + LENGTH, lie);
        assert_eq!(device.load(), None);
    }
    for slot in device.slots() {
        write(&area.fd, slot, u64::MAX);
    }
    assert!(device.store(b"after the end of numbers"));
    device.clear();
    assert!(device.store(b"afresh"));
    assert_eq!(device.load(), Some(b"afresh".to_vec()));
}

#[test]
fn a_file_without_such_a_record_is_left_alone() {
    assert!(given(&area(0)).is_none());
    let others = area(STATE_BYTES);
    write(&others.fd, 0, 1);
    assert!(given(&others).is_none());
    let mut shifted = area(STATE_BYTES);
    shifted.offset -= 64;
    assert!(given(&shifted).is_none(), "not where we put areas");
}

#[test]
fn a_file_that_shrinks_under_the_record_is_noticed() {
    let file = tempfile::tempfile().unwrap();
    let room = DeviceRecord::room(STATE_BYTES);
    file.set_len(room).unwrap();
    DeviceRecord::create(file.as_fd(), room).unwrap();
    let record = DeviceRecord::in_front(file.as_fd(), room).unwrap().unwrap();
    assert!(record.store(b"here") && !record.poisoned());
    file.set_len(0).unwrap();
    assert_eq!(record.load(), None);
    assert!(record.poisoned());
}
