//! A queue pair on a link.

use std::sync::Arc;
use std::sync::Mutex;

use host_os::EventFd;
use host_os::sync::lock;
use net_link::Offloads;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use virtio_spec::net::Header;
use virtio_spec::net::feature as net;
use zerocopy::IntoBytes;

use crate::path::link::STARVATION;
use crate::path::tests::rig::FakeLink;
use crate::path::tests::rig::Guest;
use crate::path::tests::rig::MERGEABLE;
use crate::path::tests::rig::OFFLOADS;
use crate::path::tests::rig::PLAIN;
use crate::path::tests::rig::Wire;
use crate::path::tests::rig::frame;
use crate::path::tests::rig::large_frame;
use crate::switch::Switch;

/// A frame that fills two buffers of 1526 bytes, so that no scraps of a lost one show behind it.
const FILLS_TWO: usize = 2 * 1526 - 12;

struct Rig {
    guest: Guest,
    wire: Arc<Mutex<Wire>>,
    ready: Arc<EventFd>,
}

fn rig(features: u64, offloads: Offloads) -> Rig {
    let link = FakeLink::new(offloads);
    let (wire, ready) = (Arc::clone(&link.wire), Arc::clone(&link.ready));
    Rig {
        guest: Guest::on_link(link, features),
        wire,
        ready,
    }
}

impl Rig {
    fn arrive(&self, frame: &[u8]) {
        let bytes = [Header::default().as_bytes(), frame].concat();
        lock(&self.wire).waiting.push_back(bytes);
        self.ready.notify();
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut lock(&self.wire).sent)
    }

    /// Posts one buffer of each length.
    fn post_each(&mut self, lengths: &[usize]) {
        for len in lengths {
            self.guest.post(&[*len]);
        }
    }

    /// Waits until the worker would wake.
    fn awaken(&self) {
        let fd = self.guest.handler.completion_fd().expect("a descriptor");
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(10_000_u16)).expect("a poll");
    }

    /// Whether the worker would wake.
    fn is_awake(&self) -> bool {
        let fd = self.guest.handler.completion_fd().expect("a descriptor");
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).expect("a poll") == 1
    }
}

#[test]
fn frames_go_both_ways_through_one_worker() {
    for features in [PLAIN, MERGEABLE, MERGEABLE | net::HASH_REPORT] {
        let mut rig = rig(features, Offloads::ALL);
        for len in [14, 60, 300, 301, 1514] {
            rig.guest.post(&[2000]);
            rig.arrive(&frame(9, 1, len));
            rig.guest.send_all(&[frame(1, 9, len)]);
            let sent = rig.sent();
            assert_eq!(sent.len(), 1);
            assert_eq!(sent[0][..12], [0; 12]);
            assert_eq!(sent[0][12..], frame(1, 9, len));
            let got = rig.guest.got();
            assert_eq!(got.len(), 1);
            assert_eq!(got[0].frame, frame(9, 1, len));
            assert_eq!(got[0].header.num_buffers.get(), 1);
        }
    }
}

#[test]
fn large_frames_from_a_link_are_spread_and_small_ones_follow() {
    let mut rig = rig(MERGEABLE | OFFLOADS, Offloads::ALL);
    assert_eq!(lock(&rig.wire).offloads, Offloads::ALL);
    for _ in 0..50 {
        rig.guest.post(&[1526]);
    }
    for len in [65_000, 60, 1515, 60] {
        rig.arrive(&frame(9, 1, len));
    }
    rig.guest.run();
    let got = rig.guest.got();
    let buffers: Vec<u16> = got.iter().map(|got| got.header.num_buffers.get()).collect();
    assert_eq!(buffers, [43, 1, 2, 1]);
    for (got, len) in got.iter().zip([65_000, 60, 1515, 60]) {
        assert!(got.frame == frame(9, 1, len));
    }
    assert_eq!(lock(&rig.wire).lost, 0);
}

