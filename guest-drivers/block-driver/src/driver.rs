//! The disk as a whole: start, configuration changes, cache mode.
//!
//! Rule: the order of virtio 1.4 sec. 3.1.1; a disk that fails on the way is reset or cut off before its memory is handed back.
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

use driver_platform::Clock;
use driver_platform::Coherent;
use driver_platform::Dma;
use driver_platform::Event;
use driver_platform::Interrupts;
use driver_platform::Log;
use driver_platform::PciFunction;
use driver_platform::Severity;
use virtio_pci::QueueAddresses;
use virtio_pci::QueueSetup;
use virtio_pci::Transport;
use virtio_spec::block;
use virtio_spec::device_id;
use virtqueue::DriverQueue;
use virtqueue::QueueConfig;
use virtqueue::RingError;
use virtqueue::RingMemory;

use crate::config::DiskInfo;
use crate::counters::Counters;
use crate::error::Error;
use crate::memory::QueueMemory;
use crate::options::Options;
use crate::options::WANTED_FEATURES;
use crate::queue::BlockQueue;
use crate::segments::Limits;
use crate::segments::Segments;
use crate::table::Table;

/// Header, one data segment, status.
const DESCRIPTORS_MIN: u16 = 3;
/// Page size that [`DiskInfo::max_transfer`] assumes for the pieces of a buffer.
const PAGE: u64 = 4096;

/// The control half of a disk; requests go to its queues.
#[derive(Debug)]
pub struct BlockDriver<F: PciFunction> {
    pub(crate) transport: Transport<F>,
    pub(crate) wanted: u64,
    pub(crate) features: u64,
    pub(crate) info: DiskInfo,
    pub(crate) capacity: Arc<AtomicU64>,
    pub(crate) vectors: Vectors,
    pub(crate) segments_used: u32,
    pub(crate) reset_started_us: u64,
}

/// A disk that did not start.
#[derive(Debug)]
pub struct StartFailure {
    /// Why.
    pub error: Error,
    /// DMA memory that was allocated already; the device does not use it any more, and the shell may release it.
    pub memory: Vec<Coherent<RingMemory>>,
}

/// What [`BlockDriver::config_changed`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// Nothing that matters.
    Nothing,
    /// The disk has a new size, in sectors. Requests are checked against it from now on.
    Resized(u64),
    /// The device asks to be reset.
    NeedsReset,
}

/// Which MSI-X message serves what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vectors {
    messages: u16,
}

impl Vectors {
    /// The first message is for configuration changes.
    pub(crate) fn config(self) -> Option<u16> {
        (self.messages > 0).then_some(0)
    }

    /// The others are dealt out to the queues; with one message all share it.
    pub(crate) fn queue(self, index: u16) -> Option<u16> {
        match self.messages {
            0 => None,
            1 => Some(0),
            messages => Some(1 + index % (messages - 1)),
        }
    }
}

type Started<P, F> = (BlockDriver<F>, Vec<BlockQueue<P, <F as PciFunction>::Bar>>);

