//! One queue: chains out, chains back.
//!
//! Rule: one owner at a time, no lock inside, no allocation per chain. The device names chains by id; an id leads to a slot and an item
//! only through a private table. A queue that met a broken ring does nothing more until it is reset.
use alloc::vec::Vec;

use driver_platform::Coherent;
use driver_platform::Mmio;
use fallible_alloc::FallibleVec;
use fallible_alloc::OutOfMemory;
use virtio_pci::Doorbell;
use virtio_pci::QueueAddresses;
use virtqueue::DriverQueue;
use virtqueue::QueueConfig;

use crate::chain::Chain;
use crate::error::Error;
use crate::error::Refusal;
use crate::memory::QueueMemory;
use crate::proof::Life;
use crate::proof::Stopped;
use crate::slot::FreeSlots;
use crate::slot::Slot;

/// Longest chain that goes straight onto a ring that has room, which saves the device a look at another cache line.
const DIRECT_MAX: usize = 4;

/// Where the descriptors of a chain of several segments go, when indirect tables were negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// A short chain goes onto the ring itself while that is half empty.
    RingWhileRoomy,
    /// Into the slot's table: one descriptor of the ring, as was reserved.
    Table,
}

/// A chain that came back. The slot is the caller's to read and then to [`SlotQueue::release`].
#[derive(Debug)]
pub struct Returned<T> {
    /// Its slot.
    pub slot: Slot,
    /// What was added with it.
    pub item: T,
    /// Bytes that the device says it wrote, at most the writable ones of the chain.
    pub written: u32,
}

/// The heap's part of a queue, allocated before its DMA memory.
#[derive(Debug)]
pub(crate) struct Tables<T> {
    chain: Chain,
    free: FreeSlots,
    in_flight: Vec<Option<(Slot, T)>>,
}

impl<T> Tables<T> {
    /// For `size` entries, and chains of up to `segments`.
    pub(crate) fn new(size: u16, slots: u16, segments: usize) -> Result<Self, OutOfMemory> {
        Ok(Self {
            chain: Chain::new(segments)?,
            free: FreeSlots::new(slots)?,
            in_flight: Vec::filled(size.into(), |_| None)?,
        })
    }
}

/// A queue; `T` is what is out with a chain.
#[derive(Debug)]
pub struct SlotQueue<T, B> {
    life: Life,
    index: u16,
    message: Option<u16>,
    ring: DriverQueue,
    memory: QueueMemory,
    doorbell: Doorbell<B>,
    chain: Chain,
    free: FreeSlots,
    /// By ring id: what is out with the chain of this id.
    in_flight: Vec<Option<(Slot, T)>>,
    /// Ids below this were abandoned.
    abandoned: usize,
    broken: Option<Error>,
    resetting: bool,
}

/// What the device and the platform gave for a queue.
pub(crate) struct Parts<B> {
    pub(crate) index: u16,
    pub(crate) message: Option<u16>,
    pub(crate) ring: DriverQueue,
    pub(crate) memory: QueueMemory,
    pub(crate) doorbell: Doorbell<B>,
}

impl<T, B: Mmio> SlotQueue<T, B> {
    pub(crate) fn new(life: Life, parts: Parts<B>, tables: Tables<T>) -> Self {
        Self {
            life,
            index: parts.index,
            message: parts.message,
            ring: parts.ring,
            memory: parts.memory,
            doorbell: parts.doorbell,
            chain: tables.chain,
            free: tables.free,
            in_flight: tables.in_flight,
            abandoned: 0,
            broken: None,
            resetting: false,
        }
    }

    /// The queue's number on the device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The MSI-X message that it raises, for the shell to route.
    pub fn message(&self) -> Option<u16> {
        self.message
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        self.ring.config().size
    }

    /// Its DMA memory.
    #[inline]
    pub fn memory(&self) -> &QueueMemory {
        &self.memory
    }

    /// The chain that is being put together.
    #[inline]
    pub fn chain(&mut self) -> &mut Chain {
        &mut self.chain
    }

