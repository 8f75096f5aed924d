//! A value with several owners.
#![expect(unsafe_code, reason = "counts its owners, and frees with the last")]
use alloc::alloc::alloc;
use alloc::alloc::dealloc;
use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering;
use core::sync::atomic::fence;

use crate::list::OutOfMemory;

struct Inner<T> {
    owners: AtomicUsize,
    value: T,
}

/// A value with several owners, freed with the last of them: `Arc` without weak references, made by an allocation that may be refused.
pub struct Shared<T> {
    inner: NonNull<Inner<T>>,
    owns: PhantomData<Inner<T>>,
}

// SAFETY: an owner may be the last and drop the value on its thread, and owners on several threads look at it at once.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as for Send: a reference can be cloned into an owner.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// A value with one owner.
    ///
    /// # Errors
    /// [`OutOfMemory`]; the value is dropped.
    pub fn new(value: T) -> Result<Self, OutOfMemory> {
        let layout = Layout::new::<Inner<T>>();
        // SAFETY: the counter makes the layout's size more than 0.
        let memory = unsafe { alloc(layout) };
        let inner = NonNull::new(memory.cast::<Inner<T>>()).ok_or(OutOfMemory)?;
        let owners = AtomicUsize::new(1);
        // SAFETY: fresh memory of this layout that nobody else knows.
        unsafe { inner.write(Inner { owners, value }) };
        Ok(Self {
            inner,
            owns: PhantomData,
        })
    }

    fn inner(&self) -> &Inner<T> {
        // SAFETY: the memory is there as long as there is an owner, and after `new` only shared references are made to it.
        unsafe { self.inner.as_ref() }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        // The new owner comes from one that sees the value already.
        let before = self.inner().owners.fetch_add(1, Ordering::Relaxed);
        // Owners that are forgotten could wrap the counter; each takes memory, so that this many cannot exist otherwise.
        assert!(before < usize::MAX / 2, "too many owners");
        Self {
            inner: self.inner,
            owns: PhantomData,
        }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner().value
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // What this owner did to the value comes before its end.
        if self.inner().owners.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // What every other owner did comes before it, too.
        fence(Ordering::Acquire);
        // SAFETY: this was the last owner, so nobody looks at the value any more.
        unsafe { self.inner.drop_in_place() };
        let memory = self.inner.as_ptr().cast::<u8>();
        // SAFETY: from `alloc` with the same layout, and freed once.
        unsafe { dealloc(memory, Layout::new::<Inner<T>>()) };
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
