//! The handshake that lets a side sleep without losing a wake-up: publish an index, then look
//! whether the peer wants to know; ask to be told, then look whether something came meanwhile.
//!
//! One rule: both halves and both formats go through these functions, and the loom model in
//! `loom_model` runs exactly this code. Each side writes its own word, passes a sequentially
//! consistent fence, and then reads the other's: with the fence on both sides at least one of
//! them sees the other's write.

use core::sync::atomic::Ordering;

use crate::memory::Cell;
use crate::memory::Word;

#[cfg(not(loom))]
use core::sync::atomic::fence;
#[cfg(loom)]
use loom::sync::atomic::fence;

/// A word both sides can access atomically.
pub(crate) trait Shared<T> {
    fn load(&self, order: Ordering) -> T;
    fn store(&self, value: T, order: Ordering);
}

impl<T: Word> Shared<T> for Cell<T> {
    #[inline]
    fn load(&self, order: Ordering) -> T {
        Cell::load(self, order)
    }
    #[inline]
    fn store(&self, value: T, order: Ordering) {
        Cell::store(self, value, order);
    }
}

/// Makes `value` visible at `place`, with everything written before, and returns what the peer
/// last wrote to `wish`, its word about notifications.
#[inline]
pub(crate) fn publish<T, W>(place: &impl Shared<T>, value: T, wish: &impl Shared<W>) -> W {
    place.store(value, Ordering::Release);
    fence(Ordering::SeqCst);
    wish.load(Ordering::Relaxed)
}

/// Tells the peer `wish` and returns what it has published at `place` by then.
#[inline]
pub(crate) fn arm<T, W>(wish: &impl Shared<W>, value: W, place: &impl Shared<T>) -> T {
    wish.store(value, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    place.load(Ordering::Acquire)
}

/// Tells the peer `wish` without need for an answer: the peer may act on the old one for a while.
#[inline]
pub(crate) fn disarm<W>(wish: &impl Shared<W>, value: W) {
    wish.store(value, Ordering::Relaxed);
}

#[cfg(test)]
#[cfg(loom)]
#[path = "loom_model.rs"]
mod loom_model;
