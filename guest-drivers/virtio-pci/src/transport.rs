//! One virtio-pci function: status, reset, features, configuration.
//!
//! Rule: the status register is only ever extended, except by a reset, in the order of virtio 1.4 sec. 3.1.1.
use driver_platform::Clock;
use driver_platform::PciFunction;
use virtio_spec::feature;
use virtio_spec::pci;
use virtio_spec::pci::NO_VECTOR;
use virtio_spec::pci::common;
use virtio_spec::status;

use crate::capability;
use crate::capability::Structures;
use crate::error::Error;

/// How often a configuration read starts again when the generation changed under it.
pub const CONFIG_RETRIES: usize = 16;

/// How long a device may take for a reset, in microseconds.
pub const RESET_TIMEOUT_US: u64 = 5_000_000;

/// What this transport itself makes use of, whatever the device is.
const TRANSPORT_FEATURES: u64 = feature::VERSION_1
    | feature::ACCESS_PLATFORM
    | feature::ORDER_PLATFORM
    | feature::NOTIF_CONFIG_DATA;

const VENDOR_ID: u16 = 0x00;
const DEVICE_ID: u16 = 0x02;
const COMMAND: u16 = 0x04;
const COMMAND_MEMORY: u16 = 0x02;
const COMMAND_BUS_MASTER: u16 = 0x04;

/// How far a reset has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetState {
    /// The device still works on it.
    Pending,
    /// Done: the device has forgotten everything and touches no memory.
    Done,
}

/// The driver's end of one virtio-pci function.
#[derive(Debug)]
pub struct Transport<F: PciFunction> {
    function: F,
    pub(crate) structures: Structures<F::Bar>,
    device_type: u16,
    features: u64,
}

/// Which kind of device has these ids, modern or transitional; a transitional one is used by its modern registers.
fn device_type(vendor: u16, device: u16) -> Option<u16> {
    let mut transitional = pci::TRANSITIONAL_DEVICE_IDS.iter();
    match device {
        _ if vendor != pci::VENDOR_ID => None,
        pci::DEVICE_ID_BASE..=0x107f => Some(device - pci::DEVICE_ID_BASE),
        _ => transitional.find_map(|(id, kind)| (*id == device).then_some(*kind)),
    }
}

impl<F: PciFunction> Transport<F> {
    /// Finds the function's virtio structures and lets it do DMA. Leaves the device itself alone.
    ///
    /// # Errors
    /// [`Error::NotVirtio`] or [`Error::BadCapability`].
    pub fn probe(function: F) -> Result<Self, Error> {
        let vendor = function.config_read_u16(VENDOR_ID);
        let device = function.config_read_u16(DEVICE_ID);
        let device_type = device_type(vendor, device).ok_or(Error::NotVirtio)?;
        let structures = capability::find(&function)?;
        let transport = Self {
            function,
            structures,
            device_type,
            features: 0,
        };
        transport.set_bus_master(true);
        Ok(transport)
    }

    /// Which kind of device it is (sec. 5).
    pub fn device_type(&self) -> u16 {
        self.device_type
    }

    /// The PCI function.
    pub fn function(&self) -> &F {
        &self.function
    }

    /// The features negotiated last; 0 before that and after a reset.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Whether all features of `mask` were negotiated.
    pub fn has(&self, mask: u64) -> bool {
        self.features & mask == mask
    }

    /// Starts a reset (sec. 4.1.4.3.2). [`Transport::poll_reset`] tells when it is done.
    pub fn begin_reset(&mut self) {
        self.features = 0;
        self.structures.common.write_u8(common::DEVICE_STATUS, 0);
    }

    /// Whether a reset is done. The caller bounds the wait, for instance by [`RESET_TIMEOUT_US`].
    pub fn poll_reset(&self) -> ResetState {
        match self.status() {
            0 => ResetState::Done,
            _ => ResetState::Pending,
        }
    }

    /// Resets and waits; for start-up only.
    ///
    /// # Errors
    /// [`Error::ResetTimeout`] after [`RESET_TIMEOUT_US`]; then bus mastering is off, so that the device cannot reach memory any more.
    pub fn reset_and_wait(&mut self, clock: &impl Clock) -> Result<(), Error> {
        self.begin_reset();
        let start = clock.now_us();
        while self.poll_reset() == ResetState::Pending {
            if clock.now_us().wrapping_sub(start) > RESET_TIMEOUT_US {
                self.set_bus_master(false);
                return Err(Error::ResetTimeout);
            }
            clock.relax();
        }
        Ok(())
    }

