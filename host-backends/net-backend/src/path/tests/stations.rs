//! Whose an address is: nobody's frames are drawn away, above all not those for what is behind an uplink.

use std::sync::Arc;
use std::sync::Mutex;

use host_os::sync::lock;
use net_link::Offloads;
use virtio_spec::net::Header;
use zerocopy::IntoBytes;

use crate::ConditionKind;
use crate::Error;
use crate::MacAddress;
use crate::path::tests::rig::FakeLink;
use crate::path::tests::rig::Guest;
use crate::path::tests::rig::MERGEABLE;
use crate::path::tests::rig::Wire;
use crate::path::tests::rig::frame;
use crate::path::tests::rig::mac;
use crate::port::Policy;
use crate::port::Port;
use crate::port::PortState;
use crate::switch::Switch;

/// The station behind the uplink.
const GATEWAY: u8 = 99;

/// A switch with three guests and an uplink whose other end is the test's.
struct Net {
    switch: Arc<Switch>,
    wire: Arc<Mutex<Wire>>,
    ready: Arc<host_os::EventFd>,
    guests: [Guest; 3],
}

impl Net {
    fn new() -> Self {
        let switch = Arc::new(Switch::new("test"));
        let link = FakeLink::new(Offloads::ALL);
        let (wire, ready) = (Arc::clone(&link.wire), Arc::clone(&link.ready));
        switch.add_uplink(Box::new(link)).expect("an uplink");
        switch.start().expect("a thread");
        let guests = [1, 2, 3].map(|number| Guest::on_switch(&switch, number, MERGEABLE));
        Self {
            switch,
            wire,
            ready,
            guests,
        }
    }

    /// A frame comes in by the uplink, and has gone where it goes when this returns.
    fn arrive(&self, frame: &[u8]) {
        let before = self.switch.uplink_frames().1 + self.nowhere();
        let bytes = [Header::default().as_bytes(), frame].concat();
        lock(&self.wire).waiting.push_back(bytes);
        self.ready.notify();
        while self.switch.uplink_frames().1 + self.nowhere() == before {
            std::thread::yield_now();
        }
    }

    /// Frames from outside that were for nobody in here.
    fn nowhere(&self) -> u64 {
        self.switch.uplink_nowhere()
    }

    /// Sends a frame of guest `number` from `source` to `to`; who got it, 0 for the uplink.
    fn send(&mut self, number: usize, source: u8, to: u8) -> Vec<usize> {
        for guest in &mut self.guests {
            guest.post(&[256]);
        }
        let sent = frame(source, to, 60);
        self.guests[number - 1].send_all(std::slice::from_ref(&sent));
        let mut got = Vec::new();
        if !std::mem::take(&mut lock(&self.wire).sent).is_empty() {
            got.push(0);
        }
        for (at, guest) in self.guests.iter_mut().enumerate() {
            if guest.got().iter().any(|got| got.frame == sent) {
                got.push(at + 1);
            }
        }
        got
    }

    fn complaint(&self, number: usize) -> Option<String> {
        let all = self.guests[number - 1].port.conditions();
        let found = all
            .into_iter()
            .find(|condition| condition.kind == ConditionKind::AddressInUse);
        found.map(|condition| condition.message)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.switch.stop();
    }
}

fn broadcast(from: u8) -> Vec<u8> {
    let mut frame = frame(from, 0, 60);
    frame[..6].fill(0xff);
    frame
}

#[test]
fn a_guest_cannot_draw_away_what_is_for_a_gateway_behind_the_uplink() {
    let mut net = Net::new();
    net.arrive(&broadcast(GATEWAY));
    assert_eq!(net.send(2, 2, GATEWAY), [0]);
    for _ in 0..3 {
        net.send(1, GATEWAY, 77);
    }
    assert_eq!(net.send(2, 2, GATEWAY), [0], "still the gateway's");
    let said = net.complaint(1).expect("it is told and shown");
    assert!(said.contains("02:00:00:00:00:63"), "{said}");
    assert!(said.contains("uplink"), "{said}");
    assert_eq!(net.guests[0].totals().transmit.frames, 3);
    // Nor by the command that sets its address.
    assert!(!net.guests[0].port.hold_address(MacAddress(mac(GATEWAY))));
    assert_eq!(net.send(2, 2, GATEWAY), [0]);
}

