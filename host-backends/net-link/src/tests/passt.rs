//! passt: the protocol against a peer of our own, and the program itself where it is installed.
//!
//! Rule: the peer cuts and joins its bytes in every way that a stream may.

use std::io::Read;
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use guest_memory::GuestMemory;
use nix::poll::PollFd;
use nix::poll::PollFlags;

use super::frames;
use super::frames::PLAIN;
use crate::HEADER_BYTES;
use crate::Link;
use crate::LinkSpec;
use crate::Received;
use crate::Sent;
use crate::Watch;

pub(super) fn open(text: &str) -> Box<dyn Link> {
    let spec: LinkSpec = text.parse().unwrap();
    crate::open(&spec, 1).unwrap().remove(0)
}

fn pair() -> (Box<dyn Link>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (open(&format!("fd:{}", ours.as_raw_fd())), theirs)
}

fn readable(link: &dyn Link, timeout_ms: u16) -> bool {
    let mut fds = [PollFd::new(link.ready_fd(), PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, timeout_ms).unwrap() == 1
}

pub(super) fn receive(link: &mut dyn Link, memory: &GuestMemory, len: u32) -> Option<Vec<u8>> {
    let into = frames::spans(memory, &[(0x1000, 17), (0x30001, len - 17)]);
    let Received::Frame(bytes) = link.receive(&into, &mut []).unwrap() else {
        return None;
    };
    let mut frame = vec![0; bytes];
    memory.read(0x1000, &mut frame[..17.min(bytes)]).unwrap();
    memory.read(0x30001, &mut frame[17..]).unwrap();
    assert_eq!(frame[..HEADER_BYTES], PLAIN);
    Some(frame.split_off(HEADER_BYTES))
}

/// A frame behind its length.
fn wire(frame: &[u8]) -> Vec<u8> {
    let length = u32::try_from(frame.len()).unwrap();
    [&length.to_be_bytes()[..], frame].concat()
}

/// Frames that differ in length and content.
fn some_frames() -> Vec<Vec<u8>> {
    [14, 60, 61, 1514, 65_535, 15, 9000, 65_535, 100, 42]
        .iter()
        .enumerate()
        .map(|(nth, len)| {
            (0..*len)
                .map(|i: usize| u8::try_from((i * 31 + nth) % 251).unwrap())
                .collect()
        })
        .collect()
}

#[derive(Default)]
pub(super) struct Events {
    lost: AtomicU32,
    restored: AtomicU32,
}

impl Watch for Events {
    fn lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn restored(&self) {
        self.restored.fetch_add(1, Ordering::Relaxed);
    }
}

impl Events {
    pub(super) fn seen(&self) -> (u32, u32) {
        (
            self.lost.load(Ordering::Relaxed),
            self.restored.load(Ordering::Relaxed),
        )
    }
}

pub(super) fn watched(link: &mut dyn Link) -> Arc<Events> {
    let events = Arc::new(Events::default());
    link.watch(Arc::clone(&events) as Arc<dyn Watch>);
    events
}

#[test]
fn frames_are_found_however_the_stream_is_cut() {
    let memory = frames::ram();
    let all = some_frames();
    let bytes: Vec<u8> = all.iter().flat_map(|frame| wire(frame)).collect();
    for piece in [3, 5, 1000, 65_536, bytes.len()] {
        let (mut link, mut peer) = pair();
        let mut got = Vec::new();
        std::thread::scope(|scope| {
            let bytes = &bytes;
            scope.spawn(move || {
                for part in bytes.chunks(piece) {
                    peer.write_all(part).unwrap();
                }
                // Open until all is read.
                let _ = peer.read(&mut [0]);
            });
            while got.len() < all.len() {
                assert!(
                    readable(link.as_ref(), 5000),
                    "{piece}: {} frames",
                    got.len()
                );
                while let Some(frame) = receive(link.as_mut(), &memory, 70_000) {
                    got.push(frame);
                }
            }
            drop(link);
        });
        assert_eq!(got, all, "{piece}");
    }
}

#[test]
fn frames_that_were_read_ahead_keep_the_link_ready() {
    let memory = frames::ram();
    let (mut link, mut peer) = pair();
    let bytes: Vec<u8> = (0..3).flat_map(|n| wire(&[n; 60])).collect();
    peer.write_all(&bytes).unwrap();
    for n in 0..3 {
        assert!(readable(link.as_ref(), 0), "frame {n} waits");
        assert_eq!(receive(link.as_mut(), &memory, 2048), Some(vec![n; 60]));
    }
    assert_eq!(receive(link.as_mut(), &memory, 2048), None);
    assert!(!readable(link.as_ref(), 0));
}

#[test]
fn a_frame_that_does_not_fit_is_dropped_and_the_next_is_not() {
    let memory = frames::ram();
    let (mut link, mut peer) = pair();
    peer.write_all(&[wire(&[1; 500]), wire(&[2; 88])].concat())
        .unwrap();
    assert_eq!(receive(link.as_mut(), &memory, 100), Some(vec![2; 88]));
}

#[test]
fn frames_arrive_whole_at_a_peer_that_reads_slowly() {
    let memory = frames::ram();
    let (mut link, mut peer) = pair();
    let all: Vec<_> = (0..150).flat_map(|_| some_frames()).collect();
    let wants: Vec<u8> = all.iter().flat_map(|frame| wire(frame)).collect();
    let reader = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        let mut bytes = Vec::new();
        let mut part = vec![0; 7001];
        while let Ok(got @ 1..) = peer.read(&mut part) {
            bytes.extend_from_slice(&part[..got]);
        }
        bytes
    });
    let mut waits = 0;
    for (nth, frame) in all.iter().enumerate() {
        let own = [0, 5, 14, frame.len()][nth % 4].min(frame.len());
        let head = [&PLAIN, &frame[..own]].concat();
        memory.write(0x5000, &frame[own..]).unwrap();
        let rest = u32::try_from(frame.len() - own).unwrap();
        let rest = frames::spans(
            &memory,
            &[
                (0x5000, rest / 2),
                (0x5000 + u64::from(rest / 2), rest - rest / 2),
            ],
        );
        while link.send(&head, &rest).unwrap() == Sent::Full {
            waits += 1;
            assert!(readable(link.as_ref(), 5000), "room is told");
            link.flush().unwrap();
        }
        // What was sent does not change any more.
        link.flush().unwrap();
        memory
            .write(0x5000, &vec![0xee; frame.len() - own])
            .unwrap();
    }
    while readable(link.as_ref(), 0) {
        link.flush().unwrap();
    }
    link.flush().unwrap();
    drop(link);
    assert!(waits > 0, "the peer was never too slow");
    assert_eq!(reader.join().unwrap(), wants);
}

