//! The common configuration structure of a virtio-pci device (virtio 1.4, 4.1.4.3) as a pure state machine.
//!
//! Rule: nothing here touches a socket, an interrupt or guest memory; a write returns the [`Action`] that the caller
//! has to carry out, and every value the guest writes is checked before it is stored.

use virtio_spec::feature;
use virtio_spec::pci::NO_VECTOR;
use virtio_spec::pci::common as offset;
use virtio_spec::status;

/// What the transport has to do after a register write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// The driver reset the device.
    Reset,
    /// The driver set DRIVER_OK: hand the enabled queues to the backend.
    Start,
    /// The configuration vector changed.
    ConfigVector,
    /// The vector of this queue changed.
    QueueVector(u16),
    /// This queue was enabled while the device runs (after a queue reset).
    StartQueue(u16),
    /// The driver reset this queue.
    ResetQueue(u16),
}

/// What the driver wrote for one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRegisters {
    /// Largest size the device offers.
    pub size_max: u16,
    /// Size the driver chose.
    pub size: u16,
    /// MSI-X vector, or [`NO_VECTOR`].
    pub vector: u16,
    /// Whether the driver enabled the queue.
    pub enabled: bool,
    /// Guest address of the descriptor area.
    pub descriptors: u64,
    /// Guest address of the driver area.
    pub driver: u64,
    /// Guest address of the device area.
    pub device: u64,
    /// The queue was reset while the device runs, and may be set up again.
    was_reset: bool,
}

impl QueueRegisters {
    fn new(size_max: u16) -> Self {
        Self {
            size_max,
            size: size_max,
            vector: NO_VECTOR,
            enabled: false,
            descriptors: 0,
            driver: 0,
            device: 0,
            was_reset: false,
        }
    }
}

/// The registers of one device.
#[derive(Debug)]
pub struct Registers {
    offered: u64,
    acked: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    config_vector: u16,
    status: u8,
    generation: u8,
    queue_select: u16,
    vectors: u16,
    queues: Vec<QueueRegisters>,
}

/// Status bits that the driver may set.
const DRIVER_STATUS: u8 =
    status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK | status::FEATURES_OK | status::FAILED;

impl Registers {
    /// Registers of a device that offers `offered`, with one queue for each entry of `queue_sizes`
    /// and `vectors` MSI-X vectors.
    pub fn new(offered: u64, queue_sizes: &[u16], vectors: u16) -> Self {
        Self {
            offered,
            acked: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            config_vector: NO_VECTOR,
            status: 0,
            generation: 0,
            queue_select: 0,
            vectors,
            queues: queue_sizes
                .iter()
                .map(|size| QueueRegisters::new(*size))
                .collect(),
        }
    }

    /// Features that driver and device agreed on; 0 until FEATURES_OK.
    pub fn negotiated(&self) -> u64 {
        if self.has_status(status::FEATURES_OK) {
            self.acked
        } else {
            0
        }
    }

    /// Replaces the offered features. Only has an effect on a driver that starts afresh, so call it at reset.
    pub fn offer(&mut self, features: u64) {
        self.offered = features;
    }

    /// Whether all of `bits` are set in the device status.
    pub fn has_status(&self, bits: u8) -> bool {
        self.status & bits == bits
    }

    /// Whether the driver set DRIVER_OK and the device works.
    pub fn running(&self) -> bool {
        self.has_status(status::DRIVER_OK) && !self.has_status(status::DEVICE_NEEDS_RESET)
    }

    /// The queues, in order.
    pub fn queues(&self) -> &[QueueRegisters] {
        &self.queues
    }

    /// Vector of configuration interrupts, or [`NO_VECTOR`].
    pub fn config_vector(&self) -> u16 {
        self.config_vector
    }

    /// The configuration space changed.
    pub fn config_changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Marks the device as broken until the driver resets it.
    pub fn needs_reset(&mut self) {
        self.status |= status::DEVICE_NEEDS_RESET;
    }

    /// Back to the state after power-on. The generation goes on counting, so that a driver that reads the
    /// configuration across a reset cannot mistake old for new.
    pub fn reset(&mut self) {
        let generation = self.generation;
        let sizes: Vec<u16> = self.queues.iter().map(|queue| queue.size_max).collect();
        *self = Self::new(self.offered, &sizes, self.vectors);
        self.generation = generation;
    }

