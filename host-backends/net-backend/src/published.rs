//! A value that changes seldom and is read for every batch of frames.
//!
//! Rule: a reader that is up to date pays one load; only a change costs it the lock.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use host_os::sync::lock;

/// The value, and how often it changed.
#[derive(Debug)]
pub struct Published<T> {
    version: AtomicU64,
    value: Mutex<Arc<T>>,
}

/// One reader's copy.
#[derive(Debug)]
pub struct Follower<T> {
    version: u64,
    value: Arc<T>,
}

impl<T> Published<T> {
    /// A value that never changed.
    pub fn new(value: T) -> Self {
        Self {
            version: AtomicU64::new(1),
            value: Mutex::new(Arc::new(value)),
        }
    }

    /// The value now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&lock(&self.value))
    }

    /// Changes a copy of the value, then makes it the value.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R
    where
        T: Clone,
    {
        let mut value = lock(&self.value);
        let mut next = T::clone(&value);
        let result = change(&mut next);
        *value = Arc::new(next);
        self.version.fetch_add(1, Ordering::Release);
        result
    }

    /// A reader.
    pub fn follow(&self) -> Follower<T> {
        let value = lock(&self.value);
        Follower {
            version: self.version.load(Ordering::Acquire),
            value: Arc::clone(&value),
        }
    }
}

impl<T> Follower<T> {
    /// Takes on the present value; `true` when it changed.
    #[inline]
    pub fn refresh(&mut self, from: &Published<T>) -> bool {
        if from.version.load(Ordering::Acquire) == self.version {
            return false;
        }
        *self = from.follow();
        true
    }

    /// The value when last refreshed.
    #[inline]
    pub fn get(&self) -> &Arc<T> {
        &self.value
    }
}

impl<T> std::ops::Deref for Follower<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reader_sees_a_change_once() {
        let published = Published::new(1);
        let mut reader = published.follow();
        assert!(!reader.refresh(&published));
        published.update(|value| *value = 2);
        assert_eq!(*reader, 1);
        assert!(reader.refresh(&published));
        assert!(!reader.refresh(&published));
        assert_eq!((*reader, *published.get()), (2, 2));
    }
}