    /// What the device offers.
    pub fn device_features(&self) -> u64 {
        let common = &self.structures.common;
        common.write_u32(common::DEVICE_FEATURE_SELECT, 0);
        let low = u64::from(common.read_u32(common::DEVICE_FEATURE));
        common.write_u32(common::DEVICE_FEATURE_SELECT, 1);
        low | u64::from(common.read_u32(common::DEVICE_FEATURE)) << 32
    }

    /// Steps 2 to 6 of sec. 3.1.1: acknowledges the device and agrees on features: those that are offered and that `choose` makes of
    /// the offer, and where offered those of this transport: VERSION_1, ACCESS_PLATFORM, ORDER_PLATFORM, NOTIF_CONFIG_DATA. The
    /// features are read once; what the device offers later does not matter.
    ///
    /// # Errors
    /// [`Error::NeedsReset`] for a device that is not fresh from a reset, [`Error::FeaturesRefused`]; the device is marked FAILED then.
    pub fn negotiate(&mut self, choose: impl FnOnce(u64) -> u64) -> Result<u64, Error> {
        // Above all one that was given up before (sec. 2.1.1).
        if self.status() != 0 {
            self.fail();
            return Err(Error::NeedsReset);
        }
        self.add_status(status::ACKNOWLEDGE);
        self.add_status(status::ACKNOWLEDGE | status::DRIVER);
        let offered = self.device_features();
        let mut accepted = offered & (choose(offered) | TRANSPORT_FEATURES);
        if accepted & feature::RING_RESET != 0 && !self.has_queue_reset_register() {
            accepted &= !feature::RING_RESET;
        }
        if accepted & feature::NOTIF_CONFIG_DATA != 0 && !self.has_queue_reset_register() {
            accepted &= !feature::NOTIF_CONFIG_DATA;
        }
        if accepted & feature::VERSION_1 == 0 {
            self.fail();
            return Err(Error::FeaturesRefused);
        }
        let common = &self.structures.common;
        common.write_u32(common::DRIVER_FEATURE_SELECT, 0);
        common.write_u32(common::DRIVER_FEATURE, (accepted & 0xffff_ffff) as u32);
        common.write_u32(common::DRIVER_FEATURE_SELECT, 1);
        common.write_u32(common::DRIVER_FEATURE, (accepted >> 32) as u32);
        let agreed = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.add_status(agreed);
        let answer = self.status();
        // A status of all ones is a device that has gone from the bus, not one that agrees to everything.
        if answer & agreed != agreed || answer & status::FAILED != 0 {
            self.fail();
            return Err(Error::FeaturesRefused);
        }
        self.features = accepted;
        Ok(accepted)
    }

    /// Step 8 of sec. 3.1.1: the device is live.
    ///
    /// # Errors
    /// [`Error::NeedsReset`] when the device does not take it.
    pub fn start(&self) -> Result<(), Error> {
        let live = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        self.add_status(live);
        let answer = self.status();
        if answer & live == live && answer & (status::DEVICE_NEEDS_RESET | status::FAILED) == 0 {
            Ok(())
        } else {
            Err(Error::NeedsReset)
        }
    }

    /// Tells the device that the driver has given up on it.
    pub fn fail(&self) {
        self.add_status(self.status() | status::FAILED);
    }

    /// The device status register.
    pub fn status(&self) -> u8 {
        self.structures.common.read_u8(common::DEVICE_STATUS)
    }

    /// Whether the device asks to be reset, or is gone from the bus (then every bit reads as 1).
    pub fn needs_reset(&self) -> bool {
        self.status() & (status::DEVICE_NEEDS_RESET | status::FAILED) != 0
    }

