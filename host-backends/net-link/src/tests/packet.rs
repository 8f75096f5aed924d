//! Packet sockets on one end of a veth pair; the kernel has the other.
//!
//! Rule: each test has a network namespace of its own.

use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use guest_memory::GuestMemory;
use nix::poll::PollFd;
use nix::poll::PollFlags;

use super::frames;
use super::frames::PLAIN;
use super::namespace;
use super::namespace::ip;
use crate::HEADER_BYTES;
use crate::Link;
use crate::LinkSpec;
use crate::Offloads;
use crate::Received;
use crate::Sent;
use crate::Watch;

const HOST: ([u8; 6], [u8; 4]) = ([2, 0, 0, 0, 0, 1], [10, 9, 0, 1]);
const GUEST: ([u8; 6], [u8; 4]) = ([2, 0, 0, 0, 0, 2], [10, 9, 0, 2]);

/// The host's end is `v0` with an address, ours is `v1` without.
fn make_pair() -> Box<dyn Link> {
    ip("link add v0 address 02:00:00:00:00:01 type veth peer name v1");
    ip("link set v0 up");
    ip("link set v1 up");
    ip("addr add 10.9.0.1/24 dev v0");
    ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev v0");
    namespace::wait_until_up("v0");
    let spec: LinkSpec = "packet:v1".parse().unwrap();
    crate::open(&spec, 1).unwrap().remove(0)
}

