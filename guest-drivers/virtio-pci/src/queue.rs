//! Queue set-up, enabling and the reset of one queue (virtio 1.4 sec. 4.1.5.1.3, 2.6.1).
//!
//! Rule: `queue_select` is written before every access to a queue's registers; nothing is assumed of what it was.
use driver_platform::Mmio;
use driver_platform::PciFunction;
use virtio_spec::feature;
use virtio_spec::pci::NO_VECTOR;
use virtio_spec::pci::common;

use crate::doorbell::Doorbell;
use crate::doorbell::Payload;
use crate::error::Error;
use crate::transport::Transport;

/// Device addresses of the three areas of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueAddresses {
    /// Descriptor table, or packed ring.
    pub descriptors: u64,
    /// Available ring, or driver event suppression.
    pub driver: u64,
    /// Used ring, or device event suppression.
    pub device: u64,
}

/// How to set a queue up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSetup {
    /// Which queue.
    pub index: u16,
    /// Entries; at most what [`Transport::queue_size_max`] said.
    pub size: u16,
    /// Where the areas are.
    pub addresses: QueueAddresses,
    /// Which MSI-X message the queue raises; `None` for the line interrupt or none at all.
    pub vector: Option<u16>,
}

impl<F: PciFunction> Transport<F> {
    /// How many queues the device says it has.
    pub fn queue_count(&self) -> u16 {
        self.structures.common.read_u16(common::NUM_QUEUES)
    }

    /// The largest size that the queue can have, as a power of two for a split ring.
    ///
    /// # Errors
    /// [`Error::NoQueue`] when the device has no such queue or names a size that no queue can have.
    pub fn queue_size_max(&self, index: u16) -> Result<u16, Error> {
        let common = &self.structures.common;
        common.write_u16(common::QUEUE_SELECT, index);
        let size = common.read_u16(common::QUEUE_SIZE);
        match size {
            1..=0x8000 if self.has(feature::RING_PACKED) => Ok(size),
            1..=0x8000 => Ok(1 << size.ilog2()),
            _ => Err(Error::NoQueue),
        }
    }

    /// Sets up and enables one queue and returns its doorbell. Before DRIVER_OK, or for a queue that was reset.
    ///
    /// # Errors
    /// [`Error::NoQueue`], [`Error::NoVector`] or [`Error::BadQueue`] as the device answers.
    pub fn enable_queue(&self, setup: &QueueSetup) -> Result<Doorbell<F::Bar>, Error> {
        let fits = (1..=self.queue_size_max(setup.index)?).contains(&setup.size);
        if !fits || !(self.has(feature::RING_PACKED) || setup.size.is_power_of_two()) {
            return Err(Error::NoQueue);
        }
        let doorbell = self.doorbell(setup.index)?;
        let common = &self.structures.common;
        common.write_u16(common::QUEUE_SELECT, setup.index);
        common.write_u16(common::QUEUE_SIZE, setup.size);
        let vector = setup.vector.unwrap_or(NO_VECTOR);
        common.write_u16(common::QUEUE_MSIX_VECTOR, vector);
        if common.read_u16(common::QUEUE_MSIX_VECTOR) != vector {
            return Err(Error::NoVector);
        }
        common.write_u64(common::QUEUE_DESC, setup.addresses.descriptors);
        common.write_u64(common::QUEUE_DRIVER, setup.addresses.driver);
        common.write_u64(common::QUEUE_DEVICE, setup.addresses.device);
        common.write_u16(common::QUEUE_ENABLE, 1);
        if common.read_u16(common::QUEUE_ENABLE) != 1 {
            return Err(Error::BadQueue);
        }
        Ok(doorbell)
    }

    /// Asks the device to stop one queue; [`Transport::queue_reset_done`] tells when it did. Needs RING_RESET.
    ///
    /// # Errors
    /// [`Error::NotNegotiated`] without RING_RESET.
    pub fn begin_queue_reset(&self, index: u16) -> Result<(), Error> {
        if !self.has(feature::RING_RESET) {
            return Err(Error::NotNegotiated);
        }
        let common = &self.structures.common;
        common.write_u16(common::QUEUE_SELECT, index);
        common.write_u16(common::QUEUE_RESET, 1);
        Ok(())
    }

    /// Whether the device has finished the reset of a queue and no longer touches its memory: `queue_reset` and `queue_enable` are
    /// both 0 then (sec. 2.6.1.2). The caller bounds the wait.
    pub fn queue_reset_done(&self, index: u16) -> bool {
        let common = &self.structures.common;
        common.write_u16(common::QUEUE_SELECT, index);
        common.read_u16(common::QUEUE_RESET) == 0 && common.read_u16(common::QUEUE_ENABLE) == 0
    }

    fn doorbell(&self, index: u16) -> Result<Doorbell<F::Bar>, Error> {
        let common = &self.structures.common;
        common.write_u16(common::QUEUE_SELECT, index);
        let notify_offset = common.read_u16(common::QUEUE_NOTIFY_OFF);
        let name = if self.has(feature::NOTIF_CONFIG_DATA) {
            common.read_u16(common::QUEUE_NOTIF_CONFIG_DATA)
        } else {
            index
        };
        let (payload, width) = if self.has(feature::NOTIFICATION_DATA) {
            (Payload::Data(name), 4)
        } else {
            (Payload::Index(name), 2)
        };
        let offset = u64::from(notify_offset) * u64::from(self.structures.notify_multiplier);
        if offset + width > self.structures.notify.len() {
            return Err(Error::BadQueue);
        }
        let (bar, offset) = self.structures.notify.locate(offset);
        if offset % width != 0 || offset + width > bar.len() {
            return Err(Error::BadQueue);
        }
        Ok(Doorbell {
            bar,
            offset,
            payload,
        })
    }
}