impl<F: PciFunction> BlockDriver<F> {
    /// Starts a disk: reset, features, configuration, queues, DRIVER_OK. Waits for the reset; for start-up only.
    ///
    /// # Errors
    /// Why the disk cannot be used, with the memory to release.
    pub fn start<P>(
        platform: &P,
        function: F,
        interrupts: &impl Interrupts,
        options: Options,
    ) -> Result<Started<P, F>, StartFailure>
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
        let outcome =
            Self::prepare(platform, &mut transport, options).and_then(|(features, info)| {
                let plan = QueuePlan {
                    features,
                    info,
                    vectors,
                    options,
                };
                let capacity = Arc::new(AtomicU64::new(info.capacity_sectors));
                Ok((
                    start_queues(platform, &transport, &plan, &capacity, &mut memory)?,
                    info,
                    features,
                    capacity,
                ))
            });
        match outcome {
            Ok((queues, info, features, capacity)) => {
                let (segments_used, max_transfer) = queues.first().map_or((1, PAGE), |queue| {
                    (
                        u32::try_from(queue.limits.seg_max).unwrap_or(u32::MAX),
                        max_transfer(&queue.limits),
                    )
                });
                let info = DiskInfo {
                    max_transfer,
                    ..info
                };
                let driver = Self {
                    transport,
                    wanted: options.features & WANTED_FEATURES,
                    features,
                    info,
                    capacity,
                    vectors,
                    segments_used,
                    reset_started_us: 0,
                };
                Ok((driver, queues))
            }
            Err(error) => {
                transport.fail();
                // Either the reset ends the device's use of the memory, or bus mastering is off afterwards.
                let _ = transport.reset_and_wait(platform);
                Err(StartFailure { error, memory })
            }
        }
    }

    fn prepare<P: Clock>(
        platform: &P,
        transport: &mut Transport<F>,
        options: Options,
    ) -> Result<(u64, DiskInfo), Error> {
        if u32::from(transport.device_type()) != device_id::BLOCK {
            return Err(Error::NotBlock);
        }
        transport.reset_and_wait(platform)?;
        let features = transport.negotiate(|_| options.features & WANTED_FEATURES)?;
        let info = DiskInfo::read(transport)?;
        Ok((features, info))
    }

    /// The disk, with its present size.
    pub fn info(&self) -> DiskInfo {
        DiskInfo {
            capacity_sectors: self.capacity.load(Ordering::Relaxed),
            ..self.info
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

    /// To be called after a configuration interrupt.
    ///
    /// # Errors
    /// The configuration cannot be read or is no longer that of a disk; the size stays what it was.
    pub fn config_changed<P: Log>(&mut self, platform: &P) -> Result<ConfigChange, Error> {
        if self.transport.needs_reset() {
            return Ok(ConfigChange::NeedsReset);
        }
        let info = DiskInfo::read(&self.transport)?;
        if info.block_size != self.info.block_size {
            return Err(Error::BadConfig);
        }
        let before = self.capacity.swap(info.capacity_sectors, Ordering::Relaxed);
        if before == info.capacity_sectors {
            return Ok(ConfigChange::Nothing);
        }
        platform.log(Event {
            severity: Severity::Info,
            what: "The disk has a new size in sectors",
            value: info.capacity_sectors,
        });
        Ok(ConfigChange::Resized(info.capacity_sectors))
    }

    /// Whether the device caches writes, so that only a flush makes them durable (sec. 5.2.5).
    ///
    /// # Errors
    /// The configuration cannot be read.
    pub fn write_cache(&self) -> Result<bool, Error> {
        if !self.info.write_cache_switch {
            return Ok(self.info.flush);
        }
        let at = core::mem::offset_of!(block::Config, writeback);
        let [value] = self.transport.read_consistent(|t| t.read_field::<1>(at))?;
        Ok(value != 0)
    }

    /// Switches the device's write cache. With CONFIG_WCE only.
    ///
    /// # Errors
    /// The device has no such switch.
    pub fn set_write_cache(&self, on: bool) -> Result<(), Error> {
        if !self.info.write_cache_switch {
            return Err(Error::Transport(virtio_pci::Error::NotNegotiated));
        }
        self.transport.write_config_u8(
            core::mem::offset_of!(block::Config, writeback),
            u8::from(on),
        )?;
        Ok(())
    }

    pub(crate) fn queue_setup(
        &self,
        index: u16,
        size: u16,
        addresses: QueueAddresses,
    ) -> QueueSetup {
        QueueSetup {
            index,
            size,
            addresses,
            vector: self.vectors.queue(index),
        }
    }

    pub(crate) fn warn<P: Log>(&self, platform: &P, what: &'static str, value: u64) {
        platform.log(Event {
            severity: Severity::Warning,
            what,
            value,
        });
    }
}

struct QueuePlan {
    features: u64,
    info: DiskInfo,
    vectors: Vectors,
    options: Options,
}

/// Makes and enables all queues, then sets DRIVER_OK. On failure all memory is in `spill`.
fn start_queues<P, F>(
    platform: &P,
    transport: &Transport<F>,
    plan: &QueuePlan,
    capacity: &Arc<AtomicU64>,
    spill: &mut Vec<Coherent<RingMemory>>,
) -> Result<Vec<BlockQueue<P, F::Bar>>, Error>
where
    P: Dma<Span = RingMemory>,
    F: PciFunction,
{
    let count = plan
        .options
        .queues
        .min(plan.info.queues)
        .min(transport.queue_count())
        .max(1);
    let mut queues = Vec::with_capacity(usize::from(count));
    let all = (|| {
        transport.set_config_vector(plan.vectors.config())?;
        for index in 0..count {
            queues.push(start_queue(
                platform,
                transport,
                plan,
                index,
                (capacity, spill),
            )?);
        }
        transport.start()?;
        Ok(())
    })();
    match all {
        Ok(()) => Ok(queues),
        Err(error) => {
            for queue in queues {
                spill.extend(queue.into_memory().unwrap_or_default());
            }
            Err(error)
        }
    }
}

fn start_queue<P, F>(
    platform: &P,
    transport: &Transport<F>,
    plan: &QueuePlan,
    index: u16,
    (capacity, spill): (&Arc<AtomicU64>, &mut Vec<Coherent<RingMemory>>),
) -> Result<BlockQueue<P, F::Bar>, Error>
where
    P: Dma<Span = RingMemory>,
    F: PciFunction,
{
    let most = transport.queue_size_max(index)?;
    let mut size = plan.options.queue_size.min(most);
    if plan.features & virtio_spec::feature::RING_PACKED == 0 && size > 0 {
        size = 1 << size.ilog2();
    }
    if size < DESCRIPTORS_MIN {
        return Err(Error::NoQueue);
    }
    let config = QueueConfig::from_features(size, plan.features).map_err(Error::Layout)?;
    // No chain may be longer than the queue, indirect or not (sec. 2.7.5.3.1).
    let seg_max = plan
        .info
        .seg_max
        .min(u32::from(size - 2))
        .min(u32::from(plan.options.max_segments.max(1)));
    let seg_max = seg_max as usize;
    let memory = QueueMemory::allocate(platform, &config, seg_max + 2, spill)?;
    let setup = QueueSetup {
        index,
        size,
        addresses: memory.addresses(),
        vector: plan.vectors.queue(index),
    };
    let ring = DriverQueue::new(config, memory.rings());
    let (ring, doorbell) = match ring
        .map_err(ring_error)
        .and_then(|ring| Ok((ring, transport.enable_queue(&setup)?)))
    {
        Ok(both) => both,
        Err(error) => {
            spill.extend(memory.into_areas());
            return Err(error);
        }
    };
    let total_max = seg_max * usize::from(size).min(64);
    Ok(BlockQueue {
        index,
        ring,
        memory,
        doorbell,
        table: Table::new(size),
        info: plan.info,
        capacity: capacity.clone(),
        limits: Limits {
            size_max: plan.info.size_max,
            seg_max,
            block: plan.info.block_size,
            total_max,
        },
        segments: Segments::with_capacity(total_max.min(1024), 64),
        chain: Vec::with_capacity(seg_max + 2),
        broken: None,
        draining: false,
        counters: Counters::default(),
    })
}

fn ring_error(error: RingError) -> Error {
    match error {
        RingError::Config(error) => Error::Layout(error),
        other => Error::Ring(other),
    }
}

/// Bytes that a request of page-sized pieces may always have in one request to the device.
fn max_transfer(limits: &Limits) -> u64 {
    limits.seg_max as u64 * PAGE.min(u64::from(limits.size_max))
}
