//! The device trait. One rule: everything here is called by one session thread at a time; only the notifier given
//! to `on_config_change` crosses threads.

use crate::DeviceRecord;
use crate::Error;
use crate::QueueHandler;
use std::sync::Arc;

/// Tells the front-end that the configuration space changed. Callable from any thread, at any time, also after the
/// session that gave it has ended (then it does nothing).
pub type ConfigNotifier = Arc<dyn Fn() + Send + Sync>;

/// One virtio device, shared by all its queues; it outlives front-ends.
///
/// Order of calls in one session: `on_config_change`, then `acked`, then any number of `start_queue` and `queue_ended`;
/// `reset` once all handlers are gone, on the front-end's word, and `session_ended` at the end. `read_config` and
/// `write_config` may come at any point.
pub trait Device: Send + Sync {
    /// Virtio device id (virtio 1.4 sec. 5).
    fn device_id(&self) -> u32;

    /// How many queues there are; at most 256, for messages name a queue in eight bits.
    fn queue_count(&self) -> u16;

    /// Largest queue size; a power of two, at most 32768.
    fn queue_size_max(&self) -> u16;

    /// Features offered: the device's own and the ring's. The session adds its transport bits.
    fn features(&self) -> u64;

    /// The features that the driver accepted; a subset of `features`. May be called again with others.
    fn acked(&self, features: u64);

    /// Bytes of configuration space; zero if there is none.
    fn config_size(&self) -> u32;

    /// Reads the configuration from `offset`. The range is inside `config_size`.
    fn read_config(&self, offset: u32, out: &mut [u8]);

    /// Writes the configuration from `offset`, as the driver does. The range is inside `config_size`.
    ///
    /// # Errors
    /// When the driver may not write there, or not that value.
    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), Error>;

    /// Makes the handler of queue `index`; called each time its worker starts, also after a mere pause (memory change,
    /// dirty log). The handler lives as long as that worker: it runs on one thread only and is dropped there, drained
    /// first unless it failed. What is to outlive a pause belongs to the device.
    ///
    /// # Errors
    /// When resources are missing; the queue then does not start.
    fn start_queue(&self, index: u16, features: u64) -> Result<Box<dyn QueueHandler>, Error>;

    /// The front-end stopped queue `index` (`GET_VRING_BASE`, or a status of zero), as it does when the driver resets the
    /// queue: what the driver set up for this queue is void. A mere pause does not say so. The queue does not run.
    fn queue_ended(&self, _index: u16) {}

    /// Back to the state after creation: no features accepted, writable configuration at its defaults. Idempotent;
    /// no queue runs.
    fn reset(&self);

    /// The front-end is gone, and no queue runs. It may come back with the same driver, which knows of nothing: a device
    /// whose driver gave orders that must hold then keeps them.
    fn session_ended(&self) {
        self.keep_in(None);
        self.reset();
    }

    /// Keeps `notify`, in place of an earlier one; to be called after e.g. a resize.
    fn on_config_change(&self, notify: ConfigNotifier);

    /// Whether this is a network device, for which `set_mtu` and `announce` work.
    fn is_network(&self) -> bool {
        false
    }

    /// The front-end's word on the MTU, in bytes (`NET_SET_MTU`).
    ///
    /// # Errors
    /// When the device cannot have that one.
    fn set_mtu(&self, _mtu: u16) -> Result<(), Error> {
        Err(Error::Unsupported)
    }

    /// Tells the network that the station of this address is here now, as after a migration (`SEND_RARP`).
    ///
    /// # Errors
    /// When nothing can be sent.
    fn announce(&self, _mac: [u8; 6]) -> Result<(), Error> {
        Err(Error::Unsupported)
    }

    /// Most bytes of state that the device wants to keep over its process's death, in memory that the front-end holds
    /// beside the in-flight record; 0 for none.
    fn record_bytes(&self) -> u32 {
        0
    }

    /// Where that state is kept from now on, and what was kept there before; no queue runs. `None` when the session
    /// ends, before its `reset`: what was kept stays, for the front-end may come back with it. A `reset` in between is
    /// the driver's word, and what was kept is void.
    fn keep_in(&self, _record: Option<DeviceRecord>) {}

    /// Whether `save_state` and `load_state` work.
    fn has_state(&self) -> bool {
        false
    }

    /// What a twin on another host must know beyond features, configuration and rings. No queue runs.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless `has_state`.
    fn save_state(&self) -> Result<Vec<u8>, Error> {
        Err(Error::Unsupported)
    }

    /// Takes over what `save_state` returned; the bytes are untrusted. No queue runs.
    ///
    /// # Errors
    /// When the bytes are not a state of this device; nothing changed then.
    fn load_state(&self, _state: &[u8]) -> Result<(), Error> {
        Err(Error::Unsupported)
    }
}