#[test]
fn row_25_a_link_whose_guest_starves_waits_asleep_until_buffers_come() {
    let mut rig = rig(MERGEABLE, Offloads::ALL);
    for nth in 0..100 {
        rig.arrive(&frame(9, 1, 60 + nth));
    }
    rig.guest.run();
    rig.guest.handler.before_sleep();
    let _ = rig.guest.shelf;
    // The wake-up of the queue's arrival at its shelf is taken away by the first sleep.
    rig.guest.handler.after_sleep(true);
    rig.guest.handler.before_sleep();
    assert!(!rig.is_awake(), "frames without buffers keep nobody awake");
    // The first buffer's publication asks for the kick that was armed; what the kick does is the queue worker's.
    assert!(rig.guest.post(&[256]), "the device wants to be told");
    for _ in 1..40 {
        rig.guest.post(&[256]);
    }
    assert!(!rig.is_awake(), "buffers alone wake nobody");
    rig.guest.shelf.kicked();
    assert!(rig.is_awake());
    rig.guest.handler.after_sleep(true);
    rig.guest.run();
    assert_eq!(rig.guest.got().len(), 40);
    for _ in 0..60 {
        rig.guest.post(&[256]);
    }
    rig.guest.run();
    let got = rig.guest.got();
    assert_eq!(got.len(), 60, "none was lost");
    assert_eq!(got[59].frame, frame(9, 1, 159));
}

#[test]
fn a_frame_that_is_larger_than_the_buffers_waits_asleep_for_the_rest_of_them() {
    for features in [
        MERGEABLE | OFFLOADS,
        MERGEABLE | OFFLOADS | net::HASH_REPORT,
    ] {
        let mut rig = rig(features, Offloads::ALL);
        for len in [60, 5000, 61] {
            rig.arrive(&frame(9, 1, len));
        }
        rig.post_each(&[1526, 1526, 1526]);
        rig.guest.run();
        rig.guest.handler.before_sleep();
        rig.guest.handler.after_sleep(true);
        rig.guest.handler.before_sleep();
        assert!(!rig.is_awake(), "too few buffers keep nobody awake");
        assert_eq!(rig.guest.got().len(), 1);
        rig.post_each(&[1526, 1526, 1526]);
        rig.guest.shelf.kicked();
        assert!(rig.is_awake());
        rig.guest.handler.after_sleep(true);
        rig.guest.run();
        let got = rig.guest.got();
        assert_eq!(got.len(), 2);
        assert_eq!(got[0].frame, frame(9, 1, 5000));
        assert_eq!(got[0].header.num_buffers.get(), 4);
        assert_eq!(got[1].frame, frame(9, 1, 61));
        assert_eq!(lock(&rig.wire).lost, 0);
    }
}

#[test]
fn a_frame_that_never_gets_its_buffers_is_given_up_and_the_next_goes_on() {
    let mut rig = rig(MERGEABLE | OFFLOADS, Offloads::ALL);
    rig.arrive(&frame(9, 1, 5000));
    rig.arrive(&frame(9, 1, FILLS_TWO));
    rig.post_each(&[1526, 1526]);
    rig.guest.run();
    let start = std::time::Instant::now();
    while rig.guest.totals().receive.starved == 0 {
        assert!(start.elapsed() < std::time::Duration::from_secs(10));
        rig.guest.handler.before_sleep();
        rig.awaken();
        rig.guest.handler.after_sleep(true);
        rig.guest.run();
    }
    assert!(start.elapsed() >= STARVATION);
    rig.guest.run();
    let got = rig.guest.got();
    assert_eq!(got.len(), 1);
    assert!(got[0].frame == frame(9, 1, FILLS_TWO));
}

