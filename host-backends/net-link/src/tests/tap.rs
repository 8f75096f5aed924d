//! TAP interfaces of a real kernel.
//!
//! Rule: each test has a network namespace of its own.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use guest_memory::GuestMemory;
use nix::poll::PollFd;
use nix::poll::PollFlags;

use super::frames;
use super::frames::PLAIN;
use super::namespace;
use super::namespace::ip;
use crate::Error;
use crate::HEADER_BYTES;
use crate::Link;
use crate::LinkSpec;
use crate::Offloads;
use crate::Received;
use crate::Sent;
use crate::Watch;

const HOST: [u8; 4] = [10, 9, 0, 1];
const GUEST: [u8; 4] = [10, 9, 0, 2];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn make_interface(flags: &str) {
    ip(&format!("tuntap add dev t0 mode tap {flags}"));
    ip("link set t0 address 02:00:00:00:00:01 up");
    ip("addr add 10.9.0.1/24 dev t0");
    ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev t0");
}

fn open(text: &str, pairs: u16) -> Result<Vec<Box<dyn Link>>, Error> {
    crate::open(&text.parse::<LinkSpec>().unwrap(), pairs)
}

fn open_one(text: &str) -> Box<dyn Link> {
    let link = open(text, 1).unwrap().remove(0);
    namespace::wait_until_up("t0");
    link
}

fn refusal(text: &str, pairs: u16) -> String {
    match open(text, pairs) {
        Ok(_) => panic!("{text} opens"),
        Err(error) => error.to_string(),
    }
}