fn readable(link: &dyn Link, timeout_ms: u16) -> bool {
    let mut fds = [PollFd::new(link.ready_fd(), PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, timeout_ms).unwrap() == 1
}

fn receive(link: &mut dyn Link, memory: &GuestMemory) -> Option<Vec<u8>> {
    let into = frames::spans(memory, &[(0x1000, 5), (0x30000, 0x18000)]);
    let Received::Frame(bytes) = link.receive(&into, &mut []).unwrap() else {
        return None;
    };
    let mut frame = vec![0; bytes];
    memory.read(0x1000, &mut frame[..5]).unwrap();
    memory.read(0x30000, &mut frame[5..]).unwrap();
    Some(frame)
}

/// The sum over UDP and its pseudo header, which is all ones when the checksum is right.
fn udp_sum(frame: &[u8]) -> u32 {
    let udp = &frame[34..];
    let mut bytes = frame[26..34].to_vec();
    bytes.extend([0, 17]);
    bytes.extend(u16::try_from(udp.len()).unwrap().to_be_bytes());
    bytes.extend(udp);
    bytes.push(0);
    let sum = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum::<u32>();
    (sum & 0xffff) + (sum >> 16)
}

#[test]
fn frames_go_both_ways_through_a_packet_socket() {
    namespace::run("frames_go_both_ways_through_a_packet_socket", || {
        let mut link = make_pair();
        let memory = frames::ram();
        let socket = UdpSocket::bind("10.9.0.1:5000").unwrap();
        let frame = frames::udp4(GUEST, HOST, b"from the guest");
        memory.write(0x8000, &frame[20..]).unwrap();
        let head = [&PLAIN, &frame[..20]].concat();
        let rest = u32::try_from(frame.len() - 20).unwrap();
        let rest = frames::spans(&memory, &[(0x8000, rest)]);
        assert_eq!(link.send(&head, &rest).unwrap(), Sent::Sent);
        link.flush().unwrap();
        let mut text = [0; 64];
        let (bytes, _) = socket.recv_from(&mut text).unwrap();
        assert_eq!(&text[..bytes], b"from the guest");
        assert_eq!(
            receive(link.as_mut(), &memory),
            None,
            "our own frames are not heard"
        );

        socket.send_to(b"from the host", "10.9.0.2:4000").unwrap();
        assert!(readable(link.as_ref(), 1000));
        let got = receive(link.as_mut(), &memory).unwrap();
        assert_eq!(got[..HEADER_BYTES], PLAIN);
        assert!(got.ends_with(b"from the host"));
        assert_eq!(
            udp_sum(&got[HEADER_BYTES..]),
            0xffff,
            "completed, as no offload was asked for"
        );

        link.set_offloads(Offloads::ALL).unwrap();
        socket.send_to(b"partial", "10.9.0.2:4000").unwrap();
        assert!(readable(link.as_ref(), 1000));
        let got = receive(link.as_mut(), &memory).unwrap();
        assert_eq!((got[0], got[6], got[8]), (1, 34, 6), "left to the guest");
    });
}

#[test]
fn tags_that_the_kernel_took_out_are_put_back() {
    namespace::run("tags_that_the_kernel_took_out_are_put_back", || {
        let mut link = make_pair();
        let spec: LinkSpec = "packet:v0".parse().unwrap();
        let mut other = crate::open(&spec, 1).unwrap().remove(0);
        let memory = frames::ram();
        let none = frames::spans(&memory, &[]);
        // The checksum is only begun: the sum of the pseudo header.
        let mut plain = frames::udp4(HOST, GUEST, b"tagged");
        plain[40..42].copy_from_slice(&[0x14, 0x34]);
        let mut head = [&PLAIN[..], &plain[..12], &[0x81, 0, 0, 7], &plain[12..]].concat();
        head[..10].copy_from_slice(&[1, 0, 0, 0, 0, 0, 38, 0, 6, 0]);
        for offloads in [Offloads::ALL, Offloads::NONE] {
            link.set_offloads(offloads).unwrap();
            assert_eq!(other.send(&head, &none).unwrap(), Sent::Sent);
            assert!(readable(link.as_ref(), 2000));
            let got = receive(link.as_mut(), &memory).unwrap();
            let frame = &got[HEADER_BYTES..];
            assert_eq!(frame[..6], GUEST.0);
            assert_eq!(frame[12..18], [0x81, 0, 0, 7, 8, 0]);
            assert!(frame.ends_with(b"tagged"));
            if offloads.csum {
                assert_eq!((got[0], got[6], got[8]), (1, 38, 6));
            } else {
                let untagged = [&frame[..12], &frame[16..]].concat();
                assert_eq!((got[0], udp_sum(&untagged)), (0, 0xffff));
            }
        }
    });
}

#[test]
fn large_frames_reach_only_who_accepts_them() {
    namespace::run("large_frames_reach_only_who_accepts_them", || {
        let mut link = make_pair();
        let memory = frames::ram();
        // The guest's side of TCP is played by a second address of the kernel: its frames pass the link both ways.
        let listener = TcpListener::bind("10.9.0.1:5000").unwrap();
        ip("link set v1 address 02:00:00:00:00:02");
        ip("addr add 10.9.0.2/24 dev v1");
        link.set_offloads(Offloads::ALL).unwrap();
        let client = std::thread::spawn(move || listener.accept().unwrap().0);
        // Over the loopback device, so that nothing is seen here: only what goes out of v0 is.
        let mut stream = TcpStream::connect("10.9.0.1:5000").unwrap();
        let mut server = client.join().unwrap();
        server.write_all(&[1; 100]).unwrap();
        stream.read_exact(&mut [0; 100]).unwrap();
        assert_eq!(receive(link.as_mut(), &memory), None);
        // A large frame of our own making, out of v0 by a second link.
        let spec: LinkSpec = "packet:v0".parse().unwrap();
        let mut other = crate::open(&spec, 1).unwrap().remove(0);
        let mut head = [&PLAIN[..], &GUEST.0, &HOST.0, &[8, 0, 0x45, 0]].concat();
        head.extend(4052u16.to_be_bytes());
        head.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2]);
        head.extend([
            0x13, 0x88, 0x13, 0x89, 0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x10, 1, 0, 0, 0, 0, 0,
        ]);
        head.extend([1; 12]);
        head[..10].copy_from_slice(&[1, 1, 66, 0, 232, 3, 34, 0, 16, 0]);
        let rest = frames::spans(&memory, &[(0x60000, 4000)]);
        assert_eq!(other.send(&head, &rest).unwrap(), Sent::Sent);
        assert!(readable(link.as_ref(), 2000));
        let got = receive(link.as_mut(), &memory).unwrap();
        assert_eq!(
            (got[1], got.len()),
            (1, HEADER_BYTES + 66 + 4000),
            "whole, as TCP over IPv4"
        );
        assert_eq!(got[4..6], [232, 3]);
        let some = Offloads {
            tso4: false,
            ..Offloads::ALL
        };
        link.set_offloads(some).unwrap();
        assert_eq!(other.send(&head, &rest).unwrap(), Sent::Sent);
        assert!(readable(link.as_ref(), 2000));
        assert_eq!(receive(link.as_mut(), &memory), None);
    });
}

