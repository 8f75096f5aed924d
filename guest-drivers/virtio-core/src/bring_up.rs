//! From a function on the bus to a device that runs.
//!
//! Rule: the order of virtio 1.4 sec. 3.1.1; a device that fails on the way is reset or cut off before its memory is handed back. The
//! messages are held back until the device is live.
use alloc::vec::Vec;

use driver_platform::Clock;
use driver_platform::Coherent;
use driver_platform::Dma;
use driver_platform::Interrupts;
use driver_platform::Mmio;
use driver_platform::PciFunction;
use fallible_alloc::FallibleVec;
use virtio_pci::QueueSetup;
use virtio_pci::Transport;
use virtqueue::DriverQueue;
use virtqueue::QueueConfig;

use crate::device::Device;
use crate::error::Error;
use crate::memory::AREAS;
use crate::memory::Needs;
use crate::memory::QueueMemory;
use crate::proof::DeviceId;
use crate::proof::Life;
use crate::queue::Parts;
use crate::queue::SlotQueue;
use crate::queue::Tables;
use crate::vectors::Vectors;

/// A device that did not start.
#[derive(Debug)]
pub struct StartFailure {
    /// Why.
    pub error: Error,
    /// DMA memory that was allocated already; the device does not use it any more, and the shell may release it.
    pub memory: Vec<Coherent>,
}

/// What holds queues that were made, to get their memory back from when the device does not start.
pub trait QueueSet {
    /// Takes all queues apart and hands each area on.
    fn spill(self, into: &mut impl FnMut(Coherent));
}

impl<T, B: Mmio> QueueSet for SlotQueue<T, B> {
    fn spill(self, into: &mut impl FnMut(Coherent)) {
        self.into_areas().into_iter().for_each(into);
    }
}

impl<Q: QueueSet> QueueSet for Vec<Q> {
    fn spill(self, into: &mut impl FnMut(Coherent)) {
        self.into_iter().for_each(|queue| queue.spill(into));
    }
}

impl<Q: QueueSet> QueueSet for Option<Q> {
    fn spill(self, into: &mut impl FnMut(Coherent)) {
        self.into_iter().for_each(|queue| queue.spill(into));
    }
}

/// What a queue needs.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Which queue.
    pub index: u16,
    /// Entries, from [`Starting::queue_size`].
    pub size: u16,
    /// Most segments of a chain; cut to the size of the queue, which no chain may exceed (sec. 2.7.5.3.1).
    pub segments: usize,
    /// Most chains at once; cut to the size of the queue.
    pub slots: u16,
    /// Bytes of DMA memory of each slot.
    pub slot_size: usize,
}

/// A device between FEATURES_OK and DRIVER_OK, while its driver makes the queues.
#[derive(Debug)]
pub struct Starting<F: PciFunction> {
    transport: Transport<F>,
    vectors: Vectors,
    life: Life,
    /// Has room for all areas of all queues that were made.
    areas: Vec<Coherent>,
    queues: usize,
}

/// A device that runs.
#[derive(Debug)]
pub struct Up<F: PciFunction, Q, M> {
    /// The control half.
    pub device: Device<F>,
    /// The queues.
    pub queues: Q,
    /// What else the driver made.
    pub made: M,
}

/// Takes a function from the bus to DRIVER_OK. Waits for the reset; for start-up only. `negotiate` agrees on features and returns them;
/// `make` reads the configuration and makes the queues.
///
/// # Errors
/// Why the device cannot be used, with the memory to release.
pub fn bring_up<P, F, Q, M>(
    platform: &P,
    function: F,
    interrupts: &impl Interrupts,
    device_type: u32,
    negotiate: impl FnOnce(&mut Transport<F>) -> Result<u64, Error>,
    make: impl FnOnce(&mut Starting<F>, &mut Q) -> Result<M, Error>,
) -> Result<Up<F, Q, M>, StartFailure>
where
    P: Clock,
    F: PciFunction,
    Q: QueueSet + Default,
{
    let transport = Transport::probe(function).map_err(|error| StartFailure {
        error: error.into(),
        memory: Vec::new(),
    })?;
    let messages = interrupts.messages();
    (0..messages).for_each(|message| interrupts.mask(message));
    let mut starting = Starting {
        transport,
        vectors: Vectors::new(messages),
        life: Life {
            device: DeviceId::fresh(),
            epoch: 0,
        },
        areas: Vec::new(),
        queues: 0,
    };
    let mut queues = Q::default();
    let outcome = starting
        .agree(platform, device_type, negotiate)
        .and_then(|()| make(&mut starting, &mut queues))
        .and_then(|made| Ok((starting.transport.start()?, made)));
    match outcome {
        Ok(((), made)) => {
            (0..messages).for_each(|message| interrupts.unmask(message));
            Ok(Up {
                device: Device::new(starting.transport, starting.vectors, starting.life),
                queues,
                made,
            })
        }
        Err(error) => Err(starting.give_up(platform, error, queues)),
    }
}

