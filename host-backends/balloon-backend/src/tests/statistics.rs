//! What the guest says of its memory. One rule: the buffer stays with the device until new figures are wanted.

use device_model::Device as _;
use std::time::Duration;
use std::time::Instant;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use virtio_spec::balloon::stat;

use super::rig::*;
use crate::BalloonSpec;

fn entries(pairs: &[(u16, u64)]) -> Vec<u8> {
    let entry = |(tag, value): &(u16, u64)| {
        let mut bytes = tag.to_le_bytes().to_vec();
        bytes.extend_from_slice(&value.to_le_bytes());
        bytes
    };
    pairs.iter().flat_map(entry).collect()
}

fn quick() -> BalloonSpec {
    BalloonSpec {
        stats_interval_ms: 50,
        ..everything()
    }
}

/// Sleeps as a worker does.
fn wait(rig: &Rig) {
    let mut fds = [PollFd::new(rig.device.statistics_fd(), PollFlags::POLLIN)];
    assert_eq!(
        poll(&mut fds, PollTimeout::from(5_000_u16)),
        Ok(1),
        "the timer wakes the worker"
    );
}

#[test]
fn all_tags_of_the_specification_are_understood() {
    let mut rig = Rig::new(everything());
    assert_eq!(rig.device.statistics(), None);
    let pairs: Vec<(u16, u64)> = (0..16)
        .rev()
        .map(|tag| (tag, u64::from(tag) * 1000 + 7))
        .collect();
    let segment = rig.place(&entries(&pairs));
    rig.send(STATS, &[segment], &[]);
    let statistics = rig.device.statistics().expect("statistics");
    for tag in 0..16 {
        assert_eq!(statistics.get(tag), Some(u64::from(tag) * 1000 + 7));
    }
    assert_eq!(statistics.get(16), None);
    assert_eq!(statistics.named().count(), stat::COUNT);
    assert!(
        rig.lanes[STATS].back.is_empty(),
        "the device keeps the buffer"
    );
    assert_eq!(rig.metrics().statistics_odd, 0);
}

#[test]
fn the_buffer_goes_back_when_the_timer_runs_out_and_comes_again() {
    let mut rig = Rig::new(quick());
    for round in 1..4_u64 {
        let segment = rig.place(&entries(&[(stat::AVAIL, round)]));
        let id = rig.send(STATS, &[segment], &[]);
        assert!(rig.lanes[STATS].back.is_empty());
        wait(&rig);
        rig.kick(STATS);
        assert_eq!(rig.lanes[STATS].back.pop(), Some(id));
        assert_eq!(
            rig.device.statistics().and_then(|s| s.get(stat::AVAIL)),
            Some(round)
        );
    }
}

#[test]
fn a_question_in_between_is_asked_at_once() {
    const INTERVAL: Duration = Duration::from_secs(1000);
    let mut rig = Rig::new(BalloonSpec {
        stats_interval_ms: INTERVAL.as_millis() as u32,
        ..everything()
    });
    let segment = rig.place(&entries(&[(stat::AVAIL, 1)]));
    let id = rig.send(STATS, &[segment], &[]);
    let start = Instant::now();
    rig.device.request_statistics();
    wait(&rig);
    rig.kick(STATS);
    assert!(start.elapsed() < INTERVAL / 10);
    assert_eq!(rig.lanes[STATS].back, [id]);
}

#[test]
fn a_question_asked_before_a_pause_is_asked_after_it() {
    let mut rig = Rig::new(BalloonSpec {
        stats_interval_ms: 1_000_000,
        ..everything()
    });
    rig.device.request_statistics();
    wait(&rig);
    let index = u16::try_from(STATS).expect("a queue");
    let handler = rig.device.start_queue(index, rig.device.features());
    rig.lanes[STATS].handler = handler.expect("the next worker's");
    let segment = rig.place(&entries(&[(stat::AVAIL, 1)]));
    let id = rig.send(STATS, &[segment], &[]);
    assert_eq!(rig.lanes[STATS].back, [id]);
    assert_eq!(rig.metrics().statistics_missed, 0);
}

#[test]
fn a_driver_that_never_returns_the_buffer_is_noticed() {
    let mut rig = Rig::new(quick());
    for _ in 0..3 {
        wait(&rig);
        rig.kick(STATS);
    }
    assert!(rig.metrics().statistics_missed >= 3);
    assert!(rig.lanes[STATS].back.is_empty());
}

#[test]
fn a_second_buffer_sends_the_first_one_back() {
    let mut rig = Rig::new(everything());
    let segment = rig.place(&entries(&[(stat::AVAIL, 1)]));
    let first = rig.send(STATS, &[segment], &[]);
    let segment = rig.place(&entries(&[(stat::AVAIL, 2)]));
    rig.send(STATS, &[segment], &[]);
    assert_eq!(rig.lanes[STATS].back, [first]);
    assert_eq!(
        rig.device.statistics().and_then(|s| s.get(stat::AVAIL)),
        Some(2)
    );
}

#[test]
fn unknown_repeated_and_cut_entries_are_counted_and_the_rest_counts() {
    let mut rig = Rig::new(everything());
    let mut bytes = entries(&[
        (0xffff, 1),
        (16, 2),
        (stat::MEMFREE, 3),
        (stat::MEMFREE, 4),
        (stat::MEMTOT, 5),
    ]);
    bytes.extend_from_slice(&[1, 2, 3, 4, 5]);
    let segment = rig.place(&bytes);
    rig.send(STATS, &[segment], &[]);
    let statistics = rig.device.statistics().expect("statistics");
    assert_eq!(
        statistics.get(stat::MEMFREE),
        Some(4),
        "the last word counts"
    );
    assert_eq!(statistics.get(stat::MEMTOT), Some(5));
    assert_eq!(statistics.named().count(), 2);
    assert_eq!(rig.metrics().statistics_odd, 4);
}

#[test]
fn buffers_of_any_length_are_survived() {
    let mut rig = Rig::new(everything());
    let long = entries(&vec![(stat::SWAP_IN, 9); 1000]);
    for len in [1, 5, 9, 10, 11, 2559, 2560, 2561, 9999] {
        let segment = rig.place(&long[..len]);
        rig.send(STATS, &[segment], &[]);
        let wanted = (len >= 10).then_some(9);
        assert_eq!(
            rig.device.statistics().and_then(|s| s.get(stat::SWAP_IN)),
            wanted,
            "{len}"
        );
    }
    // Cut at every byte over two segments.
    for cut in 1..20 {
        let parts = [rig.place(&long[..cut]), rig.place(&long[cut..20])];
        rig.send(STATS, &parts, &[]);
        assert_eq!(
            rig.device.statistics().and_then(|s| s.get(stat::SWAP_IN)),
            Some(9)
        );
    }
}

#[test]
fn the_held_buffer_goes_back_before_the_queue_stops() {
    let mut rig = Rig::new(everything());
    let segment = rig.place(&entries(&[(stat::AVAIL, 1)]));
    let id = rig.send(STATS, &[segment], &[]);
    let memory = rig.memory.clone();
    let lane = &mut rig.lanes[STATS];
    assert_eq!(lane.handler.in_flight(), 1);
    lane.handler
        .drain(&mut lane.queue, &memory)
        .expect("it drains");
    assert_eq!((lane.handler.in_flight(), lane.queue.in_flight()), (0, 0));
    rig.kick(STATS);
    assert_eq!(rig.lanes[STATS].back, [id]);
}
