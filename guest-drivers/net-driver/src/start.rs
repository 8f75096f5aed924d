//! Starting the device: reset, features, configuration, queues, DRIVER_OK.
//!
//! Rule: the order of virtio 1.4 sec. 3.1.1; a device that fails on the way is reset or cut off before its memory is handed back.
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU16;

use driver_platform::BufferBytes;
use driver_platform::Clock;
use driver_platform::Coherent;
use driver_platform::Dma;
use driver_platform::Interrupts;
use driver_platform::Log;
use driver_platform::PciFunction;
use virtio_pci::Transport;
use virtio_spec::device_id;
use virtio_spec::net;
use virtio_spec::net::feature;
use virtqueue::DriverQueue;
use virtqueue::QueueConfig;
use virtqueue::RingMemory;

use crate::command::Limits;
use crate::config::NetInfo;
use crate::control;
use crate::control::ControlQueue;
use crate::core_queue::CoreQueue;
use crate::counters::ControlCounters;
use crate::counters::ReceiveCounters;
use crate::counters::TransmitCounters;
use crate::driver::NetDriver;
use crate::driver::Vectors;
use crate::error::Error;
use crate::memory::Needs;
use crate::memory::QueueMemory;
use crate::options::Options;
use crate::options::WANTED_FEATURES;
use crate::receive::ReceiveQueue;
use crate::transmit::TransmitQueue;

/// Bytes of a transmit slot: a header of any size.
const HEADER_SLOT: usize = 32;

/// A device that did not start.
#[derive(Debug)]
pub struct StartFailure {
    /// Why.
    pub error: Error,
    /// DMA memory that was allocated already; the device does not use it any more, and the shell may release it.
    pub memory: Vec<Coherent<RingMemory>>,
}

/// A device that runs. Receive buffers are the shell's to post.
pub struct Started<P: Dma<Span = RingMemory>, F: PciFunction> {
    /// The control half.
    pub driver: NetDriver<F>,
    /// Receive queues, by pair.
    pub receive: Vec<ReceiveQueue<P, F::Bar>>,
    /// Transmit queues, by pair; those after the first take frames once [`crate::Command::Pairs`] or [`crate::Command::Rss`] allowed
    /// it.
    pub transmit: Vec<TransmitQueue<P, F::Bar>>,
    /// The control queue, if the device has one.
    pub control: Option<ControlQueue<F::Bar>>,
}

impl<F: PciFunction> NetDriver<F> {
    /// Starts a device. Waits for the reset; for start-up only.
    ///
    /// # Errors
    /// Why the device cannot be used, with the memory to release.
    pub fn start<P>(
        platform: &P,
        function: F,
        interrupts: &impl Interrupts,
        options: Options,
    ) -> Result<Started<P, F>, StartFailure>
    where
        P: BufferBytes<Span = RingMemory> + Clock + Log,
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
        let wanted = options.features & WANTED_FEATURES;
        let outcome = prepare(platform, &mut transport, wanted).and_then(|(features, info)| {
            let pairs = pairs(&transport, &options, &info, features)?;
            let plan = Plan {
                features,
                info,
                pairs,
                vectors,
                options,
                active: Arc::new(AtomicU16::new(1)),
            };
            let queues = start_queues(platform, &transport, &plan, &mut memory)?;
            Ok((plan, queues))
        });
        match outcome {
            Ok((plan, queues)) => Ok(Started {
                driver: Self {
                    transport,
                    wanted,
                    features: plan.features,
                    info: plan.info,
                    pairs: plan.pairs,
                    active: plan.active,
                    vectors,
                    reset_started_us: 0,
                },
                receive: queues.receive,
                transmit: queues.transmit,
                control: queues.control,
            }),
            Err(error) => {
                transport.fail();
                // Either the reset ends the device's use of the memory, or bus mastering is off afterwards.
                let _ = transport.reset_and_wait(platform);
                Err(StartFailure { error, memory })
            }
        }
    }
}

