//! The in-flight record of either format behind one face. One rule: a caller states what happens to the ring, in
//! the order it happens; the layouts know what to store.

use crate::Error;
use crate::inflight::QueueRecord;
use crate::inflight_packed::PackedRecorder;
use crate::inflight_packed::RecordedChain;
use crate::inflight_split::SplitRecorder;
use std::collections::VecDeque;
use virtio_spec::ring::PackedDescriptor;
use virtqueue::Format;
use virtqueue::QueueConfig;
use virtqueue::QueueState;
use virtqueue::Rings;
use virtqueue::Token;

/// A chain that the record says was in flight.
#[derive(Debug)]
pub(crate) enum Recorded {
    Head(u16),
    Descriptors(RecordedChain),
}

/// Writes the in-flight record of one queue.
#[derive(Debug)]
pub(crate) struct Recorder {
    layout: Layout,
    /// Chains completed but not visible yet; with `IN_ORDER`, chains taken, in that order.
    waiting: VecDeque<Token>,
    in_order: bool,
}

#[derive(Debug)]
enum Layout {
    Split(SplitRecorder),
    Packed(PackedRecorder),
}

impl Recorder {
    /// Opens the record; returns what is to be replayed, and where the ring stands given that.
    pub(crate) fn open(
        record: QueueRecord,
        config: &QueueConfig,
        rings: &Rings,
        base: QueueState,
    ) -> Result<(Self, VecDeque<Recorded>, QueueState), Error> {
        if record.entries < config.size {
            return Err(Error::Record("queue is larger than its record"));
        }
        let (layout, chains, state) = match config.format {
            Format::Split => {
                let (layout, heads) = SplitRecorder::open(record, base.used)?;
                let in_flight = heads.len() as u16;
                let avail = base.used.wrapping_add(in_flight);
                let state = QueueState {
                    avail,
                    used: base.used,
                };
                let chains = heads.into_iter().map(Recorded::Head).collect();
                (Layout::Split(layout), chains, state)
            }
            Format::Packed => {
                let (layout, chains, state) =
                    PackedRecorder::open(record, &rings.descriptors, config.size, base)?;
                let chains = chains.into_iter().map(Recorded::Descriptors).collect();
                (Layout::Packed(layout), chains, state)
            }
        };
        let waiting = VecDeque::with_capacity(usize::from(config.size));
        Ok((
            Self {
                layout,
                waiting,
                in_order: config.in_order,
            },
            chains,
            state,
        ))
    }

    /// A chain was taken from the ring.
    #[inline]
    pub(crate) fn taken(&mut self, token: Token, descriptors: &[PackedDescriptor]) {
        match &mut self.layout {
            Layout::Split(layout) => layout.taken(token.id),
            Layout::Packed(layout) => layout.taken(token, descriptors),
        }
        self.replayed(token);
    }

    /// A chain was taken from the record, where it stays.
    #[inline]
    pub(crate) fn replayed(&mut self, token: Token) {
        if self.in_order {
            self.waiting.push_back(token);
        }
    }

    /// The chain taken last was given back to the ring.
    pub(crate) fn untaken(&mut self, token: Token) {
        match &mut self.layout {
            Layout::Split(layout) => layout.clear(token.id),
            Layout::Packed(layout) => layout.untaken(token),
        }
        if self.in_order {
            self.waiting.pop_back();
        }
    }

    /// A chain was completed.
    #[inline]
    pub(crate) fn completed(&mut self, token: Token) {
        if !self.in_order {
            self.waiting.push_back(token);
        }
    }

    /// The next `count` completed chains are about to become visible.
    #[inline]
    pub(crate) fn before_publish(&mut self, count: usize) {
        for token in self.waiting.iter().take(count) {
            match &mut self.layout {
                Layout::Split(layout) => layout.stage(token.id),
                Layout::Packed(layout) => layout.stage(*token),
            }
        }
        if let Layout::Packed(layout) = &mut self.layout {
            layout.announce();
        }
    }

    /// They are visible now.
    #[inline]
    pub(crate) fn after_publish(&mut self, count: usize) {
        let count = count.min(self.waiting.len());
        for token in self.waiting.drain(..count) {
            match &mut self.layout {
                Layout::Split(layout) => layout.clear(token.id),
                Layout::Packed(layout) => layout.clear(token),
            }
        }
        match &mut self.layout {
            Layout::Split(layout) => layout.commit(count as u16),
            Layout::Packed(layout) => layout.commit(),
        }
    }
}
