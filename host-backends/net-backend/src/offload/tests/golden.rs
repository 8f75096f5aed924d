//! The kernel as the oracle: two TAP interfaces in a bridge. A large frame goes in at one with its header, and comes
//! out of the other, which has no offloads, cut and summed by the kernel.
//!
//! Rule: byte for byte, whatever a field means.

use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use guest_memory::GuestMemory;
use guest_memory::IoVecs;
use guest_memory::RegionSpec;
use net_link::Link;
use net_link::LinkSpec;
use net_link::Received;
use net_link::Sent;
use nix::sched::CloneFlags;
use virtio_spec::net::Header;
use virtio_spec::net::gso;
use virtqueue::Segment;
use zerocopy::IntoBytes;

use super::Plan;
use super::cut;
use crate::offload::complete;

struct Kernel {
    memory: GuestMemory,
    buffer: IoVecs,
    nothing: IoVecs,
    enter: Box<dyn Link>,
    leave: Box<dyn Link>,
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split_whitespace()).status();
    assert!(status.expect("ip(8)").success(), "ip {words}");
}

impl Kernel {
    /// Both interfaces, in a network namespace of this thread.
    fn new() -> Self {
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        ip("link add br0 type bridge");
        ip("link set br0 up");
        let mut links = ["a0", "b0"].map(|name| {
            ip(&format!("tuntap add dev {name} mode tap"));
            ip(&format!("link set {name} mtu 9000 master br0 up"));
            let spec: LinkSpec = format!("tap:{name}").parse().unwrap();
            Some(net_link::open(&spec, 1).unwrap().remove(0))
        });
        let fd = host_os::memfd::create("guest", 1 << 20).unwrap();
        let region = RegionSpec {
            guest_addr: 0,
            user_addr: 0,
            size: 1 << 20,
            mmap_offset: 0,
        };
        let memory = GuestMemory::new(vec![(region, fd)]).unwrap();
        let mut buffer = IoVecs::new();
        let whole = Segment {
            addr: 0,
            len: 1 << 17,
        };
        memory.iovecs(&[whole], &mut buffer).unwrap();
        let mut kernel = Self {
            memory,
            buffer,
            nothing: IoVecs::new(),
            enter: links[0].take().unwrap(),
            leave: links[1].take().unwrap(),
        };
        kernel.wait_until_it_forwards();
        kernel
    }

    fn wait_until_it_forwards(&mut self) {
        let probe = [&[0u8; 12][..], &[0xff; 12], &[0x12; 60]].concat();
        let end = Instant::now() + Duration::from_secs(20);
        while self.take().is_none() {
            assert!(Instant::now() < end, "the bridge does not forward");
            let _ = self.enter.send(&probe, &self.nothing);
            std::thread::sleep(Duration::from_millis(10));
        }
        while self.take().is_some() {}
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let Received::Frame(bytes) = self.leave.receive(&self.buffer, &mut []).unwrap() else {
            return None;
        };
        let mut frame = vec![0; bytes];
        self.memory.read(0, &mut frame).unwrap();
        assert_eq!(frame[..10], [0; 10], "nothing is left to us");
        Some(frame.split_off(12))
    }

    /// What the kernel makes of the frame.
    fn make(&mut self, header: &Header, frame: &[u8]) -> Vec<Vec<u8>> {
        let whole = [header.as_bytes(), frame].concat();
        let sent = self.enter.send(&whole, &self.nothing).unwrap();
        assert_eq!(sent, Sent::Sent, "{header:?}");
        std::iter::from_fn(|| self.take()).collect()
    }
}

fn with_kernel(name: &'static str, test: impl FnOnce(Kernel) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(errno) = nix::sched::unshare(CloneFlags::CLONE_NEWNET) {
            println!("SKIPS ITSELF {name}: no network namespace ({errno}), needs root");
        } else if !std::path::Path::new("/dev/net/tun").exists() {
            println!("SKIPS ITSELF {name}: no /dev/net/tun");
        } else {
            test(Kernel::new());
        }
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn compare(kernel: &mut Kernel, plan: &Plan) {
    let frame = plan.frame();
    let theirs = kernel.make(&plan.header(), &frame);
    let ours = cut(&plan.header(), &frame, 256, false).unwrap();
    assert_eq!(theirs.len(), ours.len(), "{plan:?}");
    for (nth, (theirs, (_, ours))) in theirs.iter().zip(&ours).enumerate() {
        assert_eq!(theirs, ours, "segment {nth} of {plan:?}");
    }
}

/// Numbers that are the same in every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % limit
    }

    fn size(&mut self, limit: u64) -> usize {
        usize::try_from(self.below(limit)).unwrap()
    }
}

fn plan(numbers: &mut Numbers) -> Plan {
    let (v6, tcp) = (numbers.below(2) == 1, numbers.below(2) == 1);
    let size = 200 + numbers.below(2000);
    // Linux takes 128 datagrams at most, and only what is larger than a segment.
    let payload =
        usize::try_from(size + 1 + numbers.below(if tcp { 50_000 } else { size * 20 })).unwrap();
    Plan {
        v6,
        tcp,
        tags: numbers.size(2),
        options: if tcp { numbers.size(11) * 4 } else { 0 },
        extensions: if v6 { numbers.size(4) * 8 } else { 0 },
        // Without SYN and RST, which no large frame has; CWR comes with the ECN bit.
        flags: u8::try_from(numbers.below(256)).unwrap() & !0x06 | 0x10,
        sequence: u32::try_from(numbers.below(1 << 32)).unwrap(),
        id: u16::try_from(numbers.below(1 << 16)).unwrap(),
        size: u16::try_from(size).unwrap(),
        payload: payload.min(60_000),
    }
}

#[test]
fn segments_are_those_that_the_kernel_makes() {
    with_kernel("segments_are_those_that_the_kernel_makes", |mut kernel| {
        for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
            let plan = Plan {
                v6,
                tcp,
                options: if tcp { 12 } else { 0 },
                ..Plan::tcp4()
            };
            compare(&mut kernel, &plan);
        }
        let mut numbers = Numbers(7);
        for _ in 0..400 {
            compare(&mut kernel, &plan(&mut numbers));
        }
    });
}

#[test]
fn checksums_are_those_that_the_kernel_computes() {
    with_kernel(
        "checksums_are_those_that_the_kernel_computes",
        |mut kernel| {
            let mut numbers = Numbers(11);
            for _ in 0..400 {
                let mut plan = plan(&mut numbers);
                plan.payload %= 1500;
                let mut header = Header {
                    gso_type: gso::NONE,
                    gso_size: 0.into(),
                    ..plan.header()
                };
                let mut frame = plan.frame();
                let theirs = kernel.make(&header, &frame);
                complete(&mut header, &mut frame, [].as_slice()).unwrap();
                assert_eq!(theirs, [frame], "{plan:?}");
            }
        },
    );
}
