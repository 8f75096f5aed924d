//! Starting the device: which queues it has, and what each needs.
//!
//! Rule: the order of virtio 1.4 sec. 3.1.1 is kept by [`virtio_core::bring_up`].
use alloc::vec::Vec;
use core::sync::atomic::AtomicU16;

use driver_platform::BufferBytes;
use driver_platform::Clock;
use driver_platform::Coherent;
use driver_platform::Dma;
use driver_platform::Interrupts;
use driver_platform::Log;
use driver_platform::Mmio;
use driver_platform::PciFunction;
use fallible_alloc::FallibleVec;
use fallible_alloc::Shared;
use virtio_core::Error;
use virtio_core::QueueSet;
use virtio_core::Shape;
use virtio_core::SlotQueue;
use virtio_core::StartFailure;
use virtio_core::Starting;
use virtio_pci::Transport;
use virtio_spec::device_id;
use virtio_spec::net;
use virtio_spec::net::feature;

use crate::command::Limits;
use crate::config::NetInfo;
use crate::control;
use crate::control::ControlQueue;
use crate::counters::ControlCounters;
use crate::counters::ReceiveCounters;
use crate::counters::TransmitCounters;
use crate::driver::NetDriver;
use crate::options::Options;
use crate::options::WANTED_FEATURES;
use crate::receive::ReceiveQueue;
use crate::transmit::TransmitQueue;

/// Bytes of a transmit slot: a header of any size.
const HEADER_SLOT: usize = 32;

/// A device that runs. Receive buffers are the shell's to post.
pub struct Started<P: Dma, F: PciFunction> {
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
        P: BufferBytes + Clock + Log,
    {
        let wanted = options.features & WANTED_FEATURES;
        let up = virtio_core::bring_up(
            platform,
            function,
            interrupts,
            device_id::NET,
            |transport| negotiate(transport, wanted),
            |starting, queues| make_queues(platform, starting, &options, queues),
        )?;
        let (queues, plan): (AllQueues<P, F::Bar>, Plan) = (up.queues, up.made);
        Ok(Started {
            driver: Self {
                device: up.device,
                wanted,
                info: plan.info,
                pairs: plan.pairs,
                active: plan.active,
            },
            receive: queues.receive,
            transmit: queues.transmit,
            control: queues.control,
        })
    }
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
) -> Result<u16, Error> {
    let count = transport.queue_count();
    // The control queue comes after all pairs that the device has, used or not. 65536 pairs' queues do not fit its index.
    let last = u32::from(info.pairs_max) * 2;
    if transport.has(feature::CTRL_VQ) && u32::from(count) <= last || count < 2 {
        return Err(Error::NoQueue);
    }
    Ok(options.pairs.min(info.pairs_max).min(count / 2).max(1))
}

struct Plan {
    features: u64,
    info: NetInfo,
    pairs: u16,
    options: Options,
    active: Shared<AtomicU16>,
}

struct AllQueues<P: Dma, B> {
    receive: Vec<ReceiveQueue<P, B>>,
    transmit: Vec<TransmitQueue<P, B>>,
    control: Option<ControlQueue<B>>,
}

impl<P: Dma, B> Default for AllQueues<P, B> {
    fn default() -> Self {
        Self {
            receive: Vec::new(),
            transmit: Vec::new(),
            control: None,
        }
    }
}

impl<P: Dma, B: Mmio> QueueSet for AllQueues<P, B> {
    fn spill(self, into: &mut impl FnMut(Coherent)) {
        self.receive.spill(into);
        self.transmit.spill(into);
        self.control.spill(into);
    }
}

/// Makes all queues; also reads the configuration.
fn make_queues<P, F>(
    platform: &P,
    starting: &mut Starting<F>,
    options: &Options,
    queues: &mut AllQueues<P, F::Bar>,
) -> Result<Plan, Error>
where
    P: BufferBytes,
    F: PciFunction,
{
    let info = NetInfo::read(starting.transport())?;
    let plan = Plan {
        features: starting.transport().features(),
        info,
        pairs: pairs(starting.transport(), options, &info)?,
        options: *options,
        active: Shared::new(AtomicU16::new(1))?,
    };
    queues.receive.make_room(plan.pairs.into())?;
    queues.transmit.make_room(plan.pairs.into())?;
    for pair in 0..plan.pairs {
        let receive = make_receive(platform, starting, &plan, pair)?;
        queues.receive.push_growing(receive)?;
        let transmit = make_transmit(platform, starting, &plan, pair)?;
        queues.transmit.push_growing(transmit)?;
    }
    if plan.features & feature::CTRL_VQ != 0 {
        queues.control = Some(make_control(platform, starting, &plan)?);
    }
    Ok(plan)
}

fn make_receive<P, F>(
    platform: &P,
    starting: &mut Starting<F>,
    plan: &Plan,
    pair: u16,
) -> Result<ReceiveQueue<P, F::Bar>, Error>
where
    P: BufferBytes,
    F: PciFunction,
{
    let index = net::receive_queue(pair);
    let size = starting.queue_size(index, plan.options.receive_size)?;
    let shape = Shape {
        index,
        size,
        segments: usize::from(plan.options.receive_segments.max(1)),
        slots: size,
        slot_size: 0,
    };
    let parts = Vec::with_room(size.into())?;
    Ok(ReceiveQueue {
        features: plan.features,
        header_size: plan.info.header_size,
        mergeable: plan.info.mergeable,
        buffer_min: plan.info.buffer_min,
        parts,
        counters: ReceiveCounters::default(),
        core: starting.queue(platform, &shape)?,
    })
}

fn make_transmit<P, F>(
    platform: &P,
    starting: &mut Starting<F>,
    plan: &Plan,
    pair: u16,
) -> Result<TransmitQueue<P, F::Bar>, Error>
where
    P: BufferBytes,
    F: PciFunction,
{
    let wanted = Shape {
        index: net::transmit_queue(pair),
        size: plan.options.transmit_size,
        segments: usize::from(plan.options.transmit_segments.max(1)) + 1,
        slots: plan.options.transmit_size,
        slot_size: HEADER_SLOT,
    };
    Ok(TransmitQueue {
        features: plan.features,
        mtu: plan.info.mtu,
        header_size: plan.info.header_size,
        active: plan.active.clone(),
        counters: TransmitCounters::default(),
        core: two_part_queue(platform, starting, wanted)?,
    })
}

fn make_control<P, F>(
    platform: &P,
    starting: &mut Starting<F>,
    plan: &Plan,
) -> Result<ControlQueue<F::Bar>, Error>
where
    P: Dma,
    F: PciFunction,
{
    let wanted = Shape {
        index: net::control_queue(plan.info.pairs_max),
        size: control::SLOTS * 2,
        segments: 2,
        slots: control::SLOTS,
        slot_size: control::SLOT,
    };
    Ok(ControlQueue {
        limits: Limits {
            features: plan.features,
            info: plan.info,
            pairs: plan.pairs,
        },
        active: plan.active.clone(),
        counters: ControlCounters::default(),
        core: two_part_queue(platform, starting, wanted)?,
    })
}

/// A queue whose chains have at least two segments, one of them in the slot. The size in the shape is what is wanted.
fn two_part_queue<P: Dma, F: PciFunction, T>(
    platform: &P,
    starting: &mut Starting<F>,
    wanted: Shape,
) -> Result<SlotQueue<T, F::Bar>, Error> {
    let size = starting.queue_size(wanted.index, wanted.size)?;
    if size < 2 {
        return Err(Error::NoQueue);
    }
    starting.queue(platform, &Shape { size, ..wanted })
}
