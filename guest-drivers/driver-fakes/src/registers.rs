//! The device's registers behind the BAR: common configuration, device configuration, doorbells.
//!
//! Rule: obeys virtio 1.4 sec. 4.1.4.3 unless a [`Lies`] field says otherwise.
use virtio_spec::pci::NO_VECTOR;
use virtio_spec::pci::common;
use virtio_spec::status;

use crate::Random;

/// How the device misbehaves.
#[derive(Clone, Debug, Default)]
pub struct Lies {
    /// A reset never ends.
    pub never_resets: bool,
    /// The configuration generation is a new one at every read.
    pub unstable_generation: bool,
    /// Status reads as all ones, as from a device that is gone.
    pub gone: bool,
    /// The device does not accept any features.
    pub refuses_features: bool,
    /// The offered features are others at every read, by this seed.
    pub changing_features: Option<u64>,
    /// Every queue claims this size.
    pub queue_size: Option<u16>,
    /// Queues do not become enabled.
    pub never_enables: bool,
    /// There is no vector to be had.
    pub no_vectors: bool,
    /// Every queue claims this notification offset.
    pub notify_offset: Option<u16>,
    /// A queue reset never ends.
    pub never_resets_queue: bool,
    /// NEEDS_RESET is set all the time.
    pub needs_reset: bool,
    /// The number of queues claimed.
    pub queue_count: Option<u16>,
}

/// Registers of one queue.
#[derive(Clone, Debug, Default)]
pub struct QueueRegisters {
    /// Largest size.
    pub size_max: u16,
    /// Size that the driver chose.
    pub size: u16,
    /// MSI-X message.
    pub vector: u16,
    /// Live.
    pub enabled: bool,
    /// Descriptor area.
    pub descriptors: u64,
    /// Driver area.
    pub driver: u64,
    /// Device area.
    pub device: u64,
    /// How often the doorbell was rung.
    pub rings: u64,
    /// The value written last to the doorbell.
    pub last_ring: u32,
    /// Counts resets and enables, so that the data side notices.
    pub epoch: u64,
}

/// All registers of the device.
#[derive(Clone, Debug)]
pub struct Registers {
    /// Features offered.
    pub offered: u64,
    /// Features accepted by the driver.
    pub accepted: u64,
    /// Device status.
    pub status: u8,
    /// Device configuration.
    pub config: Vec<u8>,
    /// Generation of the configuration.
    pub generation: u8,
    /// The queues.
    pub queues: Vec<QueueRegisters>,
    /// How often the whole device was reset.
    pub resets: u64,
    /// Interrupt status for the line interrupt.
    pub isr: u8,
    /// How the device misbehaves.
    pub lies: Lies,
    config_vector: u16,
    feature_select: u32,
    driver_feature_select: u32,
    queue_select: u16,
    reads: u64,
}

/// What a queue is called in notifications, with NOTIF_CONFIG_DATA.
pub fn notify_name(queue: u16) -> u16 {
    queue ^ 0x1230
}

impl Registers {
    /// A device after power-on.
    pub fn new(offered: u64, config: Vec<u8>, queues: u16, size_max: u16) -> Self {
        let queue = QueueRegisters {
            size_max,
            size: size_max,
            vector: NO_VECTOR,
            ..Default::default()
        };
        Self {
            offered,
            accepted: 0,
            status: 0,
            config,
            generation: 0,
            queues: vec![queue; usize::from(queues)],
            resets: 0,
            isr: 0,
            lies: Lies::default(),
            config_vector: NO_VECTOR,
            feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
            reads: 0,
        }
    }

    /// Whether the driver has set DRIVER_OK and the device is healthy.
    pub fn is_live(&self) -> bool {
        self.status & status::DRIVER_OK != 0
    }

