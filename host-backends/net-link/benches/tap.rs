//! What a frame costs through a TAP interface: the link, plain system calls, and io_uring batches, and through a packet
//! socket on a veth pair, in one run, as CPU time of the thread that does it. Needs root: it makes a network namespace of its own.
//!
//! Frames are sent to an address that nobody has, so that the kernel drops them behind the interface; frames to be
//! received wait in the interface's queue before the clock runs.
#![expect(clippy::print_stdout, reason = "a benchmark says what it measured")]
#![expect(
    clippy::expect_used,
    reason = "a benchmark ends at the first thing that is wrong"
)]
#![expect(
    unsafe_code,
    reason = "the system calls that the link is compared with"
)]

use std::fs::File;
use std::net::Ipv4Addr;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use guest_memory::GuestMemory;
use guest_memory::IoVecs;
use guest_memory::RegionSpec;
use io_uring::IoUring;
use io_uring::opcode;
use io_uring::types::Fd;
use net_link::HEADER_BYTES;
use net_link::Link;
use net_link::LinkSpec;
use net_link::Offloads;
use net_link::Received;
use net_link::Sent;
use nix::sched::CloneFlags;
use nix::time::ClockId;
use nix::time::clock_gettime;
use virtqueue::Segment;

const BATCH: usize = 64;
/// Frames that wait in the queue of an interface (its default is 1000).
const WAITING: usize = 512;
const ROUNDS: usize = 60;

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split_whitespace()).status();
    assert!(status.expect("ip(8)").success(), "ip {words}");
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("a clock")
        .into()
}

struct World {
    memory: GuestMemory,
    link: Box<dyn Link>,
    plain: File,
    packet: Box<dyn Link>,
    socket: UdpSocket,
}

/// The other interface, for the plain calls.
fn plain(name: &str) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .expect("/dev/net/tun");
    // SAFETY: a struct of plain integers and arrays, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).expect("flags");
    // SAFETY: the ioctl reads one ifreq, which lives across the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
    assert_eq!(done, 0, "TUNSETIFF");
    let bytes: libc::c_int = 12;
    // SAFETY: the ioctl reads one int, which lives across the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) };
    assert_eq!(done, 0, "TUNSETVNETHDRSZ");
    let nonblocking = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
    nix::fcntl::fcntl(&file, nonblocking).expect("fcntl");
    file
}

impl World {
    fn new() -> Self {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).expect("root");
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("sysctl");
        for (net, name) in [(0, "a0"), (1, "c0")] {
            ip(&format!("tuntap add dev {name} mode tap"));
            ip(&format!("link set {name} up"));
            ip(&format!("addr add 10.9.{net}.1/24 dev {name}"));
            ip(&format!(
                "neigh add 10.9.{net}.2 lladdr 02:00:00:00:00:02 dev {name}"
            ));
        }
        let open = |text: &str| {
            let spec: LinkSpec = text.parse().expect("a link");
            net_link::open(&spec, 1).expect("a link").remove(0)
        };
        let (link, plain) = (open("tap:a0"), plain("c0"));
        let fd = host_os::memfd::create("guest", 16 << 20).expect("memory");
        let region = RegionSpec {
            guest_addr: 0,
            user_addr: 0,
            size: 16 << 20,
            mmap_offset: 0,
        };
        let memory = GuestMemory::new(vec![(region, fd)]).expect("memory");
        ip("link add p0 type veth peer name p1");
        ip("link set p0 up");
        ip("link set p1 up");
        ip("addr add 10.9.2.1/24 dev p0");
        ip("neigh add 10.9.2.2 lladdr 02:00:00:00:00:02 dev p0");
        let mut packet = open("packet:p1");
        packet.set_offloads(Offloads::ALL).expect("offloads");
        let world = Self {
            memory,
            link,
            plain,
            packet,
            socket: UdpSocket::bind("0.0.0.0:0").expect("a socket"),
        };
        // The interfaces carry frames a moment after they were opened.
        std::thread::sleep(Duration::from_millis(1500));
        world
    }

    /// Lets frames wait in the queue of the interface with this network.
    fn fill(&self, net: u8, bytes: usize) {
        let data = vec![0; bytes - 42];
        for _ in 0..WAITING {
            let sent = self
                .socket
                .send_to(&data, (Ipv4Addr::new(10, 9, net, 2), 4000));
            assert!(sent.is_ok(), "sent");
        }
    }

    fn spans(&self, addr: u64, len: usize) -> IoVecs {
        let mut list = IoVecs::new();
        let len = u32::try_from(len).expect("a length");
        self.memory
            .iovecs(&[Segment { addr, len }], &mut list)
            .expect("memory");
        list
    }
}

