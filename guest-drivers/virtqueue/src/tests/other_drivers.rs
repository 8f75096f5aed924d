//! Our device half against the driver half of the `virtio-driver` crate, split and packed.
//!
//! One rule: the two share nothing but ring memory.

use core::ptr::NonNull;
use std::boxed::Box;
use std::collections::VecDeque;
use std::env;
use std::format;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::process;
use std::thread;
use std::vec;

use virtio_driver::IovaTranslator;
use virtio_driver::VhostUser;
use virtio_driver::VirtioBlkConfig;
use virtio_driver::VirtioFeatureFlags;
use virtio_driver::VirtioTransport;
use virtio_driver::iovec;
use virtio_driver::virtqueue::Virtqueue;

use super::Arena;
use super::config;
use crate::ChainBatch;
use crate::DeviceQueue;
use crate::Format;
use crate::QueueConfig;
use crate::QueueState;
use crate::RingMemory;
use crate::Rings;
use crate::Segment;

/// The crate makes address translators only for a transport, so connect one to a backend that
/// agrees to everything. The translation of vhost-user is the identity.
fn translator(name: &str) -> Box<dyn IovaTranslator> {
    let path = env::temp_dir().join(format!("paravane-{}-{name}", process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let backend = thread::spawn(move || agree(listener.accept().unwrap().0));
    let transport = VhostUser::<VirtioBlkConfig, u64>::new(path.to_str().unwrap(), 0).unwrap();
    let translator = transport.iova_translator();
    drop(transport);
    backend.join().unwrap();
    fs::remove_file(path).unwrap();
    translator
}

fn agree(mut socket: UnixStream) {
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let mut header = [0; 12];
    while socket.read_exact(&mut header).is_ok() {
        let (request, flags, size) = (word(&header, 0), word(&header, 4), word(&header, 8));
        let mut payload = vec![0; size as usize];
        socket.read_exact(&mut payload).unwrap();
        let answer: u64 = match request {
            1 => 1 << 30,
            15 => 1 << 3 | 1 << 9 | 1 << 15,
            36 => 8,
            _ if flags & 8 != 0 => 0,
            _ => continue,
        };
        let head = [request, 1 | 4, 8].map(u32::to_le_bytes).concat();
        socket
            .write_all(&[&head[..], &answer.to_le_bytes()].concat())
            .unwrap();
    }
}

fn span(ptr: *const u8, len: usize) -> RingMemory {
    let ptr = NonNull::new(ptr.cast_mut()).unwrap();
    #[expect(unsafe_code, reason = "makes the other crate's rings a span")]
    // SAFETY: the memory outlives the queue, see `run`; the other half accesses it in turns.
    unsafe {
        RingMemory::new(ptr, len)
    }
}

fn run(name: &str, config: QueueConfig, rounds: u32) {
    let mut features = VirtioFeatureFlags::VERSION_1;
    features.set(VirtioFeatureFlags::RING_EVENT_IDX, config.event_idx);
    features.set(
        VirtioFeatureFlags::RING_PACKED,
        config.format == Format::Packed,
    );
    let mut owner = vec![0_u128; 4096].into_boxed_slice();
    let ptr = owner.as_mut_ptr().cast::<u8>();
    #[expect(unsafe_code, reason = "the other crate wants bytes")]
    // SAFETY: the allocation is owned here until the end, and initialised.
    let buffer = unsafe { core::slice::from_raw_parts_mut(ptr, 4096 * 16) };
    let mut driver =
        Virtqueue::<u64>::new(translator(name), buffer, config.size, features).unwrap();
    let layout = config.layout();
    let rings = Rings {
        descriptors: span(driver.desc_table_ptr(), layout.descriptors.size),
        driver: span(driver.driver_area_ptr(), layout.driver.size),
        device: span(driver.device_area_ptr(), layout.device.size),
    };
    let state = QueueState::fresh(config.format);
    let mut device = DeviceQueue::new(config, rings, state).unwrap();
    let memory = Arena::new(&config);
    let mut batch = ChainBatch::default();
    driver.set_used_notif_enabled(true);
    for round in 0..rounds {
        let count = 1 + round % (u32::from(config.size) / 2);
        let armed = round % 3 == 0;
        if armed {
            assert!(!device.arm());
        } else {
            device.disarm();
        }
        let mut ids = VecDeque::new();
        for at in 0..count {
            ids.push_back(add(&mut driver, round + at));
        }
        let notify = driver.avail_notif_needed();
        assert!(notify || !armed, "the device sleeps and is not told");
        batch.clear();
        assert_eq!(
            device.take(&memory, &mut batch, usize::MAX),
            Ok(count as usize)
        );
        for at in 0..count {
            let chain = batch.get(at as usize).unwrap();
            let part = |addr| Segment {
                addr,
                len: 1 + (round + at) % 9,
            };
            assert_eq!(chain.readable, [part(0x1000)]);
            assert_eq!(chain.writable, [part(0x2000)]);
        }
        let turn = round % count;
        ids.rotate_left(turn as usize);
        for at in 0..count {
            let at = (at + turn) % count;
            let chain = batch.get(at as usize).unwrap();
            device.complete(chain.token, 1 + (round + at) % 9).unwrap();
        }
        assert!(device.publish(), "the driver waits");
        assert_eq!(device.in_flight(), 0);
        for id in ids {
            assert_eq!(driver.completions().next().map(|used| used.id), Some(id));
        }
        assert!(driver.completions().next().is_none());
    }
}

fn add(driver: &mut Virtqueue<'_, u64>, serial: u32) -> u16 {
    let part = |addr: usize| iovec {
        iov_base: core::ptr::without_provenance_mut(addr),
        iov_len: 1 + serial as usize % 9,
    };
    driver
        .add_request(|_, add| {
            add(part(0x1000), false)?;
            add(part(0x2000), true)
        })
        .unwrap()
}

#[test]
fn the_virtio_driver_crates_split_ring_is_served() {
    for event_idx in [false, true] {
        let config = QueueConfig {
            event_idx,
            ..config(Format::Split, 8)
        };
        run(&format!("split-{event_idx}"), config, 40_000);
    }
}

#[test]
fn the_virtio_driver_crates_packed_ring_is_served() {
    for event_idx in [false, true] {
        let config = QueueConfig {
            event_idx,
            ..config(Format::Packed, 8)
        };
        // Without event index the crate counts all descriptors ever added in 16 bits.
        let rounds = if event_idx { 40_000 } else { 10_000 };
        run(&format!("packed-{event_idx}"), config, rounds);
    }
}