#[test]
fn a_queue_that_is_taken_from_its_shelf_holds_no_buffers_back() {
    let mut rig = rig(MERGEABLE | OFFLOADS, Offloads::ALL);
    rig.arrive(&frame(9, 1, 60));
    rig.arrive(&frame(9, 1, 5000));
    rig.post_each(&[1526, 1526, 1526]);
    rig.guest.run();
    let queue = rig.guest.shelf.take().expect("the queue");
    assert_eq!(queue.in_flight(), 0, "all that was not used is given back");
    rig.guest.shelf.put(queue);
    rig.arrive(&frame(9, 1, FILLS_TWO));
    rig.guest.run();
    let got = rig.guest.got();
    let lengths: Vec<usize> = got.iter().map(|got| got.frame.len()).collect();
    assert_eq!(lengths, [60, FILLS_TWO]);
    assert!(got[1].frame == frame(9, 1, FILLS_TWO));
}

#[test]
fn a_guest_without_checksums_gets_no_flags_from_a_link() {
    for (features, flags) in [(MERGEABLE, 0), (MERGEABLE | OFFLOADS, 2)] {
        let mut rig = rig(features, Offloads::ALL);
        let header = Header {
            flags: 2,
            ..Header::default()
        };
        let bytes = [header.as_bytes(), &frame(9, 1, 60)].concat();
        lock(&rig.wire).waiting.push_back(bytes);
        rig.ready.notify();
        rig.guest.post(&[2000]);
        rig.guest.run();
        let got = rig.guest.got();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].header.flags, flags);
        assert_eq!(got[0].frame, frame(9, 1, 60));
    }
}

#[test]
fn frames_from_a_link_beyond_the_mtu_are_dropped_unless_they_are_to_be_cut() {
    let mut rig = rig(MERGEABLE | OFFLOADS | net::MTU, Offloads::ALL);
    rig.guest.port.update(|state| state.mtu = 1400);
    let most = 1400 + crate::port::ETHERNET_ROOM;
    rig.arrive(&frame(9, 1, most));
    let header = Header {
        flags: 1,
        gso_type: 1,
        gso_size: 1000.into(),
        ..Header::default()
    };
    let large = [header.as_bytes(), &frame(9, 1, 3000)].concat();
    lock(&rig.wire).waiting.push_back(large);
    rig.arrive(&frame(9, 1, most + 1));
    rig.post_each(&[1526, 1526, 1526, 1526]);
    rig.guest.run();
    let lengths: Vec<usize> = rig.guest.got().iter().map(|got| got.frame.len()).collect();
    assert_eq!(lengths, [most, 3000]);
    assert_eq!(rig.guest.totals().receive.too_long, 1);
}

#[test]
fn a_full_link_is_waited_for_shortly_and_once() {
    let mut rig = rig(PLAIN, Offloads::ALL);
    lock(&rig.wire).room = Some(3);
    let start = std::time::Instant::now();
    for _ in 0..10 {
        rig.guest.send_all(&[frame(1, 9, 60), frame(1, 9, 61)]);
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(1));
    assert_eq!((rig.guest.sent, rig.sent().len()), (20, 3));
    assert_eq!(rig.guest.totals().transmit.link_dropped, 17);
    lock(&rig.wire).room = None;
    rig.guest.send_all(&[frame(1, 9, 62)]);
    assert_eq!(rig.sent().len(), 1);
}

#[test]
fn links_without_offloads_get_finished_frames() {
    let mut rig = rig(MERGEABLE | OFFLOADS, Offloads::NONE);
    let (header, large) = large_frame(1, 9);
    rig.guest.queue_frame(&header, &large);
    rig.guest.run();
    let sent = rig.sent();
    assert_eq!(sent.len(), 3);
    for (nth, piece) in sent.iter().enumerate() {
        assert_eq!(piece[..12], [0; 12], "nothing is left to do");
        let payload = 54 + nth * 1000..54 + (nth + 1) * 1000;
        assert_eq!(piece[12 + 54..], large[payload]);
    }
    // Too short for what it claims to be.
    rig.guest.queue_frame(&header, &large[..60]);
    rig.guest.run();
    assert_eq!(rig.guest.totals().transmit.unsupported, 1);
    assert!(rig.sent().is_empty());
}

