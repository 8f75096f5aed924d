//! What a chain costs in each half of a queue: `cargo run --release --example ring_cost`.
//!
//! One rule: both halves run on one core in turns, so this is the cost of the code, without the
//! travel of cache lines between cores.
#![expect(unsafe_code, reason = "makes a span of its own memory")]
#![expect(
    clippy::print_stdout,
    reason = "a measuring program says what it measured"
)]
#![expect(
    clippy::expect_used,
    reason = "a measuring program ends at the first surprise"
)]

use std::ptr::NonNull;
use std::time::Duration;
use std::time::Instant;

use virtqueue::ChainBatch;
use virtqueue::DeviceQueue;
use virtqueue::DriverQueue;
use virtqueue::Format;
use virtqueue::PeerMemory;
use virtqueue::QueueConfig;
use virtqueue::QueueState;
use virtqueue::RingMemory;
use virtqueue::Rings;
use virtqueue::Segment;

const TABLES: usize = 256 * 64;

struct Memory(RingMemory);

impl PeerMemory for Memory {
    fn span(&self, addr: u64, len: usize) -> Option<RingMemory> {
        self.0.subspan(usize::try_from(addr).ok()?, len)
    }
}

fn main() {
    println!(
        "ns per 3-segment chain, driver add+publish | device take+complete+publish | driver pop"
    );
    for format in [Format::Split, Format::Packed] {
        for (event_idx, indirect, in_order) in [
            (false, false, false),
            (true, false, false),
            (true, true, false),
            (true, false, true),
        ] {
            let config = QueueConfig {
                size: 256,
                format,
                event_idx,
                indirect,
                in_order,
            };
            for depth in [1, 8, 32] {
                let [add, device, pop] = measure(config, depth);
                println!(
                    "{format:?} event_idx={event_idx} indirect={indirect} in_order={in_order} \
                     batch {depth:2}: {add:6.1} | {device:6.1} | {pop:6.1}"
                );
            }
        }
    }
}

fn measure(config: QueueConfig, depth: usize) -> [f64; 3] {
    let mut owner = vec![0_u128; (64 * 1024 + TABLES) / 16];
    let ptr = NonNull::from(owner.as_mut_slice()).cast();
    // SAFETY: the allocation outlives the queues, and is accessed through spans only.
    let all = unsafe { RingMemory::new(ptr, owner.len() * 16) };
    let part = |at: usize| {
        all.subspan(TABLES + at * 16 * 1024, 16 * 1024)
            .expect("inside")
    };
    let rings = Rings {
        descriptors: part(0),
        driver: part(1),
        device: part(2),
    };
    let memory = Memory(all);
    let mut driver = DriverQueue::new(config, rings).expect("driver");
    let state = QueueState::fresh(config.format);
    let mut device = DeviceQueue::new(config, rings, state).expect("device");
    let mut batch = ChainBatch::with_capacity(256, 1024);
    let readable = [Segment {
        addr: 0x1000,
        len: 16,
    }];
    let writable = [
        Segment {
            addr: 0x2000,
            len: 4096,
        },
        Segment {
            addr: 0x3000,
            len: 1,
        },
    ];
    let rounds = 1_000_000 / depth;
    let mut times = [const { Vec::new() }; 3].map(|_: Vec<Duration>| Vec::with_capacity(rounds));
    let _ = device.arm();
    for round in 0..rounds {
        let start = Instant::now();
        for at in 0..depth {
            let table = config.indirect.then(|| {
                let offset = (round + at) % 256 * 64;
                (all.subspan(offset, 64).expect("inside"), offset as u64)
            });
            driver.add(&readable, &writable, table).expect("room");
        }
        let _ = driver.publish();
        let added = Instant::now();
        batch.clear();
        let taken = device.take(&memory, &mut batch, depth).expect("good ring");
        for chain in batch.iter() {
            device.complete(chain.token, 4097).expect("taken");
        }
        let _ = device.publish();
        let used = Instant::now();
        while driver.pop().expect("good ring").is_some() {}
        let popped = Instant::now();
        assert_eq!(taken, depth);
        for (time, (from, to)) in
            times
                .iter_mut()
                .zip([(start, added), (added, used), (used, popped)])
        {
            time.push(to - from);
        }
    }
    times.map(|time| median(time) / depth as f64)
}

/// In nanoseconds; the median leaves out the rounds in which the machine did something else.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times
        .get(times.len() / 2)
        .map_or(0.0, |time| time.as_nanos() as f64)
}