    /// Takes a slot for the next chain. It goes back by [`SlotQueue::add`] and the chain's return, or by [`SlotQueue::release`].
    ///
    /// # Errors
    /// [`Refusal::Broken`], or [`Refusal::Busy`] when no slot or no descriptor is free.
    #[inline]
    pub fn claim(&mut self) -> Result<Slot, Refusal> {
        if self.broken.is_some() {
            return Err(Refusal::Broken);
        }
        if self.ring.free_descriptors() == 0 {
            return Err(Refusal::Busy);
        }
        self.free.claim().ok_or(Refusal::Busy)
    }

    /// Gives a slot of this queue back.
    #[inline]
    pub fn release(&mut self, slot: Slot) {
        self.free.release(slot);
    }

    /// Whether `chains` chains that take `descriptors` descriptors of the ring can be added now.
    ///
    /// # Errors
    /// As [`SlotQueue::claim`].
    #[inline]
    pub fn has_room(&self, chains: usize, descriptors: usize) -> Result<(), Refusal> {
        if self.broken.is_some() {
            return Err(Refusal::Broken);
        }
        let free = usize::from(self.ring.free_descriptors());
        if self.free.len() < chains || free < descriptors {
            return Err(Refusal::Busy);
        }
        Ok(())
    }

    /// Ring descriptors that a chain of so many segments takes at most.
    #[inline]
    pub fn descriptors_for(&self, segments: usize) -> usize {
        if self.ring.config().indirect {
            1
        } else {
            segments
        }
    }

    /// Whether the chain has `bytes` bytes and the ring has room for it.
    ///
    /// # Errors
    /// Why it cannot be added.
    #[inline]
    pub fn fits(&self, bytes: u64) -> Result<(), Refusal> {
        let segments = self.chain.len();
        if self.chain.overflows() || segments > usize::from(self.size()) {
            return Err(Refusal::TooLarge);
        }
        if self.chain.bytes() != bytes || segments == 0 {
            return Err(Refusal::BadBuffer);
        }
        if usize::from(self.ring.free_descriptors()) < self.descriptors_for(segments) {
            return Err(Refusal::Busy);
        }
        Ok(())
    }

    /// Puts the chain on the ring, its first `readable` segments for the device to read; the device sees it after
    /// [`SlotQueue::publish`].
    ///
    /// # Errors
    /// The item comes back. There was room, so a failure means that the ring's rules are broken, and the queue is broken.
    #[inline]
    pub fn add(
        &mut self,
        slot: Slot,
        readable: usize,
        placement: Placement,
        item: T,
    ) -> Result<(), T> {
        let segments = self.chain.len();
        let free = usize::from(self.ring.free_descriptors());
        let roomy = placement == Placement::RingWhileRoomy
            && segments <= DIRECT_MAX
            && free >= usize::from(self.size()) / 2
            && free >= segments;
        let table = if segments == 1 || roomy {
            None
        } else {
            self.memory.table(&slot, segments)
        };
        let parts = self.chain.segments().split_at_checked(readable);
        let id = match parts {
            Some((read, write)) if !self.chain.overflows() => self.ring.add(read, write, table),
            _ => Err(virtqueue::AddError::TooLong),
        };
        let place = id
            .ok()
            .and_then(|id| self.in_flight.get_mut(usize::from(id)));
        match place {
            Some(place) if place.is_none() => {
                *place = Some((slot, item));
                Ok(())
            }
            _ => {
                self.free.release(slot);
                self.mark_broken(Error::Broken);
                Err(item)
            }
        }
    }

