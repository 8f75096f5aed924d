//! The statistics queue (virtio 1.4 sec. 5.5.6.3): one buffer that the device returns whenever it wants fresh figures.
//!
//! Rule: never more than one buffer, always the same set of tags, at most one answer for each look at the queue.
use driver_platform::Mmio;
use virtio_core::Error;
use virtio_core::Stopped;
use virtio_spec::balloon::Stat;
use virtio_spec::balloon::stat;
use zerocopy::IntoBytes;

use crate::counters::Counters;
use crate::message;
use crate::message::Batch;
use crate::message::Queue;
use crate::pages::Pages;

/// A tag that no device knows, for a guest without any statistics: a buffer cannot be empty.
const NOTHING: u16 = u16::MAX;
const STAT: usize = size_of::<Stat>();
/// Bytes of the buffer.
pub(crate) const BUFFER: usize = STAT * stat::COUNT;

/// The figures of a guest, by the tags of [`virtio_spec::balloon::stat`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    values: [Option<u64>; stat::COUNT],
}

impl Statistics {
    /// Sets a figure; unknown tags are ignored.
    pub fn set(&mut self, tag: u16, value: u64) {
        if let Some(entry) = self.values.get_mut(usize::from(tag)) {
            *entry = Some(value);
        }
    }

    /// A figure, if it is set.
    pub fn get(&self, tag: u16) -> Option<u64> {
        self.values.get(usize::from(tag)).copied().flatten()
    }

    /// The figures of `self` for the tags of `before`, whose values stand in for what is missing now.
    fn same_tags_as(&self, before: &Self) -> Self {
        let mut values = before.values;
        for (value, now) in values.iter_mut().zip(self.values) {
            *value = value.map(|old| now.unwrap_or(old));
        }
        Self { values }
    }

    fn entries(&self) -> impl Iterator<Item = Stat> {
        let set = (0..).zip(self.values);
        set.filter_map(|(tag, value): (u16, _)| {
            Some(Stat {
                tag: tag.into(),
                value: value?.into(),
            })
        })
    }

    /// Writes the message and returns its length.
    pub(crate) fn encode(&self, into: &mut [u8; BUFFER]) -> usize {
        let mut count = 0;
        let mut rooms = into.chunks_exact_mut(STAT);
        for (entry, room) in self.entries().zip(rooms.by_ref()) {
            room.copy_from_slice(entry.as_bytes());
            count += 1;
        }
        if count == 0 {
            let nothing = Stat {
                tag: NOTHING.into(),
                value: 0.into(),
            };
            if let Some(room) = into.get_mut(..STAT) {
                room.copy_from_slice(nothing.as_bytes());
            }
            count = 1;
        }
        count * STAT
    }
}

/// The queue and what was said last.
#[derive(Debug)]
pub(crate) struct StatisticsQueue<B> {
    pub(crate) queue: Queue<B>,
    last: Option<Statistics>,
}

impl<B: Mmio> StatisticsQueue<B> {
    pub(crate) fn new(queue: Queue<B>) -> Self {
        Self { queue, last: None }
    }

    /// Makes the buffer available, with fresh figures, unless the device has it.
    pub(crate) fn work(
        &mut self,
        pages: &mut impl Pages,
        counters: &mut Counters,
    ) -> Result<(), Error> {
        if let Some(returned) = self.queue.pop()? {
            self.queue.release(returned.slot);
            counters.statistics += 1;
        }
        let Ok(slot) = self.queue.claim() else {
            return Ok(());
        };
        let mut now = Statistics::default();
        pages.statistics(&mut now);
        if let Some(last) = &self.last {
            now = now.same_tags_as(last);
        }
        self.last = Some(now);
        let mut message = [0; BUFFER];
        let len = now.encode(&mut message);
        let message = message.get(..len).unwrap_or(&[]);
        let memory = self.queue.memory();
        let message = memory.write(&slot, 0, message);
        message::send(&mut self.queue, slot, message, Batch::default())?;
        self.queue.publish();
        Ok(())
    }

    /// After a reset: the buffer is the driver's again.
    pub(crate) fn drain(&mut self, proof: &Stopped) -> Result<(), Error> {
        while self.queue.abandon(proof)?.is_some() {}
        Ok(())
    }
}
