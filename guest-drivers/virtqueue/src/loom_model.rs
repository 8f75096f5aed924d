//! Model of the handshake under every interleaving and every allowed reordering:
//! `RUSTFLAGS="--cfg loom" cargo test --release -p virtqueue --lib loom`.
//!
//! One rule: a side that sleeps has either seen everything or is being told.

use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::AtomicU16;
use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::AtomicU64;
use loom::thread;

use super::*;
use crate::index;
use crate::index::PackedPosition;
use crate::packed::ring;

macro_rules! shared {
    ($atomic:ty, $int:ty) => {
        impl Shared<$int> for $atomic {
            fn load(&self, order: Ordering) -> $int {
                <$atomic>::load(self, order)
            }
            fn store(&self, value: $int, order: Ordering) {
                <$atomic>::store(self, value, order);
            }
        }
    };
}
shared!(AtomicU16, u16);
shared!(AtomicU32, u32);
shared!(AtomicU64, u64);

/// What the two sides share: the entries, the publisher's index, the sleeper's wish, and whether
/// the sleeper was told.
struct World {
    entries: [AtomicU32; 2],
    index: AtomicU16,
    wish: AtomicU16,
    told: AtomicBool,
}

/// How a format words its wishes.
#[derive(Clone, Copy)]
struct Wording {
    silence: u16,
    ask: fn(seen: u16) -> u16,
    wants: fn(wish: u16, new: u16, old: u16) -> bool,
}

const EVENT_INDEX: Wording = Wording {
    silence: index::never(0),
    ask: |seen| seen,
    wants: index::need_event,
};

const FLAGS: Wording = Wording {
    silence: 1,
    ask: |_| 0,
    wants: |wish, _, _| wish & 1 == 0,
};

fn split_model(wording: Wording) {
    loom::model(move || {
        let world = Arc::new(World {
            entries: [AtomicU32::new(0), AtomicU32::new(0)],
            index: AtomicU16::new(0),
            wish: AtomicU16::new(wording.silence),
            told: AtomicBool::new(false),
        });
        let publisher = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                for old in 0..2_u16 {
                    let new = old + 1;
                    world.entries[usize::from(old)].store(u32::from(new), Ordering::Relaxed);
                    let wish = publish(&world.index, new, &world.wish);
                    if (wording.wants)(wish, new, old) {
                        world.told.store(true, Ordering::Release);
                    }
                }
            }
        });
        let mut seen = world.index.load(Ordering::Acquire);
        let mut asleep = false;
        for _ in 0..3 {
            for entry in 0..seen {
                let value = world.entries[usize::from(entry)].load(Ordering::Relaxed);
                assert_eq!(
                    value,
                    u32::from(entry) + 1,
                    "published before it was written"
                );
            }
            let now = arm(&world.wish, (wording.ask)(seen), &world.index);
            if now == seen {
                asleep = true;
                break;
            }
            disarm(&world.wish, wording.silence);
            seen = now;
        }
        publisher.join().unwrap();
        let told = world.told.load(Ordering::Acquire);
        assert!(
            !asleep || seen == 2 || told,
            "asleep at {seen} of 2 and not told"
        );
    });
}

#[test]
fn no_wake_up_is_lost_with_event_index() {
    split_model(EVENT_INDEX);
}

#[test]
fn no_wake_up_is_lost_with_flags() {
    split_model(FLAGS);
}

#[test]
fn no_wake_up_is_lost_in_a_packed_ring() {
    for event_idx in [false, true] {
        loom::model(move || {
            let start = PackedPosition::START;
            let available = 1_u64 << (48 + 7);
            let world = Arc::new((AtomicU64::new(0), AtomicU32::new(1 << 16)));
            let publisher = thread::spawn({
                let world = Arc::clone(&world);
                move || {
                    let wish = publish(&world.0, available | 42, &world.1);
                    ring::wants(wish, start.advance(1, 4), 1, 4)
                }
            });
            let word = arm(&world.1, ring::wish_for(start, event_idx), &world.0);
            let seen = ring::is_available(word, true);
            assert!(!seen || word as u32 == 42);
            let told = publisher.join().unwrap();
            assert!(seen || told, "asleep and not told");
        });
    }
}

/// The model can fail: without the fences both sides read the past.
#[test]
#[should_panic(expected = "asleep and not told")]
fn the_model_finds_the_lost_wake_up_of_a_handshake_without_fences() {
    loom::model(|| {
        let world = Arc::new((AtomicU16::new(0), AtomicU16::new(1)));
        let publisher = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                world.0.store(1, Ordering::Release);
                world.1.load(Ordering::Relaxed) == 0
            }
        });
        world.1.store(0, Ordering::Relaxed);
        let seen = world.0.load(Ordering::Acquire) == 1;
        let told = publisher.join().unwrap();
        assert!(seen || told, "asleep and not told");
    });
}
