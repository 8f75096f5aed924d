//! Requests that are under way; one may be several chains.
//!
//! Rule: each chain bears the key of its request; a key is made only by opening a request, and its entry is there until the request is
//! closed with its last chain.
use alloc::vec::Vec;

use driver_platform::Direction;
use fallible_alloc::FallibleVec;
use fallible_alloc::OutOfMemory;

use crate::error::RequestError;
use crate::request::Operation;
use crate::request::Serial;

/// A range of sectors to discard or zero, in parts that the device takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) request_type: u32,
    pub(crate) sector: u64,
    pub(crate) sectors: u64,
    pub(crate) per_request: u32,
    pub(crate) flags: u32,
}

/// A request that is under way.
#[derive(Debug)]
pub(crate) struct Pending<B> {
    pub(crate) cookie: u64,
    pub(crate) operation: Operation,
    pub(crate) buffer: Option<B>,
    pub(crate) mapped: Option<Direction>,
    /// A serial was asked for; then, what came.
    pub(crate) serial: Option<Serial>,
    /// What is left of a range after the part that is under way.
    pub(crate) rest: Option<Range>,
    pub(crate) chains: u16,
    pub(crate) error: Option<RequestError>,
}

/// Names a request that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(u16);

/// The requests of one queue.
#[derive(Debug)]
pub(crate) struct Requests<B> {
    entries: Vec<Option<Pending<B>>>,
    free: Vec<Key>,
}

impl<B> Requests<B> {
    pub(crate) fn new(count: u16) -> Result<Self, OutOfMemory> {
        let mut free = Vec::with_room(count.into())?;
        for number in (0..count).rev() {
            free.push_growing(Key(number))?;
        }
        Ok(Self {
            entries: Vec::filled(count.into(), |_| None)?,
            free,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.entries.len()
    }

    /// Takes a request in; gives it back when there are as many as the queue has entries.
    #[inline]
    pub(crate) fn open(&mut self, pending: Pending<B>) -> Result<Key, Pending<B>> {
        let Some(key) = self.free.pop() else {
            return Err(pending);
        };
        match self.entries.get_mut(usize::from(key.0)) {
            Some(entry) => {
                *entry = Some(pending);
                Ok(key)
            }
            None => Err(pending),
        }
    }

    /// A request; always there for a key of a chain that came back.
    #[inline]
    pub(crate) fn get(&mut self, key: Key) -> Option<&mut Pending<B>> {
        self.entries.get_mut(usize::from(key.0))?.as_mut()
    }

    /// Ends a request.
    #[inline]
    pub(crate) fn close(&mut self, key: Key) -> Option<Pending<B>> {
        let pending = self.entries.get_mut(usize::from(key.0))?.take()?;
        let lost = self.free.push_in_room(key).err();
        debug_assert!(lost.is_none(), "a request was closed twice");
        Some(pending)
    }

    /// Ends any request: after a reset, when no chain comes back any more.
    pub(crate) fn close_any(&mut self) -> Option<Pending<B>> {
        let index = self.entries.iter().position(Option::is_some)?;
        self.close(Key(u16::try_from(index).ok()?))
    }
}
