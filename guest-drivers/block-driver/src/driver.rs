//! The disk as a whole: start, configuration changes, cache mode, reset.
//!
//! Rule: what [`virtio_core`] does for every device is done there; here stands what makes a disk of it.
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

use driver_platform::Clock;
use driver_platform::Dma;
use driver_platform::Event;
use driver_platform::Interrupts;
use driver_platform::Log;
use driver_platform::PciFunction;
use driver_platform::Severity;
use fallible_alloc::FallibleVec;
use fallible_alloc::Shared;
use virtio_core::Device;
use virtio_core::Enabling;
use virtio_core::Error;
use virtio_core::Quiesced;
use virtio_core::ResetProgress;
use virtio_core::Shape;
use virtio_core::StartFailure;
use virtio_core::Starting;
use virtio_pci::Transport;
use virtio_spec::block;
use virtio_spec::device_id;

use crate::config::DiskInfo;
use crate::counters::Counters;
use crate::layout;
use crate::options::Options;
use crate::options::WANTED_FEATURES;
use crate::pending::Requests;
use crate::queue::BlockQueue;
use crate::segments::Limits;
use crate::segments::Segments;

/// Header, one data segment, status.
const DESCRIPTORS_MIN: u16 = 3;
/// Page size that [`DiskInfo::max_transfer`] assumes for the pieces of a buffer.
const PAGE: u64 = 4096;
/// Most requests to the device, each as long as it can be, that one request of the shell may become.
const CUTS_MAX: u16 = 64;

/// The control half of a disk; requests go to its queues.
#[derive(Debug)]
pub struct BlockDriver<F: PciFunction> {
    device: Device<F>,
    wanted: u64,
    info: DiskInfo,
    capacity: Shared<AtomicU64>,
    segments_used: u32,
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
        P: Dma + Clock + Log,
    {
        let wanted = options.features & WANTED_FEATURES;
        let up = virtio_core::bring_up(
            platform,
            function,
            interrupts,
            device_id::BLOCK,
            |transport| Ok(transport.negotiate(|_| wanted)?),
            |starting, queues| make_queues(platform, starting, &options, queues),
        )?;
        let (mut info, capacity) = up.made;
        let queues: Vec<BlockQueue<P, F::Bar>> = up.queues;
        let limits = queues.first().map(|queue| queue.limits);
        info.max_transfer = limits.map_or(PAGE, |limits| max_transfer(&limits));
        let used = limits.map_or(1, |limits| limits.seg_max);
        let driver = Self {
            device: up.device,
            wanted,
            info,
            capacity,
            segments_used: u32::try_from(used).unwrap_or(u32::MAX),
        };
        Ok((driver, queues))
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
        self.device.features()
    }

    /// The transport, for diagnosis.
    pub fn transport(&self) -> &Transport<F> {
        self.device.transport()
    }

    /// To be called after a configuration interrupt.
    ///
    /// # Errors
    /// The configuration cannot be read or is no longer that of a disk; the size stays what it was.
    pub fn config_changed<P: Log>(&mut self, platform: &P) -> Result<ConfigChange, Error> {
        if self.device.transport().needs_reset() {
            return Ok(ConfigChange::NeedsReset);
        }
        let info = DiskInfo::read(self.device.transport())?;
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
        let [value] = self
            .device
            .transport()
            .read_consistent(|t| t.read_field::<1>(at))?;
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
        self.device.transport().write_config_u8(
            core::mem::offset_of!(block::Config, writeback),
            u8::from(on),
        )?;
        Ok(())
    }

    /// Starts a reset of the whole device. From now on nothing must be submitted; completions may still be polled.
    pub fn begin_reset<P: Clock + Log>(&mut self, platform: &P) {
        self.device.begin_reset(platform);
    }

    /// Starts the last reset before the driver is taken apart. [`BlockDriver::poll_reset`] and
    /// [`BlockQueue::take_outstanding`] follow as after any reset.
    pub fn begin_stop<P: Clock>(&mut self, platform: &P) {
        self.device.begin_stop(platform);
    }

    /// Whether the reset is done. Never blocks; gives up after [`virtio_pci::RESET_TIMEOUT_US`]. Without a reset that was begun it stays
    /// [`ResetProgress::Pending`].
    pub fn poll_reset<P: Clock + Log>(&mut self, platform: &P) -> ResetProgress {
        self.device.poll_reset(platform)
    }

