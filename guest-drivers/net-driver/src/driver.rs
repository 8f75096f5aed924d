//! The device as a whole: what it is, and what changes.
//!
//! Rule: only the control half touches registers; queues share with it nothing but the number of pairs in use.
use alloc::sync::Arc;
use core::sync::atomic::AtomicU16;
use core::sync::atomic::Ordering;

use driver_platform::Event;
use driver_platform::Log;
use driver_platform::PciFunction;
use driver_platform::Severity;
use virtio_pci::QueueAddresses;
use virtio_pci::QueueSetup;
use virtio_pci::Transport;

use crate::config::Link;
use crate::config::NetInfo;
use crate::error::Error;

/// The control half of a network device; frames go through its queues.
#[derive(Debug)]
pub struct NetDriver<F: PciFunction> {
    pub(crate) transport: Transport<F>,
    pub(crate) wanted: u64,
    pub(crate) features: u64,
    pub(crate) info: NetInfo,
    pub(crate) pairs: u16,
    pub(crate) active: Arc<AtomicU16>,
    pub(crate) vectors: Vectors,
    pub(crate) reset_started_us: u64,
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

/// Which MSI-X message serves what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vectors {
    pub(crate) messages: u16,
}

impl Vectors {
    /// The first message is for configuration changes.
    pub(crate) fn config(self) -> Option<u16> {
        (self.messages > 0).then_some(0)
    }

    /// The others are dealt out to the queues; with one message all share it.
    pub(crate) fn queue(self, index: u16) -> Option<u16> {
        match self.messages {
            0 => None,
            1 => Some(0),
            messages => Some(1 + index % (messages - 1)),
        }
    }

    pub(crate) fn setup(self, index: u16, size: u16, addresses: QueueAddresses) -> QueueSetup {
        QueueSetup {
            index,
            size,
            addresses,
            vector: self.queue(index),
        }
    }
}

impl<F: PciFunction> NetDriver<F> {
    /// The device, as last read.
    pub fn info(&self) -> NetInfo {
        self.info
    }

    /// The negotiated features.
    pub fn features(&self) -> u64 {
        self.features
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
        &self.transport
    }

    /// To be called after a configuration interrupt.
    ///
    /// # Errors
    /// The configuration cannot be read or is no longer that of this device; what is known stays what it was.
    pub fn config_changed<P: Log>(&mut self, platform: &P) -> Result<ConfigChange, Error> {
        if self.transport.needs_reset() {
            return Ok(ConfigChange {
                needs_reset: true,
                ..ConfigChange::default()
            });
        }
        let info = NetInfo::read(&self.transport)?;
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

    pub(crate) fn warn<P: Log>(&self, platform: &P, what: &'static str, value: u64) {
        platform.log(Event {
            severity: Severity::Warning,
            what,
            value,
        });
    }
}