fn prepare<P: Clock, F: PciFunction>(
    platform: &P,
    transport: &mut Transport<F>,
    wanted: u64,
) -> Result<(u64, NetInfo), Error> {
    if u32::from(transport.device_type()) != device_id::NET {
        return Err(Error::NotNet);
    }
    transport.reset_and_wait(platform)?;
    let features = negotiate(transport, wanted)?;
    let info = NetInfo::read(transport)?;
    Ok((features, info))
}

/// Agrees on features none of which lacks what it builds on, even when the device offers such.
pub(crate) fn negotiate<F: PciFunction>(
    transport: &mut Transport<F>,
    wanted: u64,
) -> Result<u64, Error> {
    Ok(transport.negotiate(|offered| feature::consistent(offered & wanted))?)
}

/// Pairs to set up, given how many queues there are.
fn pairs<F: PciFunction>(
    transport: &Transport<F>,
    options: &Options,
    info: &NetInfo,
    features: u64,
) -> Result<u16, Error> {
    let count = transport.queue_count();
    let has_control = features & feature::CTRL_VQ != 0;
    // The control queue comes after all pairs that the device has, used or not. 65536 pairs' queues do not fit its index.
    let last = u32::from(info.pairs_max) * 2;
    if has_control && u32::from(count) <= last || count < 2 {
        return Err(Error::NoQueue);
    }
    Ok(options.pairs.min(info.pairs_max).min(count / 2).max(1))
}

struct Plan {
    features: u64,
    info: NetInfo,
    pairs: u16,
    vectors: Vectors,
    options: Options,
    active: Arc<AtomicU16>,
}

struct AllQueues<P: Dma<Span = RingMemory>, B> {
    receive: Vec<ReceiveQueue<P, B>>,
    transmit: Vec<TransmitQueue<P, B>>,
    control: Option<ControlQueue<B>>,
}

/// Makes and enables all queues, then sets DRIVER_OK. On failure all memory is in `spill`.
fn start_queues<P, F>(
    platform: &P,
    transport: &Transport<F>,
    plan: &Plan,
    spill: &mut Vec<Coherent<RingMemory>>,
) -> Result<AllQueues<P, F::Bar>, Error>
where
    P: BufferBytes<Span = RingMemory>,
    F: PciFunction,
{
    let mut queues = AllQueues {
        receive: Vec::with_capacity(usize::from(plan.pairs)),
        transmit: Vec::with_capacity(usize::from(plan.pairs)),
        control: None,
    };
    let all = (|| {
        transport.set_config_vector(plan.vectors.config())?;
        for pair in 0..plan.pairs {
            queues
                .receive
                .push(start_receive(platform, transport, plan, pair, spill)?);
            queues
                .transmit
                .push(start_transmit(platform, transport, plan, pair, spill)?);
        }
        if plan.features & feature::CTRL_VQ != 0 {
            queues.control = Some(start_control(platform, transport, plan, spill)?);
        }
        transport.start()?;
        Ok(())
    })();
    if let Err(error) = all {
        let receive = queues.receive.into_iter();
        spill.extend(receive.filter_map(ReceiveQueue::into_memory).flatten());
        let transmit = queues.transmit.into_iter();
        spill.extend(transmit.filter_map(TransmitQueue::into_memory).flatten());
        let control = queues.control.into_iter();
        spill.extend(control.filter_map(ControlQueue::into_memory).flatten());
        return Err(error);
    }
    Ok(queues)
}

fn start_receive<P, F>(
    platform: &P,
    transport: &Transport<F>,
    plan: &Plan,
    pair: u16,
    spill: &mut Vec<Coherent<RingMemory>>,
) -> Result<ReceiveQueue<P, F::Bar>, Error>
where
    P: BufferBytes<Span = RingMemory>,
    F: PciFunction,
{
    let shape = Shape {
        index: net::receive_queue(pair),
        size: plan.options.receive_size,
        segments: usize::from(plan.options.receive_segments.max(1)),
        slot_size: 0,
        least: 1,
    };
    let core = start_core(platform, transport, plan, &shape, spill)?;
    Ok(ReceiveQueue {
        features: plan.features,
        header_size: plan.info.header_size,
        mergeable: plan.info.mergeable,
        buffer_min: plan.info.buffer_min,
        parts: Vec::with_capacity(usize::from(core.size())),
        counters: ReceiveCounters::default(),
        core,
    })
}

