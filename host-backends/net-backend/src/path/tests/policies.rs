//! Address filter, rate limits and recording on the frame path.

use std::sync::Arc;

use host_os::sync::lock;
use net_link::Offloads;
use virtio_spec::net::Header;
use zerocopy::IntoBytes;

use crate::MacAddress;
use crate::capture::Capture;
use crate::filter::Filter;
use crate::limit::Limits;
use crate::path::tests::rig::FakeLink;
use crate::path::tests::rig::Guest;
use crate::path::tests::rig::MERGEABLE;
use crate::path::tests::rig::frame;
use crate::path::tests::rig::mac;
use crate::port::Policy;
use crate::switch::Switch;

#[test]
fn frames_from_anothers_address_do_not_leave() {
    let switch = Arc::new(Switch::new("test"));
    let mut policy = Policy::default();
    policy.filter = Some(Filter::new(MacAddress(mac(1)), Vec::new()));
    let mut a = Guest::with_policy(&switch, 1, MERGEABLE, policy);
    let mut b = Guest::on_switch(&switch, 2, MERGEABLE);
    for _ in 0..4 {
        b.post(&[256]);
    }
    a.send_all(&[frame(1, 2, 60), frame(7, 2, 61), frame(1, 2, 62)]);
    let got: Vec<Vec<u8>> = b.got().into_iter().map(|got| got.frame).collect();
    assert_eq!(got, [frame(1, 2, 60), frame(1, 2, 62)]);
    assert_eq!((a.sent, a.totals().transmit.spoofed), (3, 1));
}

#[test]
fn frames_beyond_the_limits_are_dropped_in_either_direction() {
    let switch = Arc::new(Switch::new("test"));
    let mut a = Guest::on_switch(&switch, 1, MERGEABLE);
    let mut b = Guest::on_switch(&switch, 2, MERGEABLE);
    let slow = Limits {
        bytes: 0,
        packets: 100,
    };
    let frames = vec![frame(1, 2, 60); 60];
    for limited_sender in [true, false] {
        a.port.policy().set_limits(if limited_sender {
            slow
        } else {
            Limits::default()
        });
        b.port.policy().set_limits(if limited_sender {
            Limits::default()
        } else {
            slow
        });
        while b.room_in_ring() {
            b.post(&[256]);
        }
        a.send_all(&frames);
        let got = b.got().len();
        assert!((1..40).contains(&got), "{got} in far less than a second");
    }
    assert!(a.totals().transmit.limited > 20);
    assert!(b.totals().receive.limited > 20);
}

#[test]
fn a_recording_has_both_directions_of_a_port_on_a_link() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let capture = Capture::create(file.path(), true).expect("a recording");
    let mut policy = Policy::default();
    policy.capture = Some(Arc::new(capture));
    let link = FakeLink::new(Offloads::ALL);
    let wire = Arc::clone(&link.wire);
    let mut a = Guest::on_link_with(link, MERGEABLE, policy);
    let pass = |a: &mut Guest| {
        for _ in 0..2 {
            a.post(&[512]);
        }
        let bytes = [Header::default().as_bytes(), &frame(9, 1, 700)].concat();
        lock(&wire).waiting.push_back(bytes);
        a.send_all(&[frame(1, 9, 900)]);
        assert_eq!(a.got().len(), 1);
    };
    pass(&mut a);
    let capture = a.port.policy().capture.clone().expect("a recording");
    assert_eq!(capture.captured().frames, 0, "not asked for yet");
    capture.set(true);
    pass(&mut a);
    assert_eq!(capture.captured().frames, 2);
    capture.set(false);
    let bytes = std::fs::read(file.path()).expect("the recording");
    for whole in [frame(1, 9, 900), frame(9, 1, 700)] {
        assert!(bytes.windows(whole.len()).any(|part| part == whole));
    }
}
