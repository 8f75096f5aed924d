//! The balloon as a whole: start and what it is made of.
//!
//! Rule: the order of virtio 1.4 sec. 3.1.1 is kept by [`virtio_core::bring_up`]; each queue's part of the heap is there before the
//! queue.
use alloc::vec::Vec;

use driver_platform::Clock;
use driver_platform::Coherent;
use driver_platform::Dma;
use driver_platform::Interrupts;
use driver_platform::Log;
use driver_platform::Mmio;
use driver_platform::PciFunction;
use fallible_alloc::FallibleVec;
use virtio_core::Device;
use virtio_core::Error;
use virtio_core::QueueSet;
use virtio_core::Shape;
use virtio_core::StartFailure;
use virtio_core::Starting;
use virtio_core::Stopped;
use virtio_pci::Transport;
use virtio_spec::balloon::PFN_SIZE;
use virtio_spec::balloon::feature;
use virtio_spec::balloon::queue;
use virtio_spec::balloon::queue::Role;
use virtio_spec::device_id;

use crate::amount::Amount;
use crate::config;
use crate::config::Wishes;
use crate::counters::Counters;
use crate::hints::Hints;
use crate::lane::Lane;
use crate::message::Queue;
use crate::options::Options;
use crate::options::numbers;
use crate::pages::Block;
use crate::reports::Reports;
use crate::statistics;
use crate::statistics::StatisticsQueue;

/// Reports on their way at once.
const REPORTS: u16 = 4;
/// Bytes of a slot of the free page queue.
const HINT_SLOT: usize = 4;
/// Most DMA areas of a balloon: those of rings, slots and tables of each queue.
const AREAS: usize = 5 * queue::MAX as usize;

/// A memory balloon. One owner at a time, no lock inside.
#[derive(Debug)]
pub struct BalloonDriver<F: PciFunction> {
    pub(crate) device: Device<F>,
    pub(crate) options: Options,
    pub(crate) parts: Parts<F::Bar>,
    pub(crate) counters: Counters,
    /// Room for the DMA memory when the driver is taken apart.
    areas: Vec<Coherent>,
}

/// The queues with their state.
#[derive(Debug)]
pub(crate) struct Parts<B> {
    pub(crate) amount: Amount<B>,
    pub(crate) statistics: Option<StatisticsQueue<B>>,
    pub(crate) hints: Option<Hints<B>>,
    pub(crate) reports: Option<Reports<B>>,
}

impl<F: PciFunction> BalloonDriver<F> {
    /// Starts a balloon: reset, features, poison, queues, DRIVER_OK. Waits for the reset; for start-up only. The first
    /// [`BalloonDriver::work`] makes the statistics available and begins to inflate.
    ///
    /// # Errors
    /// Why the balloon cannot be used, with the memory to release.
    pub fn start<P>(
        platform: &P,
        function: F,
        interrupts: &impl Interrupts,
        options: Options,
    ) -> Result<Self, StartFailure>
    where
        P: Dma + Clock + Log,
    {
        let up = virtio_core::bring_up(
            platform,
            function,
            interrupts,
            device_id::BALLOON,
            |transport| negotiate(transport, &options),
            |starting, made| make_queues(platform, starting, &options, made),
        )?;
        let made: Made<F::Bar> = up.queues;
        let Some(parts) = made.assemble(&options) else {
            // Not after `make_queues`, which makes both.
            return Err(StartFailure {
                error: Error::NoQueue,
                memory: Vec::new(),
            });
        };
        let mut driver = Self {
            device: up.device,
            options,
            parts,
            counters: Counters::default(),
            areas: up.made,
        };
        driver.agree();
        Ok(driver)
    }

    /// The negotiated features.
    pub fn features(&self) -> u64 {
        self.device.features()
    }

    /// The transport, for diagnosis.
    pub fn transport(&self) -> &Transport<F> {
        self.device.transport()
    }

    /// Pages that the device wants in the balloon, rounded up to the guest's page size.
    pub fn target(&self) -> u32 {
        self.parts.amount.target()
    }

    /// Pages in the balloon.
    pub fn actual(&self) -> u32 {
        self.parts.amount.actual()
    }

    /// What the balloon has done.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes the driver apart and returns its DMA memory, which the device no longer uses. `None` before [`BalloonDriver::drain`] was done
    /// or when the proof is not of this balloon: then the memory stays allocated for good.
    pub fn into_memory(self, proof: &Stopped) -> Option<Vec<Coherent>> {
        let empty = self.parts.queues().all(|queue| queue.in_flight() == 0);
        if !empty || self.parts.queues().any(|queue| queue.check(proof).is_err()) {
            return None;
        }
        let mut areas = self.areas;
        self.parts.spill(&mut |area| {
            let lost = areas.push_in_room(area).err();
            debug_assert!(lost.is_none(), "more areas than queues have");
        });
        Some(areas)
    }

    /// Hands what was negotiated on to the parts.
    pub(crate) fn agree(&mut self) {
        let has = |mask| self.features() & mask != 0;
        let poison = self.options.poison.filter(|_| has(feature::PAGE_POISON));
        let must_tell = has(feature::MUST_TELL_HOST);
        self.parts.amount.agree(must_tell, poison);
    }
}

