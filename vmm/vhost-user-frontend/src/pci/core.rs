//! The part of a device that both vCPU threads and the session's thread touch. Rule: the configuration that the guest
//! reads and its generation change together, under the lock around this.

use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::Weak;

use host_os::sync::lock;
use machine::pci::Msix;
use virtio_spec::balloon;
use virtio_spec::block;
use virtio_spec::device_id;
use virtio_spec::net;
use virtio_spec::pci::isr;
use virtio_spec::status;

use super::registers::Registers;
use crate::Error;
use crate::session::Events;

pub(crate) struct Core {
    pub registers: Registers,
    pub msix: Msix,
    pub isr: u8,
    /// Device configuration as the guest sees it.
    pub config: Vec<u8>,
    pub device_id: u32,
}

impl Core {
    /// Takes over the session's configuration and tells the driver.
    pub(crate) fn config_changed(&mut self, config: Vec<u8>) {
        self.replace_config(config);
        self.notify_config();
    }

    /// Takes over the session's configuration; where it is another one, a driver that has read some of it sees so by the
    /// generation (virtio 1.4, 4.1.4.3.1).
    pub(crate) fn replace_config(&mut self, config: Vec<u8>) {
        let count = u16::try_from(self.registers.queues().len()).unwrap_or(u16::MAX);
        let config = adapt(self.device_id, config, count);
        if config != self.config {
            self.config = config;
            self.registers.config_changed();
        }
    }

    pub(crate) fn needs_reset(&mut self) {
        self.registers.needs_reset();
        self.notify_config();
    }

    /// A configuration interrupt; only a driver that is up wants one (virtio 1.4, 2.1.2).
    fn notify_config(&mut self) {
        if !self.registers.has_status(status::DRIVER_OK) {
            return;
        }
        // With MSI-X too (virtio 1.4, 4.1.4.5.1).
        self.isr |= isr::CONFIG;
        if self.msix.enabled() {
            self.msix.trigger(self.registers.config_vector());
        }
    }
}

/// Makes fields agree with what this front-end adds to the backend.
pub(crate) fn adapt(device: u32, mut config: Vec<u8>, queues: u16) -> Vec<u8> {
    if device == device_id::BLOCK
        && let Some(field) = config.get_mut(NUM_QUEUES..NUM_QUEUES + 2)
    {
        // Otherwise a driver would look for queues that this device does not have.
        field.copy_from_slice(&queues.to_le_bytes());
    }
    config
}

/// What of the features in `offered` this front-end can offer to a driver that sees `config` and `queues`.
pub(crate) fn offer(device: u32, offered: u64, config: &[u8], queues: u16) -> u64 {
    if device != device_id::NET {
        return offered;
    }
    // The control queue follows the last pair (virtio 1.4, 5.1.2). With fewer queues than that a driver would look for
    // it where there is none; without these features there is one pair, whatever the configuration says.
    let multiple = net::feature::MQ | net::feature::RSS;
    let pairs = config.get(PAIRS..PAIRS + 2).unwrap_or_default();
    let pairs = <[u8; 2]>::try_from(pairs).map_or(0, u16::from_le_bytes);
    let control = u32::from(offered & net::feature::CTRL_VQ != 0);
    if (1..=u32::from(queues)).contains(&(2 * u32::from(pairs) + control)) && pairs != 0 {
        offered
    } else {
        offered & !multiple
    }
}

/// Whether a driver with these features may write there; of an unknown device the backend judges.
pub(crate) fn writable(device: u32, features: u64, offset: u32, len: usize) -> bool {
    let field = |at: usize, size: usize| usize::try_from(offset) == Ok(at) && len == size;
    match device {
        device_id::BLOCK => {
            features & block::feature::CONFIG_WCE != 0
                && field(std::mem::offset_of!(block::Config, writeback), 1)
        }
        // Modern drivers change the address through the control queue.
        device_id::NET => false,
        device_id::BALLOON => {
            field(balloon::CONFIG_ACTUAL_OFFSET, 4)
                || (features & balloon::feature::PAGE_POISON != 0
                    && field(balloon::CONFIG_POISON_OFFSET, 4))
        }
        _ => true,
    }
}

/// Offset of `max_virtqueue_pairs` in the network configuration.
const PAIRS: usize = std::mem::offset_of!(net::Config, max_virtqueue_pairs);

/// Offset of `num_queues` in the block configuration.
const NUM_QUEUES: usize = std::mem::offset_of!(block::Config, num_queues);

/// Passes the session's events to the device, which comes into being after the session.
#[derive(Default)]
pub(crate) struct Notifier {
    pub target: OnceLock<Weak<Mutex<Core>>>,
}

impl Events for Notifier {
    fn config_changed(&self, config: &[u8]) {
        if let Some(core) = self.target.get().and_then(Weak::upgrade) {
            lock(&core).config_changed(config.to_vec());
        }
    }

    fn needs_reset(&self, reason: &Error) {
        tracing::error!(%reason, "the device needs a reset");
        if let Some(core) = self.target.get().and_then(Weak::upgrade) {
            lock(&core).needs_reset();
        }
    }
}
