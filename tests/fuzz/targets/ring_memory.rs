//! The device half on rings that a hostile driver writes: errors yes, panics and endless work no.
#![no_main]

use libfuzzer_sys::fuzz_target;
use paravane_fuzz::Arena;
use paravane_fuzz::Decisions;
use virtqueue::ChainBatch;
use virtqueue::DeviceQueue;
use virtqueue::QueueState;

fuzz_target!(|data: &[u8]| {
    let mut decide = Decisions(data);
    let config = decide.config();
    let arena = Arena::default();
    let Some(rings) = arena.rings(&config) else {
        return;
    };
    let base = match decide.byte() {
        255 => u32::from(decide.word()) | u32::from(decide.word()) << 16,
        _ => QueueState::fresh(config.format).encode(config.format),
    };
    let Ok(state) = QueueState::decode(&config, base) else {
        return;
    };
    let Ok(mut queue) = DeviceQueue::new(config, rings, state) else {
        return;
    };
    let mut batch = ChainBatch::with_capacity(4, 16);
    let mut tokens = Vec::new();
    while !decide.0.is_empty() {
        match decide.byte() % 8 {
            0 | 1 => {
                let offset = usize::from(decide.word());
                let len = usize::from(decide.byte());
                arena.scribble(offset, decide.bytes(len));
            }
            2 | 3 => {
                batch.clear();
                let max = usize::from(decide.byte() % 8);
                if let Ok(taken) = queue.take(&arena, &mut batch, max) {
                    assert!(taken <= max);
                }
                assert!(batch.len() <= max);
                tokens.extend(batch.iter().map(|chain| chain.token));
                assert!(queue.in_flight() <= usize::from(config.size));
            }
            4 | 5 if !tokens.is_empty() => {
                let which = usize::from(decide.byte()) % tokens.len();
                let written = u32::from(decide.word()) << 8;
                queue
                    .complete(tokens.swap_remove(which), written)
                    .expect("it is in flight");
            }
            6 => {
                let _ = queue.publish();
            }
            _ => {
                let _ = queue.arm();
                queue.disarm();
                queue.has_work();
                assert!(QueueState::decode(&config, queue.state().encode(config.format)).is_ok());
            }
        }
    }
});