    /// Starts the device again after a reset, with the same queues, all of them empty.
    ///
    /// # Errors
    /// [`Error::NotQuiesced`] when the proof is not of this disk and its latest reset; then nothing was done. [`Error::Changed`] when the
    /// device came back with other features or smaller queues; otherwise as [`BlockDriver::start`]. The device is marked FAILED then.
    pub fn restart<P: Dma + Clock + Log>(
        &mut self,
        platform: &P,
        proof: Quiesced,
        queues: &mut [&mut BlockQueue<P, F::Bar>],
    ) -> Result<(), Error> {
        let (wanted, before, used) = (self.wanted, self.info, self.segments_used);
        let mut info = before;
        self.device.restart(
            platform,
            proof,
            |transport| Ok(transport.negotiate(|_| wanted)?),
            |enabling| {
                info = read_again(enabling, &before, used)?;
                let capacity = info.capacity_sectors;
                self.capacity.store(capacity, Ordering::Relaxed);
                for queue in queues {
                    enabling.enable(&mut queue.core)?;
                    (queue.info, queue.draining) = (info, false);
                }
                Ok(())
            },
        )?;
        self.info = info;
        Ok(())
    }

    /// Starts the reset of one queue, if the device can do that (RING_RESET). The queue takes nothing more.
    ///
    /// # Errors
    /// [`Error::Transport`] when it cannot: reset the whole device then. [`Error::NotQuiesced`] for a queue of another disk.
    pub fn begin_queue_reset<P: Dma + Log>(
        &mut self,
        platform: &P,
        queue: &mut BlockQueue<P, F::Bar>,
    ) -> Result<(), Error> {
        self.device.begin_queue_reset(platform, &mut queue.core)
    }

    /// Whether the reset of one queue is done. It does not give up: when it takes too long the shell resets the device.
    pub fn poll_queue_reset<P: Dma>(&self, queue: &BlockQueue<P, F::Bar>) -> ResetProgress {
        self.device.poll_queue_reset(&queue.core)
    }

    /// Starts one queue again after its reset, when it is empty.
    ///
    /// # Errors
    /// [`Error::NotQuiesced`] when the proof is not of this queue's reset, [`Error::Outstanding`]; otherwise as [`BlockDriver::start`].
    pub fn restart_queue<P: Dma>(
        &mut self,
        proof: Quiesced,
        queue: &mut BlockQueue<P, F::Bar>,
    ) -> Result<(), Error> {
        self.device.restart_queue(proof, &mut queue.core)?;
        (queue.info, queue.draining) = (self.info, false);
        Ok(())
    }
}

/// The configuration after a reset, if it is that of the same disk.
fn read_again<F: PciFunction>(
    enabling: &Enabling<'_, F>,
    before: &DiskInfo,
    segments_used: u32,
) -> Result<DiskInfo, Error> {
    let mut info = DiskInfo::read(enabling.transport())?;
    info.max_transfer = before.max_transfer;
    if info.block_size != before.block_size || info.seg_max < before.seg_max.min(segments_used) {
        return Err(Error::Changed);
    }
    Ok(info)
}

/// Makes all queues; also reads the configuration, and makes what the queues share.
fn make_queues<P, F>(
    platform: &P,
    starting: &mut Starting<F>,
    options: &Options,
    queues: &mut Vec<BlockQueue<P, F::Bar>>,
) -> Result<(DiskInfo, Shared<AtomicU64>), Error>
where
    P: Dma,
    F: PciFunction,
{
    let info = DiskInfo::read(starting.transport())?;
    let capacity = Shared::new(AtomicU64::new(info.capacity_sectors))?;
    let most = info.queues.min(starting.transport().queue_count());
    let count = options.queues.min(most).max(1);
    queues.make_room(count.into())?;
    for index in 0..count {
        let queue = make_queue(platform, starting, options, (index, &info, &capacity))?;
        queues.push_growing(queue)?;
    }
    Ok((info, capacity))
}

fn make_queue<P, F>(
    platform: &P,
    starting: &mut Starting<F>,
    options: &Options,
    (index, info, capacity): (u16, &DiskInfo, &Shared<AtomicU64>),
) -> Result<BlockQueue<P, F::Bar>, Error>
where
    P: Dma,
    F: PciFunction,
{
    let size = starting.queue_size(index, options.queue_size)?;
    if size < DESCRIPTORS_MIN {
        return Err(Error::NoQueue);
    }
    // No chain may be longer than the queue, indirect or not (sec. 2.7.5.3.1).
    let most = options.max_segments.max(1).min(size - 2);
    let seg_max = info.seg_max.min(most.into()) as usize;
    let limits = Limits {
        size_max: info.size_max,
        seg_max,
        block: info.block_size,
        total_max: seg_max * usize::from(size.min(CUTS_MAX)),
    };
    // What is on the heap comes first: a queue that was made is not lost any more.
    let requests = Requests::new(size)?;
    let segments = Segments::new(limits.total_max, size.into())?;
    let shape = Shape {
        index,
        size,
        segments: seg_max + 2,
        slots: size,
        slot_size: layout::SLOT,
    };
    Ok(BlockQueue {
        core: starting.queue(platform, &shape)?,
        requests,
        info: *info,
        capacity: capacity.clone(),
        limits,
        segments,
        draining: false,
        counters: Counters::default(),
    })
}

/// Bytes that a request of page-sized pieces may always have in one request to the device.
fn max_transfer(limits: &Limits) -> u64 {
    limits.seg_max as u64 * PAGE.min(u64::from(limits.size_max))
}
