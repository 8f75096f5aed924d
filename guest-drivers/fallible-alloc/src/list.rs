//! Lists whose room is asked for, and may be refused.
#![expect(unsafe_code, reason = "a list's length grows by what was just written")]
use alloc::vec::Vec;
use core::error::Error;
use core::fmt;

/// The heap has no memory left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Out of memory")
    }
}

impl Error for OutOfMemory {}

/// What [`Vec`] does, with errors instead of aborts.
pub trait FallibleVec<T>: Sized {
    /// An empty list with room for `capacity` items at least.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    fn with_room(capacity: usize) -> Result<Self, OutOfMemory>;

    /// A list of `len` items, made by their index.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    fn filled(len: usize, make: impl FnMut(usize) -> T) -> Result<Self, OutOfMemory>;

    /// Appends an item if there is room; never allocates.
    ///
    /// # Errors
    /// The item, when the room is used up.
    fn push_in_room(&mut self, item: T) -> Result<(), T>;

    /// Appends an item, making room if need be.
    ///
    /// # Errors
    /// [`OutOfMemory`]; the item is dropped.
    fn push_growing(&mut self, item: T) -> Result<(), OutOfMemory>;

    /// Makes room for `more` items beyond those that are there.
    ///
    /// # Errors
    /// [`OutOfMemory`]; the list is as it was.
    fn make_room(&mut self, more: usize) -> Result<(), OutOfMemory>;
}

impl<T> FallibleVec<T> for Vec<T> {
    fn with_room(capacity: usize) -> Result<Self, OutOfMemory> {
        let mut list = Self::new();
        list.make_room(capacity)?;
        Ok(list)
    }

    fn filled(len: usize, mut make: impl FnMut(usize) -> T) -> Result<Self, OutOfMemory> {
        let mut list = Self::with_room(len)?;
        for index in 0..len {
            list.push_growing(make(index))?;
        }
        Ok(list)
    }

    #[inline]
    fn push_in_room(&mut self, item: T) -> Result<(), T> {
        let Some(place) = self.spare_capacity_mut().first_mut() else {
            return Err(item);
        };
        place.write(item);
        let len = self.len() + 1;
        // SAFETY: the item at the old length was written just now, and it is inside the capacity.
        unsafe { self.set_len(len) };
        Ok(())
    }

    #[inline]
    fn push_growing(&mut self, item: T) -> Result<(), OutOfMemory> {
        if self.len() == self.capacity() {
            grow(self)?;
        }
        self.push_in_room(item).map_err(|_| OutOfMemory)
    }

    fn make_room(&mut self, more: usize) -> Result<(), OutOfMemory> {
        self.try_reserve_exact(more).map_err(|_| OutOfMemory)
    }
}

#[cold]
fn grow<T>(list: &mut Vec<T>) -> Result<(), OutOfMemory> {
    list.try_reserve(1).map_err(|_| OutOfMemory)
}