fn start_transmit<P, F>(
    platform: &P,
    transport: &Transport<F>,
    plan: &Plan,
    pair: u16,
    spill: &mut Vec<Coherent<RingMemory>>,
) -> Result<TransmitQueue<P, F::Bar>, Error>
where
    P: BufferBytes<Span = RingMemory>,
    F: PciFunction,
{
    let shape = Shape {
        index: net::transmit_queue(pair),
        size: plan.options.transmit_size,
        segments: usize::from(plan.options.transmit_segments.max(1)) + 1,
        slot_size: HEADER_SLOT,
        least: 2,
    };
    let core = start_core(platform, transport, plan, &shape, spill)?;
    Ok(TransmitQueue {
        features: plan.features,
        mtu: plan.info.mtu,
        header_size: plan.info.header_size,
        active: plan.active.clone(),
        counters: TransmitCounters::default(),
        core,
    })
}

fn start_control<P, F>(
    platform: &P,
    transport: &Transport<F>,
    plan: &Plan,
    spill: &mut Vec<Coherent<RingMemory>>,
) -> Result<ControlQueue<F::Bar>, Error>
where
    P: Dma<Span = RingMemory>,
    F: PciFunction,
{
    let shape = Shape {
        index: net::control_queue(plan.info.pairs_max),
        size: control::SLOTS * 2,
        segments: 2,
        slot_size: control::SLOT,
        least: 2,
    };
    let core = start_core(platform, transport, plan, &shape, spill)?;
    Ok(ControlQueue {
        limits: Limits {
            features: plan.features,
            info: plan.info,
            pairs: plan.pairs,
        },
        active: plan.active.clone(),
        counters: ControlCounters::default(),
        core,
    })
}

/// What a kind of queue needs.
struct Shape {
    index: u16,
    size: u16,
    /// Most segments of a chain.
    segments: usize,
    slot_size: usize,
    /// Descriptors without which the queue is of no use.
    least: u16,
}

fn start_core<P, F, T>(
    platform: &P,
    transport: &Transport<F>,
    plan: &Plan,
    shape: &Shape,
    spill: &mut Vec<Coherent<RingMemory>>,
) -> Result<CoreQueue<T, F::Bar>, Error>
where
    P: Dma<Span = RingMemory>,
    F: PciFunction,
{
    let most = transport.queue_size_max(shape.index)?;
    let mut size = shape.size.min(most);
    if plan.features & virtio_spec::feature::RING_PACKED == 0 && size > 0 {
        size = 1 << size.ilog2();
    }
    if size < shape.least {
        return Err(Error::NoQueue);
    }
    let config = QueueConfig::from_features(size, plan.features).map_err(Error::Layout)?;
    // No chain may be longer than the queue, indirect or not (sec. 2.7.5.3.1).
    let segments = shape.segments.min(usize::from(size));
    let needs = Needs {
        slots: usize::from(size),
        slot_size: shape.slot_size,
        table_entries: segments,
    };
    let memory = QueueMemory::allocate(platform, &config, &needs, spill)?;
    let setup = plan.vectors.setup(shape.index, size, memory.addresses());
    let ring = DriverQueue::new(config, memory.rings()).map_err(Error::from);
    match ring.and_then(|ring| Ok((ring, transport.enable_queue(&setup)?))) {
        Ok((ring, doorbell)) => Ok(CoreQueue::new(
            shape.index,
            ring,
            memory,
            doorbell,
            segments,
        )),
        Err(error) => {
            spill.extend(memory.into_areas());
            Err(error)
        }
    }
}