impl<F: PciFunction> Starting<F> {
    /// The transport, to read the configuration.
    pub fn transport(&self) -> &Transport<F> {
        &self.transport
    }

    /// Entries that a queue can have, at most `wanted`.
    ///
    /// # Errors
    /// [`Error::NoQueue`] when that is none, or [`Error::Transport`] when the device has no such queue.
    pub fn queue_size(&self, index: u16, wanted: u16) -> Result<u16, Error> {
        let most = self.transport.queue_size_max(index)?;
        match wanted.min(most) {
            0 => Err(Error::NoQueue),
            size if self.transport.has(virtio_spec::feature::RING_PACKED) => Ok(size),
            size => Ok(1 << size.ilog2()),
        }
    }

    /// Makes and enables a queue.
    ///
    /// # Errors
    /// Memory is missing or the device does not take the queue; nothing is lost.
    pub fn queue<T, P: Dma>(
        &mut self,
        platform: &P,
        shape: &Shape,
    ) -> Result<SlotQueue<T, F::Bar>, Error> {
        let features = self.transport.features();
        let config = QueueConfig::from_features(shape.size, features).map_err(Error::Layout)?;
        let (slots, segments) = (
            shape.slots.min(config.size),
            shape.segments.min(config.size.into()),
        );
        let tables = Tables::new(config.size, slots, segments)?;
        let mut areas = Vec::with_room(AREAS)?;
        self.areas.make_room((self.queues + 1) * AREAS)?;
        let needs = Needs {
            slots,
            slot_size: shape.slot_size,
            table_entries: segments,
        };
        let memory = QueueMemory::allocate(platform, &config, &needs, &mut areas);
        let memory = memory.inspect_err(|_| self.keep(areas))?;
        let message = self.vectors.queue(shape.index);
        match self.enable(shape.index, message, config, &memory) {
            Ok((ring, doorbell)) => {
                self.queues += 1;
                let parts = Parts {
                    index: shape.index,
                    message,
                    ring,
                    memory,
                    doorbell,
                };
                Ok(SlotQueue::new(self.life, parts, tables))
            }
            Err(error) => {
                self.keep(memory.into_areas());
                Err(error)
            }
        }
    }

    fn enable(
        &self,
        index: u16,
        vector: Option<u16>,
        config: QueueConfig,
        memory: &QueueMemory,
    ) -> Result<(DriverQueue, virtio_pci::Doorbell<F::Bar>), Error> {
        let ring = DriverQueue::new(config, memory.rings())?;
        let setup = QueueSetup {
            index,
            size: config.size,
            addresses: memory.addresses(),
            vector,
        };
        Ok((ring, self.transport.enable_queue(&setup)?))
    }

    fn agree(
        &mut self,
        clock: &impl Clock,
        device_type: u32,
        negotiate: impl FnOnce(&mut Transport<F>) -> Result<u64, Error>,
    ) -> Result<(), Error> {
        if u32::from(self.transport.device_type()) != device_type {
            return Err(Error::OtherType);
        }
        self.transport.reset_and_wait(clock)?;
        negotiate(&mut self.transport)?;
        self.transport.set_config_vector(self.vectors.config())?;
        Ok(())
    }

    /// Remembers areas to give back; there is room, which [`Starting::queue`] made.
    fn keep(&mut self, areas: Vec<Coherent>) {
        for area in areas {
            let lost = self.areas.push_in_room(area).err();
            debug_assert!(lost.is_none(), "no room for an area");
        }
    }

    fn give_up(mut self, clock: &impl Clock, error: Error, queues: impl QueueSet) -> StartFailure {
        self.transport.fail();
        // Either the reset ends the device's use of the memory, or bus mastering is off afterwards.
        let _ = self.transport.reset_and_wait(clock);
        let mut memory = core::mem::take(&mut self.areas);
        queues.spill(&mut |area| {
            let lost = memory.push_in_room(area).err();
            debug_assert!(lost.is_none(), "no room for an area");
        });
        StartFailure { error, memory }
    }
}