impl<B: Mmio> Parts<B> {
    /// All queues, in the order of their indices.
    pub(crate) fn queues(&self) -> impl Iterator<Item = &Queue<B>> {
        [&self.amount.inflate.queue, &self.amount.deflate.queue]
            .into_iter()
            .chain(self.statistics.as_ref().map(|part| &part.queue))
            .chain(self.hints.as_ref().map(|part| &part.queue))
            .chain(self.reports.as_ref().map(|part| &part.queue))
    }

    /// As [`Parts::queues`].
    pub(crate) fn queues_mut(&mut self) -> impl Iterator<Item = &mut Queue<B>> {
        [
            &mut self.amount.inflate.queue,
            &mut self.amount.deflate.queue,
        ]
        .into_iter()
        .chain(self.statistics.as_mut().map(|part| &mut part.queue))
        .chain(self.hints.as_mut().map(|part| &mut part.queue))
        .chain(self.reports.as_mut().map(|part| &mut part.queue))
    }
}

impl<B: Mmio> QueueSet for Parts<B> {
    fn spill(self, into: &mut impl FnMut(Coherent)) {
        self.amount.inflate.queue.spill(into);
        self.amount.deflate.queue.spill(into);
        self.statistics.map(|part| part.queue).spill(into);
        self.hints.map(|part| part.queue).spill(into);
        self.reports.map(|part| part.queue).spill(into);
    }
}

/// Agrees on features, checks that the configuration is there, and tells the poison.
pub(crate) fn negotiate<F: PciFunction>(
    transport: &mut Transport<F>,
    options: &Options,
) -> Result<u64, Error> {
    let features = transport.negotiate(|offered| options.choose(offered))?;
    Wishes::read(transport)?;
    let agreed = features & feature::PAGE_POISON != 0;
    if let Some(poison) = options.poison.filter(|_| agreed) {
        config::write_poison(transport, poison)?;
    }
    Ok(features)
}

/// The parts that were made so far.
struct Made<B> {
    inflate: Option<Lane<B>>,
    deflate: Option<Lane<B>>,
    statistics: Option<StatisticsQueue<B>>,
    hints: Option<Hints<B>>,
    reports: Option<Reports<B>>,
}

impl<B> Default for Made<B> {
    fn default() -> Self {
        Self {
            inflate: None,
            deflate: None,
            statistics: None,
            hints: None,
            reports: None,
        }
    }
}

impl<B: Mmio> Made<B> {
    fn assemble(self, options: &Options) -> Option<Parts<B>> {
        Some(Parts {
            amount: Amount::new(self.inflate?, self.deflate?, options.unit_pages),
            statistics: self.statistics,
            hints: self.hints,
            reports: self.reports,
        })
    }
}

impl<B: Mmio> QueueSet for Made<B> {
    fn spill(self, into: &mut impl FnMut(Coherent)) {
        self.inflate.map(|lane| lane.queue).spill(into);
        self.deflate.map(|lane| lane.queue).spill(into);
        self.statistics.map(|part| part.queue).spill(into);
        self.hints.map(|part| part.queue).spill(into);
        self.reports.map(|part| part.queue).spill(into);
    }
}

/// Makes all queues and what belongs to each; also the room for their memory when the driver is taken apart.
fn make_queues<P, F>(
    platform: &P,
    starting: &mut Starting<F>,
    options: &Options,
    made: &mut Made<F::Bar>,
) -> Result<Vec<Coherent>, Error>
where
    P: Dma,
    F: PciFunction,
{
    let (features, count) = (
        starting.transport().features(),
        starting.transport().queue_count(),
    );
    if count < queue::count(features) {
        return Err(Error::NoQueue);
    }
    let areas = Vec::with_room(AREAS)?;
    for (role, index) in numbers(features, count) {
        let size = starting.queue_size(index, options.queue_size.max(1))?;
        make_queue(platform, starting, options, made, (role, index, size))?;
    }
    Ok(areas)
}

fn make_queue<P, F>(
    platform: &P,
    starting: &mut Starting<F>,
    options: &Options,
    made: &mut Made<F::Bar>,
    (role, index, size): (Role, u16, u16),
) -> Result<(), Error>
where
    P: Dma,
    F: PciFunction,
{
    let batch = options.batch();
    let batches = options.batches.clamp(1, size);
    let most = options.report_blocks.clamp(1, size);
    let mut queue = |segments: u16, slots: u16, slot_size: usize| {
        let shape = Shape {
            index,
            size,
            segments: segments.into(),
            slots,
            slot_size,
        };
        starting.queue(platform, &shape)
    };
    match role {
        Role::Inflate | Role::Deflate => {
            let pfns = Vec::filled(usize::from(batches) * batch, |_| 0)?;
            let lane = Lane::new(queue(1, batches, batch * PFN_SIZE)?, pfns, batch);
            match role {
                Role::Inflate => made.inflate = Some(lane),
                _ => made.deflate = Some(lane),
            }
        }
        Role::Stats => {
            let queue = queue(1, 1, statistics::BUFFER)?;
            made.statistics = Some(StatisticsQueue::new(queue));
        }
        Role::FreePage => made.hints = Some(Hints::new(queue(1, size, HINT_SLOT)?)),
        Role::Reporting => {
            let slots = REPORTS.min(size);
            let blocks = usize::from(slots) * usize::from(most);
            let blocks = Vec::filled(blocks, |_| Block::default())?;
            let queue = queue(most, slots, 0)?;
            made.reports = Some(Reports::new(queue, blocks, most.into()));
        }
    }
    Ok(())
}