    /// Reads `data.len()` bytes at `offset`. What lies outside the structure reads as 0.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        let image = self.image();
        for (i, byte) in data.iter_mut().enumerate() {
            let at = offset.saturating_add(i);
            *byte = image.get(at).copied().unwrap_or(0);
        }
    }

    fn image(&self) -> [u8; offset::SIZE] {
        let mut image = [0; offset::SIZE];
        let mut put = |offset: usize, bytes: &[u8]| {
            if let Some(place) = image.get_mut(offset..offset + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        put(
            offset::DEVICE_FEATURE_SELECT,
            &self.device_feature_select.to_le_bytes(),
        );
        put(
            offset::DEVICE_FEATURE,
            &half(self.offered, self.device_feature_select).to_le_bytes(),
        );
        put(
            offset::DRIVER_FEATURE_SELECT,
            &self.driver_feature_select.to_le_bytes(),
        );
        put(
            offset::DRIVER_FEATURE,
            &half(self.acked, self.driver_feature_select).to_le_bytes(),
        );
        put(
            offset::CONFIG_MSIX_VECTOR,
            &self.config_vector.to_le_bytes(),
        );
        let count = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
        put(offset::NUM_QUEUES, &count.to_le_bytes());
        put(offset::DEVICE_STATUS, &[self.status]);
        put(offset::CONFIG_GENERATION, &[self.generation]);
        put(offset::QUEUE_SELECT, &self.queue_select.to_le_bytes());
        // A queue that does not exist has size 0 and nothing else (4.1.4.3.1).
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(offset::QUEUE_SIZE, &queue.size.to_le_bytes());
            put(offset::QUEUE_MSIX_VECTOR, &queue.vector.to_le_bytes());
            put(
                offset::QUEUE_ENABLE,
                &u16::from(queue.enabled).to_le_bytes(),
            );
            put(offset::QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
            put(offset::QUEUE_DESC, &queue.descriptors.to_le_bytes());
            put(offset::QUEUE_DRIVER, &queue.driver.to_le_bytes());
            put(offset::QUEUE_DEVICE, &queue.device.to_le_bytes());
            put(
                offset::QUEUE_NOTIF_CONFIG_DATA,
                &self.queue_select.to_le_bytes(),
            );
            // QUEUE_RESET reads 0: a reset is over before its write returns.
        }
        image
    }

    /// Writes `data` at `offset`. A write that does not cover exactly one register (or one half of a 64-bit
    /// register) is ignored (4.1.3.1: the driver must use the register's width).
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Action {
        if let Ok(bytes) = <[u8; 8]>::try_from(data) {
            let value = u64::from_le_bytes(bytes);
            let (low, high) = (value & 0xffff_ffff, value >> 32);
            if matches!(
                offset,
                offset::QUEUE_DESC | offset::QUEUE_DRIVER | offset::QUEUE_DEVICE
            ) {
                self.write_address(offset, low);
                self.write_address(offset + 4, high);
            }
            Action::None
        } else if let Ok(bytes) = <[u8; 4]>::try_from(data) {
            self.write_u32(offset, u32::from_le_bytes(bytes));
            Action::None
        } else if let Ok(bytes) = <[u8; 2]>::try_from(data) {
            self.write_u16(offset, u16::from_le_bytes(bytes))
        } else if let ([value], offset::DEVICE_STATUS) = (data, offset) {
            self.write_status(*value)
        } else {
            Action::None
        }
    }

    fn write_u32(&mut self, offset: usize, value: u32) {
        match offset {
            offset::DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            offset::DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            offset::DRIVER_FEATURE => self.write_features(value),
            offset => self.write_address(offset, u64::from(value)),
        }
    }

    fn write_features(&mut self, value: u32) {
        if self.has_status(status::FEATURES_OK) {
            return;
        }
        let value = u64::from(value);
        match self.driver_feature_select {
            0 => self.acked = (self.acked & !0xffff_ffff) | value,
            1 => self.acked = (self.acked & 0xffff_ffff) | (value << 32),
            _ => {}
        }
    }

    fn write_address(&mut self, offset: usize, value: u64) {
        let Some(queue) = self.configurable() else {
            return;
        };
        let (field, start) = match offset {
            offset::QUEUE_DESC..offset::QUEUE_DRIVER => {
                (&mut queue.descriptors, offset::QUEUE_DESC)
            }
            offset::QUEUE_DRIVER..offset::QUEUE_DEVICE => (&mut queue.driver, offset::QUEUE_DRIVER),
            offset::QUEUE_DEVICE..offset::QUEUE_NOTIF_CONFIG_DATA => {
                (&mut queue.device, offset::QUEUE_DEVICE)
            }
            _ => return,
        };
        match offset - start {
            0 => *field = (*field & !0xffff_ffff) | value,
            4 => *field = (*field & 0xffff_ffff) | (value << 32),
            _ => {}
        }
    }

    fn write_u16(&mut self, offset: usize, value: u16) -> Action {
        match offset {
            offset::CONFIG_MSIX_VECTOR => {
                self.config_vector = self.checked_vector(value);
                Action::ConfigVector
            }
            offset::QUEUE_SELECT => {
                self.queue_select = value;
                Action::None
            }
            offset::QUEUE_SIZE => {
                self.write_size(value);
                Action::None
            }
            offset::QUEUE_MSIX_VECTOR => self.write_vector(value),
            offset::QUEUE_ENABLE if value == 1 => self.enable_queue(),
            offset::QUEUE_RESET if value == 1 => self.reset_queue(),
            _ => Action::None,
        }
    }

    fn write_size(&mut self, value: u16) {
        let packed = self.negotiated() & feature::RING_PACKED != 0;
        if let Some(queue) = self.configurable()
            && (1..=queue.size_max).contains(&value)
            && (packed || value.is_power_of_two())
        {
            queue.size = value;
        }
    }

    fn write_vector(&mut self, value: u16) -> Action {
        let vector = self.checked_vector(value);
        let index = self.queue_select;
        match self.queues.get_mut(usize::from(index)) {
            Some(queue) if queue.vector != vector => {
                queue.vector = vector;
                Action::QueueVector(index)
            }
            _ => Action::None,
        }
    }

    /// A vector that does not exist reads back as [`NO_VECTOR`], so that the driver sees the refusal (4.1.5.1.2).
    fn checked_vector(&self, value: u16) -> u16 {
        if value < self.vectors {
            value
        } else {
            NO_VECTOR
        }
    }

    fn enable_queue(&mut self) -> Action {
        let running = self.running();
        let index = self.queue_select;
        if !self.has_status(status::FEATURES_OK) {
            return Action::None;
        }
        let Some(queue) = self.configurable() else {
            return Action::None;
        };
        queue.enabled = true;
        queue.was_reset = false;
        if running {
            Action::StartQueue(index)
        } else {
            Action::None
        }
    }

    fn reset_queue(&mut self) -> Action {
        let index = self.queue_select;
        if self.negotiated() & feature::RING_RESET == 0 {
            return Action::None;
        }
        match self.queues.get_mut(usize::from(index)) {
            Some(queue) if queue.enabled => {
                *queue = QueueRegisters::new(queue.size_max);
                queue.was_reset = true;
                Action::ResetQueue(index)
            }
            _ => Action::None,
        }
    }

    /// The selected queue, if its size and addresses may be written now: never while it is enabled, and after
    /// DRIVER_OK only when the driver has reset it.
    fn configurable(&mut self) -> Option<&mut QueueRegisters> {
        let started = self.has_status(status::DRIVER_OK);
        self.queues
            .get_mut(usize::from(self.queue_select))
            .filter(|queue| !queue.enabled && (!started || queue.was_reset))
    }

    fn write_status(&mut self, value: u8) -> Action {
        if value == 0 {
            self.reset();
            return Action::Reset;
        }
        // The driver must not clear bits (2.1.1); a set bit stays until reset.
        let mut new = self.status | (value & DRIVER_STATUS);
        let added = new & !self.status;
        if added & status::FEATURES_OK != 0 && !self.acceptable() {
            new &= !status::FEATURES_OK;
        }
        let ready = new & status::FEATURES_OK != 0;
        if added & status::DRIVER_OK != 0 && !ready {
            new &= !status::DRIVER_OK;
        }
        self.status = new;
        if added & new & status::DRIVER_OK != 0 {
            Action::Start
        } else {
            Action::None
        }
    }

    /// Whether the driver's choice is a subset of the offer and of the modern kind.
    fn acceptable(&self) -> bool {
        self.acked & !self.offered == 0 && self.acked & feature::VERSION_1 != 0
    }
}

/// One 32-bit half of a feature word; a select beyond 1 shows nothing.
fn half(features: u64, select: u32) -> u32 {
    let half = match select {
        0 => features & 0xffff_ffff,
        1 => features >> 32,
        _ => 0,
    };
    u32::try_from(half).unwrap_or(0)
}

#[cfg(test)]
#[path = "registers_tests.rs"]
mod tests;