#[test]
fn many_frames_go_in_one_call() {
    let memory = frames::ram();
    let (mut link, mut peer) = pair();
    let none = frames::spans(&memory, &[]);
    for n in 0..100u8 {
        let head = [&PLAIN[..], &[n; 60]].concat();
        assert_eq!(link.send(&head, &none).unwrap(), Sent::Sent);
    }
    peer.set_nonblocking(true).unwrap();
    assert!(peer.read(&mut [0; 8]).is_err(), "nothing before the flush");
    link.flush().unwrap();
    let mut bytes = vec![0; 100_000];
    assert_eq!(peer.read(&mut bytes).unwrap(), 6400);
}

#[test]
fn frames_of_impossible_length_are_not_sent() {
    let memory = frames::ram();
    let (mut link, mut peer) = pair();
    let send = |link: &mut dyn Link, head: &[u8], rest: u32| {
        let rest = frames::spans(&memory, &[(0x5000, rest)]);
        link.send(head, &rest).unwrap()
    };
    assert_eq!(send(link.as_mut(), &PLAIN, 13), Sent::Dropped);
    assert_eq!(send(link.as_mut(), &PLAIN, 65_536), Sent::Dropped);
    assert_eq!(send(link.as_mut(), &PLAIN[..11], 60), Sent::Dropped);
    assert_eq!(send(link.as_mut(), &PLAIN, 14), Sent::Sent);
    link.flush().unwrap();
    let mut bytes = [0; 64];
    assert_eq!(peer.read(&mut bytes).unwrap(), 18);
}

#[test]
fn a_length_that_makes_no_sense_ends_the_connection() {
    let memory = frames::ram();
    for length in [0u32, 13, 70_000, u32::MAX] {
        let (mut link, mut peer) = pair();
        let events = watched(link.as_mut());
        peer.write_all(&wire(&[7; 60])).unwrap();
        peer.write_all(&length.to_be_bytes()).unwrap();
        assert_eq!(receive(link.as_mut(), &memory, 2048), Some(vec![7; 60]));
        assert_eq!(receive(link.as_mut(), &memory, 2048), None);
        assert_eq!(events.seen(), (1, 0));
        assert!(!readable(link.as_ref(), 0), "nobody spins on it");
        let none = frames::spans(&memory, &[]);
        let head = [&PLAIN[..], &[1; 60]].concat();
        assert_eq!(link.send(&head, &none).unwrap(), Sent::Dropped);
        assert_eq!(peer.read(&mut [0; 8]).unwrap_or(0), 0, "cut off");
    }
}

/// Waits for the link to tell that it is back, looking at it whenever it is ready, as a worker does.
pub(super) fn wait_until(
    link: &mut dyn Link,
    memory: &GuestMemory,
    what: &str,
    done: impl Fn() -> bool,
) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        if readable(link, 100) {
            let _ = receive(link, memory, 2048);
        }
    }
}

