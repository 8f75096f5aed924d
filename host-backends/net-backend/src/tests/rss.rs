//! The hash against Microsoft's verification suite, and frames of every shape.

use std::net::IpAddr;

use virtio_spec::net::rss::hash_report;
use virtio_spec::net::rss::hash_type;

use crate::rss::FrameHash;
use crate::rss::HEAD_BYTES;
use crate::rss::Hasher;
use crate::rss::KEY_BYTES;
use crate::rss::SUPPORTED_TYPES;
use crate::rss::Steering;

/// The key of "Verifying the RSS hash calculation".
pub const KEY: [u8; KEY_BYTES] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Destination and port, source and port, hash of the addresses, hash with ports.
#[rustfmt::skip]
const VECTORS: [(&str, u16, &str, u16, u32, u32); 8] = [
    ("161.142.100.80", 1766, "66.9.149.187", 2794, 0x323e_8fc2, 0x51cc_c178),
    ("65.69.140.83", 4739, "199.92.111.2", 14230, 0xd718_262a, 0xc626_b0ea),
    ("12.22.207.184", 38024, "24.19.198.95", 12898, 0xd2d0_a5de, 0x5c2b_394a),
    ("209.142.163.6", 2217, "38.27.205.30", 48228, 0x8298_9176, 0xafc7_327f),
    ("202.188.127.2", 1303, "153.39.163.191", 44251, 0x5d18_09c5, 0x10e8_28a2),
    ("3ffe:2501:200:3::1", 1766, "3ffe:2501:200:1fff::7", 2794, 0x2cc1_8cd5, 0x4020_7d3d),
    ("ff02::1", 4739, "3ffe:501:8::260:97ff:fe40:efab", 14230, 0x0f0c_461c, 0xdde5_1bbf),
    ("fe80::200:f8ff:fe21:67cf", 38024, "3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, 0x4b61_e985, 0x02d1_feef),
];

const TCP: u8 = 6;
const UDP: u8 = 17;

fn octets(address: &str) -> Vec<u8> {
    match address.parse().expect("an address") {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A frame with `tags` VLAN tags and, over IPv6, `extensions` empty destination options.
fn frame(vector: usize, protocol: u8, tags: usize, extensions: usize) -> Vec<u8> {
    let (to, to_port, from, from_port, ..) = VECTORS[vector];
    let mut bytes = vec![2; 12];
    for _ in 0..tags {
        bytes.extend([0x81, 0, 0, 7]);
    }
    if to.contains(':') {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20]);
        bytes.extend([if extensions == 0 { protocol } else { 60 }, 64]);
        bytes.extend(octets(from));
        bytes.extend(octets(to));
        for left in (0..extensions).rev() {
            bytes.extend([if left == 0 { protocol } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        }
    } else {
        bytes.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
        bytes.extend(octets(from));
        bytes.extend(octets(to));
    }
    bytes.extend(from_port.to_be_bytes());
    bytes.extend(to_port.to_be_bytes());
    bytes.extend([0; 16]);
    bytes
}

fn all() -> Hasher {
    Hasher::new(SUPPORTED_TYPES, &KEY)
}

/// The report of vector `at` for `v4`, or for `v6`.
fn report(at: usize, v4: u16, v6: u16) -> u16 {
    if VECTORS[at].0.contains(':') { v6 } else { v4 }
}

#[test]
fn the_verification_suite_of_microsoft_holds() {
    let addresses_only = Hasher::new(hash_type::IPV4 | hash_type::IPV6, &KEY);
    for (at, (.., addresses, ports)) in VECTORS.into_iter().enumerate() {
        for (tags, extensions) in [(0, 0), (1, 0), (2, 1), (0, 3)] {
            let tcp = frame(at, TCP, tags, extensions);
            let udp = frame(at, UDP, tags, extensions);
            let hash = |value, report| FrameHash { value, report };
            let kind = report(at, hash_report::TCPV4, hash_report::TCPV6);
            assert_eq!(all().frame(&tcp), hash(ports, kind), "{at}");
            let kind = report(at, hash_report::UDPV4, hash_report::UDPV6);
            assert_eq!(all().frame(&udp), hash(ports, kind), "{at}");
            let kind = report(at, hash_report::IPV4, hash_report::IPV6);
            assert_eq!(addresses_only.frame(&tcp), hash(addresses, kind), "{at}");
        }
    }
}

#[test]
fn fragments_and_other_protocols_are_hashed_by_their_addresses() {
    let (.., addresses, _) = VECTORS[0];
    let expected = FrameHash {
        value: addresses,
        report: hash_report::IPV4,
    };
    let mut first = frame(0, TCP, 0, 0);
    first[14 + 6] = 0x20;
    assert_eq!(all().frame(&first), expected);
    let mut later = frame(0, UDP, 0, 0);
    later[14 + 7] = 1;
    assert_eq!(all().frame(&later), expected);
    assert_eq!(all().frame(&frame(0, 1, 0, 0)), expected);
    let (.., addresses, _) = VECTORS[5];
    let fragment = frame(5, 44, 0, 0);
    assert_eq!(all().frame(&fragment).value, addresses);
    assert_eq!(all().frame(&fragment).report, hash_report::IPV6);
}

#[test]
fn frames_cut_at_any_byte_are_hashed_by_what_is_there_or_not_at_all() {
    for vector in [0, 5] {
        let whole = frame(vector, TCP, 1, 2);
        let full = all().frame(&whole);
        let (.., addresses, _) = VECTORS[vector];
        for len in 0..whole.len() {
            let cut = all().frame(&whole[..len]);
            let fine = cut == full || cut == FrameHash::default() || cut.value == addresses;
            assert!(fine, "{len}");
        }
    }
    const { assert!(HEAD_BYTES >= 14 + 8 + 40 + 8 + 4) };
}

#[test]
fn neither_arp_nor_nonsense_has_a_hash() {
    let mut arp = frame(0, TCP, 0, 0);
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(all().frame(&arp), FrameHash::default());
    let mut version = frame(0, TCP, 0, 0);
    version[14] = 0x65;
    assert_eq!(all().frame(&version), FrameHash::default());
    let mut short = frame(0, TCP, 0, 0);
    short[14] = 0x44;
    assert_eq!(all().frame(&short), FrameHash::default());
    assert_eq!(all().frame(&[0x81; 64]), FrameHash::default());
    let none = Hasher::new(0, &KEY);
    assert_eq!(none.frame(&frame(0, TCP, 0, 0)), FrameHash::default());
}

#[test]
fn short_keys_are_padded_and_long_ones_cut() {
    assert_eq!(Hasher::new(SUPPORTED_TYPES, &[]).toeplitz(&[0xff; 36]), 0);
    let long = Hasher::new(0, &[KEY.as_slice(), &[1; 20]].concat());
    let input = octets(VECTORS[0].0);
    assert_eq!(all().toeplitz(&input), long.toeplitz(&input));
}

#[test]
fn the_table_is_indexed_by_the_low_bits_and_the_rest_is_unclassified() {
    let steering = Steering::new(all(), vec![0, 1, 2, 3], 7);
    for at in 0..VECTORS.len() {
        let hash = steering.hasher().frame(&frame(at, TCP, 0, 0));
        assert_eq!(u32::from(steering.pair(hash)), hash.value & 3);
    }
    assert_eq!(steering.pair(FrameHash::default()), 7);
    assert_eq!(steering.highest_pair(), 7);
}