/// A frame for nobody, as IPv4 with TCP so that it may be large.
fn head(bytes: usize, large: bool) -> Vec<u8> {
    let mut head = vec![0; HEADER_BYTES];
    if large {
        head[0] = 1;
        head[1] = 1;
        head[2..4].copy_from_slice(&54u16.to_le_bytes());
        head[4..6].copy_from_slice(&1448u16.to_le_bytes());
        head[6..8].copy_from_slice(&34u16.to_le_bytes());
        head[8..10].copy_from_slice(&16u16.to_le_bytes());
    }
    head.extend([2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0]);
    head.extend(u16::try_from(bytes - 14).expect("a length").to_be_bytes());
    head.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    head.extend([0; 12]);
    head.extend([0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    head
}

fn entry(base: *const u8, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: base.cast_mut().cast(),
        iov_len: len,
    }
}

/// Nanoseconds of CPU time per frame of `send`, which sends [`BATCH`] frames.
fn measure(mut send: impl FnMut()) -> f64 {
    for _ in 0..20 {
        send();
    }
    let start = cpu_time();
    let rounds = 300;
    for _ in 0..rounds {
        send();
    }
    let spent = u32::try_from((cpu_time() - start).as_nanos() / 1000).expect("short");
    f64::from(spent) * 1000.0 / (f64::from(rounds) * BATCH as f64)
}

fn sending(world: &mut World, bytes: usize, large: bool) {
    let head = head(bytes, large);
    let rest = world.spans(0, HEADER_BYTES + bytes - head.len());
    let link = {
        let link = &mut world.link;
        measure(|| {
            for _ in 0..BATCH {
                assert_eq!(link.send(&head, &rest).expect("sent"), Sent::Sent);
            }
            link.flush().expect("flushed");
        })
    };
    let fd = world.plain.as_raw_fd();
    let mut list = vec![entry(head.as_ptr(), head.len())];
    list.extend_from_slice(rest.as_slice());
    let count = libc::c_int::try_from(list.len()).expect("a count");
    let plain = measure(|| {
        for _ in 0..BATCH {
            // SAFETY: the spans are memory of this benchmark.
            let put = unsafe { libc::writev(fd, list.as_ptr(), count) };
            assert!(put > 0, "writev");
        }
    });
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(BATCH as u32)
        .expect("io_uring");
    let op = opcode::Writev::new(Fd(fd), list.as_ptr(), list.len() as u32).build();
    let uring = measure(|| {
        for _ in 0..BATCH {
            // SAFETY: the spans are memory of this benchmark, which waits for the end below.
            unsafe { ring.submission().push(&op) }.expect("room");
        }
        ring.submit_and_wait(BATCH).expect("submitted");
        assert!(ring.completion().all(|entry| entry.result() > 0), "write");
    });
    let packet = {
        let link = &mut world.packet;
        measure(|| {
            for _ in 0..BATCH {
                let _ = link.send(&head, &rest).expect("sent");
            }
            link.flush().expect("flushed");
        })
    };
    println!("send    {bytes:6}  {plain:7.0}  {link:7.0}  {uring:7.0}  {packet:7.0}");
}

fn receiving(world: &mut World, bytes: usize) {
    let into = world.spans(1 << 20, 70_000);
    let mut spent = [Duration::ZERO; 3];
    let mut frames = [0u32; 3];
    let fd = world.plain.as_raw_fd();
    for _ in 0..ROUNDS {
        world.fill(0, bytes);
        let start = cpu_time();
        while let Received::Frame(_) = world.link.receive(&into, &mut []).expect("received") {
            frames[1] += 1;
        }
        spent[1] += cpu_time() - start;
        world.fill(1, bytes);
        let start = cpu_time();
        // SAFETY: the spans are memory of this benchmark.
        while unsafe { libc::readv(fd, into.as_slice().as_ptr(), 1) } > 0 {
            frames[0] += 1;
        }
        spent[0] += cpu_time() - start;
        world.fill(2, bytes);
        let start = cpu_time();
        while let Received::Frame(_) = world.packet.receive(&into, &mut []).expect("received") {
            frames[2] += 1;
        }
        spent[2] += cpu_time() - start;
    }
    let per = |nth: usize| spent[nth].as_secs_f64() * 1e9 / f64::from(frames[nth].max(1));
    println!(
        "receive {bytes:6}  {:7.0}  {:7.0}           {:7.0}   ({frames:?} frames)",
        per(0),
        per(1),
        per(2)
    );
}

fn main() {
    let mut world = World::new();
    println!("CPU nanoseconds per frame");
    println!("way      bytes    plain     link io_uring   packet");
    for _ in 0..2 {
        for (bytes, large) in [(64, false), (1514, false), (65_226, true)] {
            sending(&mut world, bytes, large);
        }
        for bytes in [64, 1514] {
            receiving(&mut world, bytes);
        }
    }
}
