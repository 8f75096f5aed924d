//! Each receive mode, table and VLAN.

use crate::MacAddress;
use crate::receive_filter::AddressTable;
use crate::receive_filter::MAX_ADDRESSES;
use crate::receive_filter::Modes;
use crate::receive_filter::ReceiveFilter;

const OWN: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);
const GROUP: MacAddress = MacAddress([1, 0, 0x5e, 0, 0, 1]);

fn to(address: MacAddress) -> Vec<u8> {
    [&address.0[..], &[2, 0, 0, 0, 0, 9, 8, 0, 0x45, 0]].concat()
}

fn tagged(id: u16) -> Vec<u8> {
    let mut frame = to(OWN);
    frame.splice(12..12, [0x81, 0, (id >> 8) as u8 | 0xe0, id as u8]);
    frame
}

/// What of own, other, group, broadcast passes with `modes`.
fn passes(modes: Modes, filter: &ReceiveFilter) -> [bool; 4] {
    let mut filter = filter.clone();
    filter.modes = modes;
    [OWN, OTHER, GROUP, MacAddress::BROADCAST].map(|address| filter.admits(&to(address)))
}

#[test]
fn everything_passes_until_the_driver_says_otherwise() {
    let filter = ReceiveFilter::open(OWN);
    assert!(filter.is_open());
    for address in [OWN, OTHER, GROUP, MacAddress::BROADCAST] {
        assert!(filter.admits(&to(address)));
    }
    assert!(filter.admits(&tagged(7)));
}

/// Modes by their initials: promiscuous, all multicast, all unicast, then no multicast, unicast, broadcast.
fn modes(initials: &str) -> Modes {
    Modes {
        promiscuous: initials.contains('p'),
        all_multicast: initials.contains('m'),
        all_unicast: initials.contains('u'),
        no_multicast: initials.contains('M'),
        no_unicast: initials.contains('U'),
        no_broadcast: initials.contains('B'),
    }
}

#[test]
fn each_mode_does_what_it_says() {
    let filter = ReceiveFilter::open(OWN);
    let cases = [
        ("", [true, false, false, true]),
        ("p", [true, true, true, true]),
        ("m", [true, false, true, true]),
        ("u", [true, true, false, true]),
        ("B", [true, false, false, false]),
        ("Uu", [false, false, false, true]),
        ("Mm", [true, false, false, true]),
        ("Bm", [true, false, true, false]),
        ("UBp", [true, true, true, true]),
    ];
    for (initials, expected) in cases {
        assert_eq!(passes(modes(initials), &filter), expected, "{initials}");
    }
}

#[test]
fn tables_admit_their_addresses_and_overflowing_ones_all() {
    let mut filter = ReceiveFilter::open(OWN);
    filter.modes = Modes::default();
    filter.unicast = AddressTable::new(vec![GROUP, OTHER]);
    assert!(filter.admits(&to(OTHER)));
    assert!(!filter.admits(&to(GROUP)));
    filter.multicast = AddressTable::new(vec![GROUP]);
    assert!(filter.admits(&to(GROUP)));
    filter.unicast = AddressTable::new(Vec::new());
    assert!(!filter.admits(&to(OTHER)));
    filter.unicast = AddressTable::new(vec![GROUP; MAX_ADDRESSES + 1]);
    assert!(filter.admits(&to(OTHER)));
}

#[test]
fn vlans_pass_by_the_table_and_untagged_frames_always() {
    let mut filter = ReceiveFilter::open(OWN);
    filter.filter_vlans();
    assert!(!filter.is_open());
    assert!(!filter.admits(&tagged(7)));
    assert!(filter.admits(&tagged(0)));
    assert!(filter.admits(&to(OWN)));
    for id in [0, 1, 7, 63, 64, 4094, 4095] {
        filter.set_vlan(id, true);
        assert!(filter.admits(&tagged(id)), "{id}");
    }
    assert!(!filter.admits(&tagged(8)));
    filter.set_vlan(7, false);
    assert!(!filter.admits(&tagged(7)));
    filter.set_vlan(u16::MAX, true);
}

#[test]
fn frames_without_a_whole_header_do_not_pass() {
    for len in 0..6 {
        assert!(!ReceiveFilter::open(OWN).admits(&[2; 6][..len]));
    }
}