    /// Changes the device configuration, as on a resize.
    pub fn change_config(&mut self, offset: usize, bytes: &[u8]) {
        self.config[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.generation = self.generation.wrapping_add(1);
        self.isr |= virtio_spec::pci::isr::CONFIG;
    }

    pub(crate) fn read_common(&mut self, offset: usize) -> u32 {
        self.reads += 1;
        let queue = self.queues.get(usize::from(self.queue_select)).cloned();
        let queue_field = |get: fn(&QueueRegisters) -> u32| queue.as_ref().map_or(0, get);
        match offset {
            common::DEVICE_FEATURE_SELECT => self.feature_select,
            common::DEVICE_FEATURE => self.offered_half(),
            common::CONFIG_MSIX_VECTOR => u32::from(self.config_vector),
            common::NUM_QUEUES => {
                u32::from(self.lies.queue_count.unwrap_or(self.queues.len() as u16))
            }
            common::DEVICE_STATUS => u32::from(self.read_status()),
            common::CONFIG_GENERATION if self.lies.unstable_generation => self.reads as u32 & 0xff,
            common::CONFIG_GENERATION => u32::from(self.generation),
            common::QUEUE_SELECT => u32::from(self.queue_select),
            common::QUEUE_SIZE => match (self.lies.queue_size, &queue) {
                (Some(lie), _) => u32::from(lie),
                (None, queue) => queue.as_ref().map_or(0, |queue| u32::from(queue.size)),
            },
            common::QUEUE_MSIX_VECTOR => queue
                .as_ref()
                .map_or(u32::from(NO_VECTOR), |queue| u32::from(queue.vector)),
            common::QUEUE_ENABLE => queue_field(|queue| u32::from(queue.enabled)),
            common::QUEUE_NOTIFY_OFF => {
                u32::from(self.lies.notify_offset.unwrap_or(self.queue_select))
            }
            common::QUEUE_NOTIF_CONFIG_DATA => u32::from(notify_name(self.queue_select)),
            common::QUEUE_RESET => u32::from(self.lies.never_resets_queue),
            _ => 0,
        }
    }

    pub(crate) fn write_common(&mut self, offset: usize, value: u32) {
        match offset {
            common::DEVICE_FEATURE_SELECT => self.feature_select = value,
            common::DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            common::DRIVER_FEATURE if self.driver_feature_select == 0 => {
                self.accepted = self.accepted & !0xffff_ffff | u64::from(value);
            }
            common::DRIVER_FEATURE => {
                self.accepted = self.accepted & 0xffff_ffff | u64::from(value) << 32
            }
            common::CONFIG_MSIX_VECTOR => self.config_vector = self.vector(value as u16),
            common::DEVICE_STATUS => self.write_status(value as u8),
            common::QUEUE_SELECT => self.queue_select = value as u16,
            _ => self.write_queue(offset, value),
        }
    }

    fn write_queue(&mut self, offset: usize, value: u32) {
        let vector = self.vector(value as u16);
        let lies = self.lies.clone();
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else {
            return;
        };
        let set = |field: &mut u64, high: bool| {
            *field = match high {
                true => *field & 0xffff_ffff | u64::from(value) << 32,
                false => *field & !0xffff_ffff | u64::from(value),
            };
        };
        match offset {
            common::QUEUE_SIZE => queue.size = value as u16,
            common::QUEUE_MSIX_VECTOR => queue.vector = vector,
            common::QUEUE_ENABLE if value == 1 && !lies.never_enables => {
                queue.enabled = true;
                queue.epoch += 1;
            }
            common::QUEUE_RESET if value == 1 && !lies.never_resets_queue => queue.forget(),
            common::QUEUE_DESC => set(&mut queue.descriptors, false),
            0x24 => set(&mut queue.descriptors, true),
            common::QUEUE_DRIVER => set(&mut queue.driver, false),
            0x2c => set(&mut queue.driver, true),
            common::QUEUE_DEVICE => set(&mut queue.device, false),
            0x34 => set(&mut queue.device, true),
            _ => {}
        }
    }

    fn vector(&self, value: u16) -> u16 {
        if self.lies.no_vectors {
            NO_VECTOR
        } else {
            value
        }
    }

    fn offered_half(&self) -> u32 {
        let offered = match self.lies.changing_features {
            Some(seed) => {
                // About four bits of 64 are others than at the read before.
                let mut random = Random::new(seed ^ self.reads << 32);
                let flips = [0; 4].map(|_| random.next_u64());
                self.offered ^ flips.iter().fold(u64::MAX, |all, more| all & more)
            }
            None => self.offered,
        };
        match self.feature_select {
            0 => offered as u32,
            1 => (offered >> 32) as u32,
            _ => 0,
        }
    }

    fn read_status(&self) -> u8 {
        if self.lies.gone {
            return 0xff;
        }
        let needs_reset = if self.lies.needs_reset {
            status::DEVICE_NEEDS_RESET
        } else {
            0
        };
        self.status | needs_reset
    }

    fn write_status(&mut self, value: u8) {
        if value == 0 {
            if !self.lies.never_resets {
                self.reset();
            }
            return;
        }
        let refused = self.lies.refuses_features
            || self.accepted & !self.offered != 0 && self.lies.changing_features.is_none();
        self.status = if refused {
            value & !status::FEATURES_OK
        } else {
            value
        };
    }

    fn reset(&mut self) {
        self.resets += 1;
        self.status = 0;
        self.accepted = 0;
        self.isr = 0;
        self.config_vector = NO_VECTOR;
        self.queues.iter_mut().for_each(QueueRegisters::forget);
    }
}

impl QueueRegisters {
    fn forget(&mut self) {
        let (size_max, epoch, rings) = (self.size_max, self.epoch + 1, self.rings);
        *self = Self {
            size_max,
            size: size_max,
            vector: NO_VECTOR,
            epoch,
            rings,
            ..Self::default()
        };
    }
}
