//! The device as a whole: what it is, and what changes.
//!
//! Rule: only the control half touches registers; queues share with it nothing but the number of pairs in use.
use core::sync::atomic::AtomicU16;
use core::sync::atomic::Ordering;

use driver_platform::Event;
use driver_platform::Log;
use driver_platform::PciFunction;
use driver_platform::Severity;
use fallible_alloc::Shared;
use virtio_core::Device;
use virtio_core::Error;
use virtio_pci::Transport;

use crate::config::Link;
use crate::config::NetInfo;

/// The control half of a network device; frames go through its queues.
#[derive(Debug)]
pub struct NetDriver<F: PciFunction> {
    pub(crate) device: Device<F>,
    pub(crate) wanted: u64,
    pub(crate) info: NetInfo,
    pub(crate) pairs: u16,
    pub(crate) active: Shared<AtomicU16>,
}

/// What [`NetDriver::config_changed`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfigChange {
    /// The device asks to be reset; nothing else was read.
    pub needs_reset: bool,
    /// The link is another one.
    pub link: Option<Link>,
    /// The shell has to announce itself on the network and then to send [`crate::Command::AnnounceAck`].
    pub announce: bool,
}

impl<F: PciFunction> NetDriver<F> {
    /// The device, as last read.
    pub fn info(&self) -> NetInfo {
        self.info
    }

    /// The negotiated features.
    pub fn features(&self) -> u64 {
        self.device.features()
    }

    /// Queue pairs that are set up; the device uses only the first until told otherwise.
    pub fn pairs(&self) -> u16 {
        self.pairs
    }

    /// Queue pairs in use.
    pub fn active_pairs(&self) -> u16 {
        self.active.load(Ordering::Relaxed)
    }

    /// The transport, for diagnosis.
    pub fn transport(&self) -> &Transport<F> {
        self.device.transport()
    }

    /// To be called after a configuration interrupt.
    ///
    /// # Errors
    /// The configuration cannot be read or is no longer that of this device; what is known stays what it was.
    pub fn config_changed<P: Log>(&mut self, platform: &P) -> Result<ConfigChange, Error> {
        if self.device.transport().needs_reset() {
            return Ok(ConfigChange {
                needs_reset: true,
                ..ConfigChange::default()
            });
        }
        let info = NetInfo::read(self.device.transport())?;
        if !self.info.is_like(&info) {
            return Err(Error::BadConfig);
        }
        let before = core::mem::replace(&mut self.info, info);
        if before.link.up != info.link.up {
            platform.log(Event {
                severity: Severity::Info,
                what: "The link is up (1) or down (0)",
                value: u64::from(info.link.up),
            });
        }
        Ok(ConfigChange {
            needs_reset: false,
            link: (before.link != info.link).then_some(info.link),
            announce: info.announce,
        })
    }
}