#[test]
fn a_passt_of_somebody_else_is_found_again() {
    let memory = frames::ram();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut link = open(&format!("passt:socket={}", path.display()));
    let events = watched(link.as_mut());
    let (peer, _) = listener.accept().unwrap();
    // Half a frame is waiting in both directions when it ends.
    (&peer).write_all(&wire(&[7; 60])[..30]).unwrap();
    assert_eq!(receive(link.as_mut(), &memory, 2048), None);
    drop(peer);
    drop(listener);
    std::fs::remove_file(&path).unwrap();
    wait_until(link.as_mut(), &memory, "lost", || events.seen() == (1, 0));
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(receive(link.as_mut(), &memory, 2048), None);
    let listener = UnixListener::bind(&path).unwrap();
    wait_until(link.as_mut(), &memory, "restored", || {
        events.seen() == (1, 1)
    });
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(&wire(&[9; 60])).unwrap();
    assert!(readable(link.as_ref(), 5000));
    assert_eq!(receive(link.as_mut(), &memory, 2048), Some(vec![9; 60]));
}

#[test]
fn what_is_wrong_with_passt_is_told_with_the_mend() {
    let refusal = |text: &str, pairs| {
        let spec: LinkSpec = text.parse().unwrap();
        crate::open(&spec, pairs)
            .err()
            .expect("no link")
            .to_string()
    };
    assert!(refusal("passt:binary=/nowhere/passt", 1).contains("install passt"));
    assert!(refusal("passt:socket=/nowhere/socket", 1).contains("/nowhere/socket"));
    assert!(refusal("passt:socket=/nowhere/socket", 2).contains("1 queue pairs at most"));
    let message = refusal("passt:binary=/bin/false,mtu=1500", 1);
    assert!(
        message.contains("--mtu 1500") && message.contains("ended with 1"),
        "{message}"
    );
}

pub(super) fn has_passt(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join("passt").is_file());
    if !found {
        println!("SKIPS ITSELF {name}: no passt, install the package");
    }
    found
}

const GUEST: ([u8; 6], [u8; 4]) = ([0x52, 0x54, 0, 1, 2, 3], [10, 0, 2, 15]);
const GATEWAY: ([u8; 6], [u8; 4]) = ([0xff; 6], [10, 0, 2, 2]);

/// A child's link in a namespace with a default route, which is what passt looks for.
pub(super) fn with_passt(name: &'static str, test: impl FnOnce(Box<dyn Link>) + Send + 'static) {
    if !has_passt(name) {
        return;
    }
    super::namespace::run(name, || {
        super::namespace::ip("link add d0 type bridge");
        super::namespace::ip("addr add 192.0.2.2/24 dev d0");
        super::namespace::ip("link set d0 up");
        super::namespace::ip("route add default via 192.0.2.1");
        test(open(
            "passt:address=10.0.2.15,netmask=24,gateway=10.0.2.2,ipv4-only,udp-ports=5901",
        ));
    });
}

pub(super) fn arp_answer(link: &mut dyn Link, memory: &GuestMemory) -> Option<Vec<u8>> {
    let mut arp = [
        &PLAIN[..],
        &[0xff; 6],
        &GUEST.0,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
    ]
    .concat();
    arp.extend([&GUEST.0[..], &GUEST.1, &[0; 6], &GATEWAY.1].concat());
    let none = frames::spans(memory, &[]);
    if link.send(&arp, &none).unwrap() != Sent::Sent {
        return None;
    }
    link.flush().unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        if readable(link, 1000)
            && let Some(frame) = receive(link, memory, 2048)
            && frame[12..14] == [8, 6]
        {
            return Some(frame);
        }
    }
    None
}

#[test]
fn a_guest_reaches_its_host_through_passt() {
    with_passt("a_guest_reaches_its_host_through_passt", |mut link| {
        let memory = frames::ram();
        let answer = arp_answer(link.as_mut(), &memory).expect("an answer to ARP");
        assert_eq!(answer[20..22], [0, 2]);
        let socket = UdpSocket::bind("127.0.0.1:5000").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        // With a checksum that is only begun: passt does not look.
        let mut frame = frames::udp4(GUEST, GATEWAY, b"out");
        frame[40..42].copy_from_slice(&[0x12, 0x34]);
        let head = [&PLAIN[..], &frame].concat();
        link.send(&head, &frames::spans(&memory, &[])).unwrap();
        link.flush().unwrap();
        let mut text = [0; 16];
        let (bytes, from) = socket.recv_from(&mut text).unwrap();
        assert_eq!(&text[..bytes], b"out");
        socket.send_to(b"back", from).unwrap();
        socket.send_to(b"forwarded", "127.0.0.1:5901").unwrap();
        let mut got = Vec::new();
        let end = Instant::now() + Duration::from_secs(5);
        while got.len() < 2 && Instant::now() < end {
            if readable(link.as_ref(), 1000)
                && let Some(frame) = receive(link.as_mut(), &memory, 2048)
                && frame[12..14] == [8, 0]
            {
                got.push(String::from_utf8_lossy(&frame[42..]).into_owned());
            }
        }
        got.sort();
        assert_eq!(got, ["back", "forwarded"]);
    });
}