fn readable(link: &dyn Link, timeout_ms: u16) -> bool {
    let mut fds = [PollFd::new(link.ready_fd(), PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, timeout_ms).unwrap() == 1
}

/// What arrives in a buffer at `addr`, if anything does.
fn receive(link: &mut dyn Link, memory: &GuestMemory, len: u32) -> Option<Vec<u8>> {
    let into = frames::spans(memory, &[(0x1000, 7), (0x3001, len - 7)]);
    match link.receive(&into, &mut []).unwrap() {
        Received::Empty => None,
        Received::Frame(bytes) => {
            let mut frame = vec![0; bytes];
            let first = bytes.min(7);
            memory.read(0x1000, &mut frame[..first]).unwrap();
            memory.read(0x3001, &mut frame[first..]).unwrap();
            Some(frame)
        }
    }
}

#[test]
fn frames_go_both_ways_through_a_tap_interface() {
    namespace::run("frames_go_both_ways_through_a_tap_interface", || {
        make_interface("");
        let mut link = open_one("tap:t0");
        let memory = frames::ram();
        let socket = UdpSocket::bind("10.9.0.1:5000").unwrap();
        assert!(!readable(link.as_ref(), 0));
        let frame = frames::udp4((GUEST_MAC, GUEST), (HOST_MAC, HOST), b"from the guest");
        memory.write(0x8000, &frame[20..]).unwrap();
        let head = [&PLAIN, &frame[..20]].concat();
        let rest = u32::try_from(frame.len() - 20).unwrap();
        let rest = frames::spans(&memory, &[(0x8000, 5), (0x8005, rest - 5)]);
        assert_eq!(link.send(&head, &rest).unwrap(), Sent::Sent);
        link.flush().unwrap();
        let mut text = [0; 64];
        let (bytes, from) = socket.recv_from(&mut text).unwrap();
        assert_eq!(
            (&text[..bytes], from.to_string().as_str()),
            (&b"from the guest"[..], "10.9.0.2:4000")
        );

        socket.send_to(b"from the host", "10.9.0.2:4000").unwrap();
        assert!(readable(link.as_ref(), 1000));
        let got = receive(link.as_mut(), &memory, 2048).unwrap();
        assert_eq!(got[..6], [0; 6], "no offload was asked for: {got:?}");
        assert_eq!(&got[HEADER_BYTES..][..6], GUEST_MAC);
        assert!(got.ends_with(b"from the host"));
        assert_eq!(receive(link.as_mut(), &memory, 2048), None);
        assert!(!readable(link.as_ref(), 0));
    });
}

#[test]
fn headers_pass_through_as_offloads_allow() {
    namespace::run("headers_pass_through_as_offloads_allow", || {
        make_interface("");
        let mut link = open_one("tap:t0");
        assert_eq!(link.capabilities().receive_offloads, Offloads::ALL);
        let memory = frames::ram();
        let socket = UdpSocket::bind("10.9.0.1:5000").unwrap();
        socket.send_to(b"whole", "10.9.0.2:4000").unwrap();
        let whole = receive(link.as_mut(), &memory, 2048).unwrap();
        assert_eq!(whole[0], 0);
        link.set_offloads(Offloads::ALL).unwrap();
        socket.send_to(b"partial", "10.9.0.2:4000").unwrap();
        let partial = receive(link.as_mut(), &memory, 2048).unwrap();
        assert_eq!(partial[0], 1, "NEEDS_CSUM");
        assert_eq!(
            u16::from_le_bytes([partial[6], partial[7]]),
            34,
            "csum_start"
        );
        assert_eq!(
            u16::from_le_bytes([partial[8], partial[9]]),
            6,
            "csum_offset"
        );
    });
}

#[test]
fn frames_that_do_not_fit_are_dropped_whole() {
    namespace::run("frames_that_do_not_fit_are_dropped_whole", || {
        make_interface("");
        let mut link = open_one("tap:t0");
        let memory = frames::ram();
        let socket = UdpSocket::bind("10.9.0.1:5000").unwrap();
        socket.send_to(&[1; 500], "10.9.0.2:4000").unwrap();
        socket.send_to(&[2; 100], "10.9.0.2:4000").unwrap();
        // 12 + 14 + 20 + 8 + 100: the second fits to the byte.
        let got = receive(link.as_mut(), &memory, 154).unwrap();
        assert_eq!((got.len(), got[153]), (154, 2));
        assert_eq!(receive(link.as_mut(), &memory, 154), None);
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
fn an_interface_that_is_removed_ends_the_link_and_nothing_else() {
    namespace::run(
        "an_interface_that_is_removed_ends_the_link_and_nothing_else",
        || {
            make_interface("multi_queue");
            let events = Arc::new(Events::default());
            let mut links = open("tap:t0", 2).unwrap();
            for link in &mut links {
                link.watch(Arc::clone(&events) as Arc<dyn Watch>);
            }
            let memory = frames::ram();
            ip("link del t0");
            let frame = frames::udp4((GUEST_MAC, GUEST), (HOST_MAC, HOST), b"into the void");
            let head = [&PLAIN, &frame[..]].concat();
            let none = frames::spans(&memory, &[]);
            assert!(readable(links[0].as_ref(), 1000), "the worker is woken");
            assert_eq!(receive(links[0].as_mut(), &memory, 2048), None);
            assert_eq!(links[1].send(&head, &none).unwrap(), Sent::Dropped);
            assert_eq!(events.lost.load(Ordering::Relaxed), 2);
            for link in &mut links {
                assert!(!readable(link.as_ref(), 0), "no worker spins on it");
                assert_eq!(link.send(&head, &none).unwrap(), Sent::Dropped);
                assert_eq!(receive(link.as_mut(), &memory, 2048), None);
                link.flush().unwrap();
                link.set_offloads(Offloads::ALL).unwrap();
                link.detach().unwrap();
                link.attach().unwrap();
            }
            assert_eq!(events.lost.load(Ordering::Relaxed), 2, "told once each");
        },
    );
}

#[test]
fn an_interface_that_is_down_loses_frames_and_comes_back() {
    namespace::run(
        "an_interface_that_is_down_loses_frames_and_comes_back",
        || {
            make_interface("");
            let mut link = open_one("tap:t0");
            let memory = frames::ram();
            let socket = UdpSocket::bind("0.0.0.0:5000").unwrap();
            let frame = frames::udp4((GUEST_MAC, GUEST), (HOST_MAC, HOST), b"again");
            let head = [&PLAIN, &frame[..]].concat();
            let none = frames::spans(&memory, &[]);
            ip("link set t0 down");
            assert_eq!(link.send(&head, &none).unwrap(), Sent::Dropped);
            ip("link set t0 up");
            assert_eq!(link.send(&head, &none).unwrap(), Sent::Sent);
            let mut text = [0; 64];
            let bytes = socket.recv(&mut text).unwrap();
            assert_eq!(&text[..bytes], b"again");
        },
    );
}

#[test]
fn frames_and_headers_that_the_kernel_refuses_are_dropped() {
    namespace::run(
        "frames_and_headers_that_the_kernel_refuses_are_dropped",
        || {
            make_interface("");
            let mut link = open_one("tap:t0");
            let memory = frames::ram();
            let none = frames::spans(&memory, &[]);
            for bytes in 0..HEADER_BYTES + 14 {
                let short = vec![0; bytes];
                assert_eq!(link.send(&short, &none).unwrap(), Sent::Dropped, "{bytes}");
            }
            let frame = frames::udp4((GUEST_MAC, GUEST), (HOST_MAC, HOST), b"x");
            for (flags, gso_type, gso_size, start) in [
                (0, 9, 10, 0u16),
                (0, 1, 0, 0),
                (1, 0, 0, 0xfff0),
                (0, 3, 0, 0),
            ] {
                let mut head = [&PLAIN, &frame[..]].concat();
                head[0] = flags;
                head[1] = gso_type;
                head[4] = gso_size;
                head[6..8].copy_from_slice(&start.to_le_bytes());
                let sent = link.send(&head, &none).unwrap();
                assert_eq!(sent, Sent::Dropped, "{flags} {gso_type} {start}");
            }
            let many: Vec<_> = (0..1024).map(|i| (0x1_0000 + i * 64, 8)).collect();
            let many = frames::spans(&memory, &many);
            assert_eq!(link.send(&PLAIN, &many).unwrap(), Sent::Dropped);
            let whole = [&PLAIN, &frame[..]].concat();
            assert_eq!(link.send(&whole, &none).unwrap(), Sent::Sent);
        },
    );
}

#[test]
fn queues_that_are_detached_get_nothing_until_they_are_attached() {
    namespace::run(
        "queues_that_are_detached_get_nothing_until_they_are_attached",
        || {
            make_interface("multi_queue");
            let mut links = open("tap:t0", 4).unwrap();
            namespace::wait_until_up("t0");
            let memory = frames::ram();
            for link in &mut links[1..] {
                link.detach().unwrap();
            }
            let flood = || {
                for _ in 0..64 {
                    let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
                    socket.send_to(b"flow", "10.9.0.2:4000").unwrap();
                }
            };
            flood();
            let mut got = [0; 4];
            let mut count = |links: &mut Vec<Box<dyn Link>>| {
                for (link, got) in links.iter_mut().zip(&mut got) {
                    while receive(link.as_mut(), &memory, 2048).is_some() {
                        *got += 1;
                    }
                }
                std::mem::take(&mut got)
            };
            assert_eq!(count(&mut links), [64, 0, 0, 0]);
            for link in &mut links[1..] {
                link.attach().unwrap();
            }
            flood();
            let spread = count(&mut links);
            assert_eq!(spread.iter().sum::<u32>(), 64);
            assert!(spread.iter().filter(|n| **n > 0).count() > 1, "{spread:?}");
        },
    );
}

#[test]
fn what_is_wrong_with_an_interface_is_told_with_the_mend() {
    namespace::run(
        "what_is_wrong_with_an_interface_is_told_with_the_mend",
        || {
            let says = |text: &str, pairs, words: &[&str]| {
                let message = refusal(text, pairs);
                for word in words {
                    assert!(message.contains(word), "{message}");
                }
            };
            says(
                "tap:t0",
                1,
                &[
                    "no interface t0",
                    "ip tuntap add dev t0 mode tap multi_queue",
                ],
            );
            assert!(!crate::tap::sys::interface_exists("t0"), "none is made");
            make_interface("");
            says(
                "tap:t0",
                2,
                &[
                    "one queue only",
                    "ip tuntap add dev t0 mode tap multi_queue",
                ],
            );
            says("tap:lo", 1, &["loopback", "Ethernet"]);
            ip("link add v8 type veth peer name v9");
            says("tap:v8", 1, &["no TAP interface", "packet:v8"]);
            says("tap:t0", 257, &["256 queue pairs at most"]);
            let first = open_one("tap:t0");
            says("tap:t0", 1, &["in use"]);
            drop(first);
            assert!(open("tap:t0", 1).is_ok());
            ip("tuntap add dev m0 mode tap multi_queue");
            assert!(open("tap:m0", 1).is_ok());
        },
    );
}

#[test]
fn descriptors_that_were_inherited_are_used_after_a_look_at_them() {
    namespace::run(
        "descriptors_that_were_inherited_are_used_after_a_look_at_them",
        || {
            make_interface("");
            let null = std::fs::File::open("/dev/null").unwrap();
            let message = refusal(&format!("fd:{}", null.as_raw_fd()), 1);
            assert!(message.contains("no TAP interface"), "{message}");
            assert!(refusal("fd:999", 1).contains("fd:999"));
            let file = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/net/tun")
                .unwrap();
            let flags = libc::IFF_TAP | libc::IFF_NO_PI;
            crate::tap::sys::attach_interface(&file, "t0", flags).unwrap();
            let message = refusal(&format!("fd:{}", file.as_fd().as_raw_fd()), 1);
            assert!(message.contains("IFF_VNET_HDR"), "{message}");
            drop(file);
            let file = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/net/tun")
                .unwrap();
            // A child of another test, on its way to `exec`, may hold the old descriptor for a moment.
            let flags = flags | libc::IFF_VNET_HDR;
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
            while let Err(error) = crate::tap::sys::attach_interface(&file, "t0", flags) {
                assert!(std::time::Instant::now() < deadline, "{error}");
            }
            let text = format!("fd:{}", file.as_fd().as_raw_fd());
            assert!(refusal(&text, 2).contains("1 queue pairs at most"));
            let mut link = open_one(&text);
            drop(file);
            let memory = frames::ram();
            let socket = UdpSocket::bind("10.9.0.1:5000").unwrap();
            socket.send_to(b"inherited", "10.9.0.2:4000").unwrap();
            let got = receive(link.as_mut(), &memory, 2048).unwrap();
            assert!(got.ends_with(b"inherited"));
        },
    );
}

#[test]
fn an_inherited_interface_gets_our_header_size() {
    namespace::run("an_inherited_interface_gets_our_header_size", || {
        make_interface("");
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .unwrap();
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        crate::tap::sys::attach_interface(&file, "t0", flags).unwrap();
        let memory = frames::ram();
        let socket = UdpSocket::bind("10.9.0.1:5000").unwrap();
        namespace::wait_until_up("t0");
        for theirs in [10, 20, 12] {
            crate::tap::sys::set_header(&file, theirs).unwrap();
            let mut link = open(&format!("fd:{}", file.as_raw_fd()), 1)
                .unwrap()
                .remove(0);
            socket.send_to(b"sized", "10.9.0.2:4000").unwrap();
            let got = receive(link.as_mut(), &memory, 2048).unwrap();
            assert_eq!(got.len(), HEADER_BYTES + 42 + 5, "{theirs}");
        }
    });
}