#[test]
fn a_pulled_cable_stops_both_ways_and_the_worker_hears_of_it() {
    let mut rig = rig(MERGEABLE, Offloads::ALL);
    rig.guest.post(&[500]);
    rig.guest.handler.before_sleep();
    rig.guest.port.update(|state| state.link_up = false);
    assert!(rig.is_awake());
    rig.guest.handler.after_sleep(true);
    rig.arrive(&frame(9, 1, 60));
    rig.guest.send_all(&[frame(1, 9, 60)]);
    assert!(rig.sent().is_empty() && rig.guest.got().is_empty());
    assert_eq!(rig.guest.totals().transmit.link_down, 1);
    rig.guest.handler.before_sleep();
    assert!(!rig.is_awake());
    rig.guest.port.update(|state| state.link_up = true);
    assert!(rig.is_awake());
    rig.guest.handler.after_sleep(true);
    rig.guest.run();
    assert_eq!(rig.guest.got().len(), 1);
}

#[test]
fn row_26_what_waits_for_the_worker_is_bounded() {
    let mut rig = rig(MERGEABLE, Offloads::ALL);
    let taken = (0..1000).filter(|_| rig.guest.port.send_own(&frame(1, 9, 60)).is_ok());
    let taken = taken.count();
    assert!((1..=64).contains(&taken), "{taken}");
    rig.guest.run();
    assert_eq!(rig.sent().len(), taken);
    rig.guest
        .port
        .send_own(&frame(1, 9, 60))
        .expect("room again");
}

#[test]
fn a_link_comes_back_to_its_port_with_the_worker() {
    let rig = rig(MERGEABLE, Offloads::ALL);
    let port = Arc::clone(&rig.guest.port);
    assert!(port.transmit_handler(0).is_err(), "it has one owner");
    drop(rig);
    assert!(port.transmit_handler(0).is_ok());
    assert!(port.transmit_handler(1).is_err());
}

#[test]
fn a_switch_with_an_uplink_carries_frames_out_and_in() {
    let switch = Arc::new(Switch::new("test"));
    let link = FakeLink::new(Offloads::NONE);
    let (wire, ready) = (Arc::clone(&link.wire), Arc::clone(&link.ready));
    switch.add_uplink(Box::new(link)).expect("an uplink");
    switch.start().expect("a thread");
    let mut a = Guest::on_switch(&switch, 1, MERGEABLE);
    let mut b = Guest::on_switch(&switch, 2, MERGEABLE);
    for _ in 0..4 {
        a.post(&[2048]);
        b.post(&[2048]);
    }
    a.send_all(&[frame(1, 9, 1400), frame(1, 2, 70)]);
    assert_eq!(lock(&wire).sent.len(), 1, "frames for b stay inside");
    assert_eq!(lock(&wire).sent[0][12..], frame(1, 9, 1400));
    b.buffers();
    let arriving = [frame(9, 1, 1300), frame(9, 1, 60)];
    for frame in &arriving {
        let bytes = [Header::default().as_bytes(), frame].concat();
        lock(&wire).waiting.push_back(bytes);
    }
    ready.notify();
    let mut got = Vec::new();
    let start = std::time::Instant::now();
    while got.len() < 2 && start.elapsed() < std::time::Duration::from_secs(10) {
        got.extend(a.got().into_iter().map(|got| got.frame));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(got, arriving);
    assert!(
        b.got().is_empty(),
        "station 9 is known to be outside, and 1 at a"
    );
    assert_eq!(switch.uplink_frames(), (1, 2));
    switch.stop();
}

#[test]
fn frames_from_a_link_are_filtered_without_a_buffer() {
    let mut rig = rig(MERGEABLE, Offloads::ALL);
    rig.guest
        .port
        .update(|state| state.receive.modes.promiscuous = false);
    rig.guest.post(&[500]);
    for to in [7, 1] {
        rig.arrive(&frame(9, to, 60));
    }
    lock(&rig.wire).waiting.push_back(vec![0; 20]);
    rig.guest.run();
    let got = rig.guest.got();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].frame, frame(9, 1, 60));
    assert_eq!(rig.guest.totals().receive.filtered, 1);
}