    /// Shows the device everything added since the last call, in one step; `true` when it wanted the doorbell, which was rung.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.broken.is_some() || !self.ring.publish() {
            return false;
        }
        let data = self.ring.notification_data(self.index);
        self.doorbell.ring((data >> 16) as u16);
        true
    }

    /// The next chain that came back.
    ///
    /// # Errors
    /// The device broke the rules of the ring: nothing more comes from this queue until it or the device was reset. Every call says so
    /// again.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Returned<T>>, Error> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let used = match self.ring.pop() {
            Ok(Some(used)) => used,
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.mark_broken(error.into())),
        };
        let place = self.in_flight.get_mut(usize::from(used.id));
        match place.and_then(Option::take) {
            Some((slot, item)) => Ok(Some(Returned {
                slot,
                item,
                written: used.written,
            })),
            None => Err(self.mark_broken(Error::Broken)),
        }
    }

    /// Whether a proof holds for this queue as it is enabled now.
    ///
    /// # Errors
    /// [`Error::NotQuiesced`].
    pub fn check(&self, proof: &Stopped) -> Result<(), Error> {
        match proof.covers(self.life, self.index) {
            true => Ok(()),
            false => Err(Error::NotQuiesced),
        }
    }

    /// After a reset: anything that is still out, its slot given back; when there is nothing the ring is made new.
    ///
    /// # Errors
    /// [`Error::NotQuiesced`].
    pub fn abandon(&mut self, proof: &Stopped) -> Result<Option<T>, Error> {
        self.check(proof)?;
        self.mark_broken(Error::Broken);
        while let Some(place) = self.in_flight.get_mut(self.abandoned) {
            self.abandoned += 1;
            if let Some((slot, item)) = place.take() {
                self.free.release(slot);
                return Ok(Some(item));
            }
        }
        if self.ring.in_flight() != 0 {
            self.ring.reset(|_| {});
        }
        Ok(None)
    }

    /// Asks for an interrupt at the next chain that comes back. `true`: one has come back already, look again before sleeping.
    #[must_use = "a chain may have come back already"]
    pub fn arm(&mut self) -> bool {
        self.broken.is_some() || self.ring.arm()
    }

    /// Asks the device for no interrupts, while the shell polls.
    pub fn disarm(&mut self) {
        self.ring.disarm();
    }

    /// Chains that are out.
    #[inline]
    pub fn in_flight(&self) -> u16 {
        self.ring.in_flight()
    }

    /// Ring descriptors that are free; 0 on a broken queue.
    #[inline]
    pub fn free_descriptors(&self) -> u16 {
        match self.broken {
            Some(_) => 0,
            None => self.ring.free_descriptors(),
        }
    }

    /// How often the device claimed to have written more than a chain holds; what it claimed was cut.
    pub fn overruns(&self) -> u64 {
        self.ring.overruns()
    }

    /// Whether the queue has to be reset, and why.
    #[inline]
    pub fn broken(&self) -> Option<Error> {
        self.broken
    }

    /// Ends the queue's use until it is reset, unless it was ended before; returns why.
    #[cold]
    pub fn mark_broken(&mut self, error: Error) -> Error {
        *self.broken.get_or_insert(error)
    }

    /// Takes the queue apart and returns its DMA memory, which the device no longer uses. `None` while something is outstanding or when
    /// the proof is not of this queue: then the memory stays allocated for good.
    pub fn into_memory(self, proof: &Stopped) -> Option<Vec<Coherent>> {
        let idle = self.check(proof).is_ok() && self.in_flight.iter().all(Option::is_none);
        idle.then(|| self.memory.into_areas())
    }

    /// The DMA memory of a queue whose device did not start, see [`crate::QueueSet`].
    pub(crate) fn into_areas(self) -> Vec<Coherent> {
        self.memory.into_areas()
    }

    pub(crate) fn life(&self) -> Life {
        self.life
    }

    pub(crate) fn config(&self) -> &QueueConfig {
        self.ring.config()
    }

    pub(crate) fn addresses(&self) -> QueueAddresses {
        self.memory.addresses()
    }

    /// Nothing more is taken: the queue is being reset.
    pub(crate) fn set_resetting(&mut self) {
        self.resetting = true;
        self.mark_broken(Error::Broken);
    }

    /// The reset was used: another one has to be begun before the queue is quiet again.
    pub(crate) fn end_reset(&mut self) {
        self.resetting = false;
    }

    pub(crate) fn is_resetting(&self) -> bool {
        self.resetting
    }

    /// Makes the ring new, for a device that does not use it.
    ///
    /// # Errors
    /// [`Error::Outstanding`].
    pub(crate) fn renew(&mut self) -> Result<(), Error> {
        if self.in_flight.iter().any(Option::is_some) {
            return Err(Error::Outstanding);
        }
        self.ring.reset(|_| {});
        Ok(())
    }

    /// Works again, with a doorbell that was found again.
    pub(crate) fn revive(&mut self, doorbell: Doorbell<B>, life: Life) {
        self.doorbell = doorbell;
        self.life = life;
        self.abandoned = 0;
        self.broken = None;
        self.resetting = false;
    }
}