#[derive(Default)]
struct Events {
    lost: AtomicU32,
}

impl Watch for Events {
    fn lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn restored(&self) {}
}

#[test]
fn an_interface_that_is_down_comes_back_and_one_that_is_removed_does_not() {
    namespace::run(
        "an_interface_that_is_down_comes_back_and_one_that_is_removed_does_not",
        || {
            let mut link = make_pair();
            let memory = frames::ram();
            let events = Arc::new(Events::default());
            link.watch(Arc::clone(&events) as Arc<dyn Watch>);
            let socket = UdpSocket::bind("0.0.0.0:5000").unwrap();
            let frame = frames::udp4(GUEST, HOST, b"again");
            let head = [&PLAIN, &frame[..]].concat();
            let none = frames::spans(&memory, &[]);
            ip("link set v1 down");
            assert_eq!(link.send(&head, &none).unwrap(), Sent::Dropped);
            assert_eq!(receive(link.as_mut(), &memory), None);
            assert_eq!(events.lost.load(Ordering::Relaxed), 0);
            ip("link set v1 up");
            namespace::wait_until_up("v0");
            socket
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            let mut text = [0; 64];
            let came_back = (0..50).any(|_| {
                let _ = receive(link.as_mut(), &memory);
                let _ = link.send(&head, &none).unwrap();
                socket.recv(&mut text).is_ok()
            });
            assert!(came_back && text.starts_with(b"again"));
            ip("link del v1");
            assert!(readable(link.as_ref(), 1000), "the worker is woken");
            assert_eq!(receive(link.as_mut(), &memory), None);
            assert_eq!(link.send(&head, &none).unwrap(), Sent::Dropped);
            assert_eq!(events.lost.load(Ordering::Relaxed), 1);
            assert!(!readable(link.as_ref(), 0), "no worker spins on it");
            link.flush().unwrap();
        },
    );
}

#[test]
fn frames_that_a_packet_socket_refuses_are_dropped() {
    namespace::run("frames_that_a_packet_socket_refuses_are_dropped", || {
        let mut link = make_pair();
        let memory = frames::ram();
        let none = frames::spans(&memory, &[]);
        for bytes in 0..HEADER_BYTES + 14 {
            assert_eq!(
                link.send(&vec![0; bytes], &none).unwrap(),
                Sent::Dropped,
                "{bytes}"
            );
        }
        let mut head = [&PLAIN[..], &frames::udp4(GUEST, HOST, b"x")].concat();
        head[1] = 9;
        assert_eq!(
            link.send(&head, &none).unwrap(),
            Sent::Dropped,
            "no such segmentation"
        );
        head[1] = 0;
        let long = frames::spans(&memory, &[(0, 1600)]);
        assert_eq!(
            link.send(&head, &long).unwrap(),
            Sent::Dropped,
            "longer than the MTU"
        );
        let many: Vec<_> = (0..1023).map(|i| (0x1_0000 + i * 64, 8)).collect();
        let many = frames::spans(&memory, &many);
        assert_eq!(link.send(&head, &many).unwrap(), Sent::Dropped);
        let spec: LinkSpec = "packet:nowhere0".parse().unwrap();
        let refused = crate::open(&spec, 1).err().unwrap().to_string();
        assert!(refused.contains("no interface nowhere0"), "{refused}");
    });
}