#[test]
fn a_guest_that_was_there_before_the_gateway_gives_its_address_back() {
    let mut net = Net::new();
    net.send(1, GATEWAY, 77);
    assert_eq!(net.send(2, 2, GATEWAY), [1]);
    // A broadcast could be the guest's own that came back; an answer to a guest cannot.
    net.arrive(&broadcast(GATEWAY));
    assert_eq!(net.send(2, 2, GATEWAY), [1]);
    net.arrive(&frame(GATEWAY, 2, 60));
    assert_eq!(net.send(2, 2, GATEWAY), [0]);
    assert!(net.complaint(1).is_some());
    net.send(1, GATEWAY, 77);
    assert_eq!(net.send(2, 2, GATEWAY), [0]);
}

#[test]
fn a_broadcast_that_comes_back_moves_nobody() {
    let mut net = Net::new();
    // Its card's address, the first that it sends from, and one more behind it.
    for station in [1, 50, 51] {
        net.send(1, station, 77);
        net.arrive(&broadcast(station));
        assert_eq!(net.send(2, 2, station), [1], "{station}");
    }
    assert_eq!((net.complaint(1), net.complaint(2)), (None, None));
}

#[test]
fn a_guest_cannot_draw_away_the_frames_of_a_guest_that_was_there_first() {
    let mut net = Net::new();
    // Under QEMU the address of a card is not the one that the daemon would give it.
    net.send(1, 50, 77);
    assert_eq!(net.send(2, 2, 50), [1]);
    net.send(3, 50, 77);
    assert_eq!(net.send(2, 2, 50), [1], "the first has it");
    let [first, second] = [1, 3].map(|number| net.complaint(number).expect("a complaint"));
    assert!(
        first.contains("guest3") && first.contains("mac="),
        "{first}"
    );
    assert!(
        second.contains("guest1") && second.contains("mac="),
        "{second}"
    );
    // It ends with the driver that had it, and is free then.
    net.guests[0].port.release();
    net.send(3, 50, 77);
    assert_eq!(net.send(2, 2, 50), [3]);
}

#[test]
fn an_address_that_a_driver_sets_is_its_own_until_it_is_reset() {
    let mut net = Net::new();
    let set = MacAddress(mac(60));
    assert!(net.guests[0].port.hold_address(set));
    assert!(!net.guests[2].port.hold_address(set), "it is another's");
    assert!(
        !net.guests[2].port.hold_address(MacAddress(mac(1))),
        "configured"
    );
    net.send(3, 60, 77);
    assert_eq!(net.send(2, 2, 60), [1]);
    // What it set before is free again.
    assert!(net.guests[0].port.hold_address(MacAddress(mac(61))));
    assert!(net.guests[2].port.hold_address(set));
    net.guests[2].port.release();
    assert!(net.guests[1].port.hold_address(set));
}

#[test]
fn a_further_address_moves_to_where_it_was_heard_of_last() {
    let mut net = Net::new();
    for number in [1, 3] {
        net.send(number, number as u8 + 40, 77);
        net.send(number, 70, 77);
        assert_eq!(net.send(2, 2, 70), [number]);
    }
    // Out of this process too, once it answers from there.
    net.arrive(&frame(70, 2, 60));
    assert_eq!(net.send(2, 2, 70), [0]);
    assert_eq!((net.complaint(1), net.complaint(3)), (None, None));
}

#[test]
fn a_guest_that_comes_from_another_host_is_found_at_once() {
    let mut net = Net::new();
    net.arrive(&broadcast(50));
    assert_eq!(net.send(2, 2, 50), [0]);
    net.guests[0].port.arrived(MacAddress(mac(50)));
    assert_eq!(net.send(2, 2, 50), [1]);
    // But no front-end keeps what a station outside goes on to use.
    net.arrive(&frame(50, 2, 60));
    assert_eq!(net.send(2, 2, 50), [0]);
}

#[test]
fn two_cards_of_a_switch_cannot_be_configured_with_one_address() {
    let switch = Arc::new(Switch::new("test"));
    let card = |name, number| {
        let state = PortState::new(MacAddress(mac(number)));
        Port::on_switch(name, &switch, 1, state, Policy::default())
    };
    let first = card("left", 1).expect("a port");
    match card("right", 1) {
        Err(Error::AddressTaken { port, .. }) => assert_eq!(port, "left"),
        other => panic!("{other:?}"),
    }
    let _second = card("right", 2).expect("a port");
    drop(first);
    assert!(card("left again", 1).is_ok(), "free when its port is gone");
}
