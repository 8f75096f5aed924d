//! The balloon as a whole: start and what it is made of.
//!
//! Rule: the order of virtio 1.4 sec. 3.1.1; a device that fails on the way is reset or cut off before its memory is handed back.
use alloc::vec::Vec;

use driver_platform::Clock;
use driver_platform::Coherent;
use driver_platform::Dma;
use driver_platform::Event;
use driver_platform::Interrupts;
use driver_platform::Log;
use driver_platform::PciFunction;
use driver_platform::Severity;
use virtio_pci::QueueSetup;
use virtio_pci::Transport;
use virtio_spec::balloon::PFN_SIZE;
use virtio_spec::balloon::feature;
use virtio_spec::balloon::queue;
use virtio_spec::balloon::queue::Role;
use virtio_spec::device_id;
use virtqueue::DriverQueue;
use virtqueue::QueueConfig;
use virtqueue::RingMemory;

use crate::amount::Amount;
use crate::config;
use crate::config::Wishes;
use crate::counters::Counters;
use crate::error::Error;
use crate::hints::Hints;
use crate::lane::Lane;
use crate::memory::QueueMemory;
use crate::options::Options;
use crate::options::numbers;
use crate::queue::Queue;
use crate::reports::Reports;
use crate::statistics;
use crate::statistics::StatisticsQueue;

/// Reports on their way at once.
const REPORTS: u16 = 4;
/// Bytes of a slot of the free page queue.
const HINT_SLOT: usize = 4;

/// A memory balloon. One owner at a time, no lock inside.
#[derive(Debug)]
pub struct BalloonDriver<F: PciFunction> {
    pub(crate) transport: Transport<F>,
    pub(crate) options: Options,
    pub(crate) features: u64,
    pub(crate) vectors: Vectors,
    pub(crate) parts: Parts<F::Bar>,
    pub(crate) counters: Counters,
    pub(crate) reset_started_us: u64,
    pub(crate) live: bool,
}

/// The queues with their state.
#[derive(Debug)]
pub(crate) struct Parts<B> {
    pub(crate) amount: Amount<B>,
    pub(crate) statistics: Option<StatisticsQueue<B>>,
    pub(crate) hints: Option<Hints<B>>,
    pub(crate) reports: Option<Reports<B>>,
}

/// A balloon that did not start.
#[derive(Debug)]
pub struct StartFailure {
    /// Why.
    pub error: Error,
    /// DMA memory that was allocated already; the device does not use it any more, and the shell may release it.
    pub memory: Vec<Coherent<RingMemory>>,
}

/// Which MSI-X message serves what: the first configuration changes, the others the queues in turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vectors {
    messages: u16,
}

impl Vectors {
    pub(crate) fn config(self) -> Option<u16> {
        (self.messages > 0).then_some(0)
    }

    pub(crate) fn queue(self, index: u16) -> Option<u16> {
        match self.messages {
            0 => None,
            1 => Some(0),
            messages => Some(1 + index % (messages - 1)),
        }
    }
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
        P: Dma<Span = RingMemory> + Clock + Log,
    {
        let mut memory = Vec::new();
        let mut transport = match Transport::probe(function) {
            Ok(transport) => transport,
            Err(error) => {
                return Err(StartFailure {
                    error: error.into(),
                    memory,
                });
            }
        };
        let vectors = Vectors {
            messages: interrupts.messages(),
        };
        let outcome = prepare(platform, &mut transport, &options).and_then(|features| {
            let plan = Plan {
                features,
                vectors,
                options,
            };
            Ok((
                start_queues(platform, &transport, &plan, &mut memory)?,
                features,
            ))
        });
        match outcome {
            Ok((parts, features)) => {
                let mut driver = Self {
                    transport,
                    options,
                    features,
                    vectors,
                    parts,
                    counters: Counters::default(),
                    reset_started_us: 0,
                    live: true,
                };
                driver.agree();
                Ok(driver)
            }
            Err(error) => {
                transport.fail();
                // Either the reset ends the device's use of the memory, or bus mastering is off afterwards.
                let _ = transport.reset_and_wait(platform);
                Err(StartFailure { error, memory })
            }
        }
    }

    /// The negotiated features.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The transport, for diagnosis.
    pub fn transport(&self) -> &Transport<F> {
        &self.transport
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

    /// Takes the driver apart and returns its DMA memory, for the shell to release once the device was reset and
    /// [`BalloonDriver::drain`] was done. `None` before that.
    pub fn into_memory(self) -> Option<Vec<Coherent<RingMemory>>> {
        let idle = !self.live && self.parts.queues().all(|queue| queue.in_flight() == 0);
        idle.then(|| self.parts.into_areas())
    }

    /// Hands what was negotiated on to the parts.
    pub(crate) fn agree(&mut self) {
        let has = |mask| self.features & mask != 0;
        let poison = self.options.poison.filter(|_| has(feature::PAGE_POISON));
        self.parts
            .amount
            .agree(has(feature::MUST_TELL_HOST), poison);
    }

    pub(crate) fn warn<P: Log>(&self, platform: &P, what: &'static str, value: u64) {
        platform.log(Event {
            severity: Severity::Warning,
            what,
            value,
        });
    }
}

impl<B: driver_platform::Mmio> Parts<B> {
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