    /// Runs `read`, which reads any number of fields, until none of them can have changed meanwhile (sec. 2.5.1).
    ///
    /// # Errors
    /// What `read` returns, or [`Error::ConfigUnstable`] after [`CONFIG_RETRIES`] tries.
    pub fn read_consistent<T>(
        &self,
        mut read: impl FnMut(&Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        for _ in 0..CONFIG_RETRIES {
            let before = self.config_generation();
            let value = read(self)?;
            if self.config_generation() == before {
                return Ok(value);
            }
        }
        Err(Error::ConfigUnstable)
    }

    /// Reads one field of the device configuration, by the accesses that its width asks for (sec. 4.1.3.1): 1, 2 or 4 bytes at once,
    /// 8 bytes as two halves, anything else byte by byte.
    ///
    /// # Errors
    /// [`Error::ConfigOutOfRange`] when the device has fewer bytes.
    pub fn read_field<const N: usize>(&self, offset: usize) -> Result<[u8; N], Error> {
        let window = self
            .structures
            .device
            .as_ref()
            .ok_or(Error::ConfigOutOfRange)?;
        let end = offset.checked_add(N).ok_or(Error::ConfigOutOfRange)?;
        if end as u64 > window.len() {
            return Err(Error::ConfigOutOfRange);
        }
        let mut out = [0; N];
        let width = match N {
            2 if offset.is_multiple_of(2) => 2,
            4 | 8 if offset.is_multiple_of(4) => 4,
            _ => 1,
        };
        for (index, piece) in out.chunks_mut(width).enumerate() {
            let at = offset + index * width;
            let bytes = match width {
                4 => window.read_u32(at).to_le_bytes(),
                2 => u32::from(window.read_u16(at)).to_le_bytes(),
                _ => u32::from(window.read_u8(at)).to_le_bytes(),
            };
            for (to, from) in piece.iter_mut().zip(bytes) {
                *to = from;
            }
        }
        Ok(out)
    }

    /// Writes one byte of device configuration.
    ///
    /// # Errors
    /// [`Error::ConfigOutOfRange`].
    pub fn write_config_u8(&self, offset: usize, value: u8) -> Result<(), Error> {
        let window = self
            .structures
            .device
            .as_ref()
            .ok_or(Error::ConfigOutOfRange)?;
        if offset as u64 >= window.len() {
            return Err(Error::ConfigOutOfRange);
        }
        window.write_u8(offset, value);
        Ok(())
    }

    /// Writes four bytes of device configuration at once.
    ///
    /// # Errors
    /// [`Error::ConfigOutOfRange`], also when `offset` is no multiple of 4.
    pub fn write_config_u32(&self, offset: usize, value: u32) -> Result<(), Error> {
        let window = self
            .structures
            .device
            .as_ref()
            .ok_or(Error::ConfigOutOfRange)?;
        let end = offset.checked_add(4).ok_or(Error::ConfigOutOfRange)?;
        if end as u64 > window.len() || !offset.is_multiple_of(4) {
            return Err(Error::ConfigOutOfRange);
        }
        window.write_u32(offset, value);
        Ok(())
    }

    /// Length of the device configuration in bytes.
    pub fn config_len(&self) -> u64 {
        self.structures
            .device
            .as_ref()
            .map_or(0, crate::window::Window::len)
    }

    /// Changes whenever the configuration changes (sec. 2.5).
    pub fn config_generation(&self) -> u8 {
        self.structures.common.read_u8(common::CONFIG_GENERATION)
    }

    /// Which MSI-X message announces configuration changes; `None` for none.
    ///
    /// # Errors
    /// [`Error::NoVector`].
    pub fn set_config_vector(&self, vector: Option<u16>) -> Result<(), Error> {
        let vector = vector.unwrap_or(NO_VECTOR);
        self.structures
            .common
            .write_u16(common::CONFIG_MSIX_VECTOR, vector);
        if self.structures.common.read_u16(common::CONFIG_MSIX_VECTOR) == vector {
            Ok(())
        } else {
            Err(Error::NoVector)
        }
    }

    /// Reads and so clears the cause of a line interrupt (sec. 4.1.4.5): bits of [`virtio_spec::pci::isr`]. Not with MSI-X.
    pub fn take_interrupt_cause(&self) -> u8 {
        self.structures.isr.read_u8(0)
    }

    /// Lets the function reach memory, or keeps it from doing so: the last resort against a device that does not reset.
    pub fn set_bus_master(&self, on: bool) {
        let command = self.function.config_read_u16(COMMAND);
        let command = if on {
            command | COMMAND_BUS_MASTER | COMMAND_MEMORY
        } else {
            command & !COMMAND_BUS_MASTER
        };
        self.function.config_write_u16(COMMAND, command);
    }

    fn add_status(&self, bits: u8) {
        self.structures.common.write_u8(common::DEVICE_STATUS, bits);
    }

    fn has_queue_reset_register(&self) -> bool {
        self.structures.common.len() >= common::QUEUE_RESET as u64 + 2
    }
}
