//! The driver half on rings that a hostile device writes: a buffer comes back once or not at all.
#![no_main]

use libfuzzer_sys::fuzz_target;
use paravane_fuzz::Arena;
use paravane_fuzz::BYTES;
use paravane_fuzz::Decisions;
use virtqueue::DriverQueue;
use virtqueue::PeerMemory;
use virtqueue::Segment;

fuzz_target!(|data: &[u8]| {
    let mut decide = Decisions(data);
    let config = decide.config();
    let arena = Arena::default();
    let Some(rings) = arena.rings(&config) else {
        return;
    };
    let Ok(mut queue) = DriverQueue::new(config, rings) else {
        return;
    };
    let mut lent = Vec::new();
    while !decide.0.is_empty() {
        match decide.byte() % 6 {
            0 | 1 => {
                let offset = usize::from(decide.word());
                let len = usize::from(decide.byte());
                arena.scribble(offset, decide.bytes(len));
            }
            2 => {
                let bits = decide.byte();
                let segment = |n: u8| Segment {
                    addr: 0x8000 + u64::from(n),
                    len: u32::from(n),
                };
                let readable: Vec<_> = (0..bits & 3).map(segment).collect();
                let writable: Vec<_> = (0..bits >> 2 & 3).map(segment).collect();
                let table = if bits & 16 != 0 {
                    arena.span(0xf000, BYTES - 0xf000)
                } else {
                    None
                };
                let table = table.map(|table| (table, 0xf000));
                if let Ok(id) = queue.add(&readable, &writable, table) {
                    assert!(!lent.contains(&id), "{id} is lent twice");
                    lent.push(id);
                }
            }
            3 => {
                let _ = queue.publish();
            }
            4 => {
                // A broken queue stays broken; the bound is the point.
                for _ in 0..=config.size {
                    let Ok(Some(used)) = queue.pop() else { break };
                    let at = lent
                        .iter()
                        .position(|id| *id == used.id)
                        .expect("it was lent");
                    lent.swap_remove(at);
                }
            }
            _ => {
                let _ = queue.arm();
                queue.disarm();
            }
        }
        assert_eq!(usize::from(queue.in_flight()), lent.len());
    }
});