    fn into_areas(self) -> Vec<Coherent<RingMemory>> {
        let optional = [
            self.statistics.map(|part| part.queue),
            self.hints.map(|part| part.queue),
            self.reports.map(|part| part.queue),
        ];
        [self.amount.inflate.queue, self.amount.deflate.queue]
            .into_iter()
            .chain(optional.into_iter().flatten())
            .flat_map(Queue::into_areas)
            .collect()
    }
}

fn prepare<F: PciFunction>(
    clock: &impl Clock,
    transport: &mut Transport<F>,
    options: &Options,
) -> Result<u64, Error> {
    if u32::from(transport.device_type()) != device_id::BALLOON {
        return Err(Error::NotBalloon);
    }
    transport.reset_and_wait(clock)?;
    negotiate(transport, options)
}

/// Agrees on features, checks that the configuration is there, and tells the poison.
pub(crate) fn negotiate<F: PciFunction>(
    transport: &mut Transport<F>,
    options: &Options,
) -> Result<u64, Error> {
    let features = transport.negotiate(|offered| options.choose(offered))?;
    Wishes::read(transport)?;
    if let Some(poison) = options
        .poison
        .filter(|_| features & feature::PAGE_POISON != 0)
    {
        config::write_poison(transport, poison)?;
    }
    Ok(features)
}

struct Plan {
    features: u64,
    vectors: Vectors,
    options: Options,
}

impl Plan {
    /// Messages in slots, and bytes of each, for a queue of this size.
    fn slots(&self, role: Role, size: u16) -> (u16, usize) {
        let batch = self.options.batch() * PFN_SIZE;
        match role {
            Role::Inflate | Role::Deflate => (self.options.batches.clamp(1, size), batch),
            Role::Stats => (1, statistics::BUFFER),
            Role::FreePage => (size, HINT_SLOT),
            Role::Reporting => (REPORTS.min(size), 0),
        }
    }
}

/// Makes and enables all queues, then sets DRIVER_OK. On failure all memory is in `spill`.
fn start_queues<P, F>(
    platform: &P,
    transport: &Transport<F>,
    plan: &Plan,
    spill: &mut Vec<Coherent<RingMemory>>,
) -> Result<Parts<F::Bar>, Error>
where
    P: Dma<Span = RingMemory>,
    F: PciFunction,
{
    if transport.queue_count() < queue::count(plan.features) {
        return Err(Error::NoQueue);
    }
    let mut queues = Vec::with_capacity(usize::from(queue::MAX));
    let all = (|| {
        transport.set_config_vector(plan.vectors.config())?;
        for (role, index) in numbers(plan.features, transport.queue_count()) {
            queues.push(start_queue(
                platform,
                transport,
                plan,
                (role, index),
                spill,
            )?);
        }
        transport.start()?;
        Ok(())
    })();
    if let Err(error) = all {
        spill.extend(queues.into_iter().flat_map(Queue::into_areas));
        return Err(error);
    }
    assemble(queues, plan).ok_or(Error::NoQueue)
}

/// Gives each queue its part; they come in the order of [`queue::roles`].
fn assemble<B: driver_platform::Mmio>(queues: Vec<Queue<B>>, plan: &Plan) -> Option<Parts<B>> {
    let mut queues = queues.into_iter();
    let batch = plan.options.batch();
    let mut lane = || {
        let queue = queues.next()?;
        let (slots, _) = plan.slots(Role::Inflate, queue.size());
        Some(Lane::new(queue, slots, batch))
    };
    let (inflate, deflate) = (lane()?, lane()?);
    let has = |mask| plan.features & mask != 0;
    let mut next_if = |mask| if has(mask) { queues.next() } else { None };
    Some(Parts {
        amount: Amount::new(inflate, deflate, plan.options.unit_pages),
        statistics: next_if(feature::STATS_VQ).map(StatisticsQueue::new),
        hints: next_if(feature::FREE_PAGE_HINT).map(Hints::new),
        reports: next_if(feature::PAGE_REPORTING).map(|queue| {
            let (slots, _) = plan.slots(Role::Reporting, queue.size());
            let most = plan.options.report_blocks.clamp(1, queue.size());
            Reports::new(queue, slots, usize::from(most))
        }),
    })
}

fn start_queue<P, F>(
    platform: &P,
    transport: &Transport<F>,
    plan: &Plan,
    (role, index): (Role, u16),
    spill: &mut Vec<Coherent<RingMemory>>,
) -> Result<Queue<F::Bar>, Error>
where
    P: Dma<Span = RingMemory>,
    F: PciFunction,
{
    let most = transport.queue_size_max(index)?;
    let mut size = plan.options.queue_size.min(most).max(1);
    if plan.features & virtio_spec::feature::RING_PACKED == 0 {
        size = 1 << size.ilog2();
    }
    let config = QueueConfig::from_features(size, plan.features).map_err(Error::Layout)?;
    let slots = plan.slots(role, size);
    let memory = QueueMemory::allocate(platform, &config, slots, spill)?;
    let setup = QueueSetup {
        index,
        size,
        addresses: memory.addresses(),
        vector: plan.vectors.queue(index),
    };
    let ring = DriverQueue::new(config, memory.rings());
    let both = ring
        .map_err(Error::from)
        .and_then(|ring| Ok((ring, transport.enable_queue(&setup)?)));
    match both {
        Ok((ring, doorbell)) => Ok(Queue::new(index, ring, memory, doorbell, slots.0)),
        Err(error) => {
            spill.extend(memory.into_areas());
            Err(error)
        }
    }
}
