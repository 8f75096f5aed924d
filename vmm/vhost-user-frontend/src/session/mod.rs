//! The vhost-user front-end session: one backend, its connection, and everything needed to set up a replacement
//! when it dies. Rule: what the device owner asked for is recorded first and sent second, so that a reconnect replays
//! all of it; nothing here knows PCI or a VM.

mod backend_channel;
mod channel;
mod compatible;
mod config;
mod connection;
mod establish;
mod inflight;
mod memory;
mod recover;
mod ring;
mod spec;
mod start;
mod supervisor;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use host_os::sync::lock;
use vhost_user_protocol::DeviceStateTransfer;
use vhost_user_protocol::feature::protocol;

use host_os::EventFd;

pub use self::memory::Memory;
pub use self::memory::Region;
pub use self::spec::DirtyLog;
pub use self::spec::Events;
pub use self::spec::Health;
pub use self::spec::PROTOCOL_FEATURES;
pub use self::spec::QueueSetup;
pub use self::spec::SessionSpec;

use self::config::Written;
use self::establish::Link;
use self::inflight::InflightArea;
use crate::Error;
use crate::Result;

/// A queue that the owner started.
#[derive(Debug)]
struct Queue {
    setup: QueueSetup,
    /// The backend's complaint about the ring.
    error: Arc<EventFd>,
    /// Some backend was given the ring, so that its place has to be looked up before another gets it.
    handed_over: bool,
}

/// All that a new backend has to be told.
#[derive(Debug, Default)]
struct State {
    link: Option<Link>,
    memory: Memory,
    /// Features (of those the backend offers) of the started device.
    started: Option<u64>,
    queues: BTreeMap<u16, Queue>,
    inflight: Option<InflightArea>,
    written: Written,
    log: Option<DirtyLog>,
    /// Virtio features last offered by a backend.
    offered: u64,
    queue_count: u16,
    queue_size_max: u16,
    last_error: Option<String>,
}

struct Shared {
    spec: SessionSpec,
    state: Mutex<State>,
    /// Apart from `state`, so that it can be read while a request waits for its reply.
    config: Mutex<Vec<u8>>,
    events: Arc<dyn Events>,
    /// The latest socket, so that the end of the session need not wait for a backend that does not answer.
    stream: Mutex<Weak<UnixStream>>,
    /// Wakes the supervisor.
    wake: EventFd,
    config_changed: AtomicBool,
    stopping: AtomicBool,
    reconnects: AtomicU64,
}

/// A session with one backend, which may die and return at any time.
pub struct Session {
    shared: Arc<Shared>,
    supervisor: Option<JoinHandle<()>>,
}

impl Session {
    /// Connects to the backend, waiting for it if need be, and negotiates. No queue is started.
    pub fn connect(spec: SessionSpec, memory: Memory, events: Arc<dyn Events>) -> Result<Self> {
        if !(1..=255).contains(&spec.queue_count) {
            return Err(Error::Spec("a device has 1 to 255 queues"));
        }
        let wake = new_event("a wake-up descriptor")?;
        let state = State {
            memory,
            queue_size_max: spec.queue_size_max,
            ..State::default()
        };
        let shared = Arc::new(Shared {
            spec,
            state: Mutex::new(state),
            config: Mutex::new(Vec::new()),
            events,
            stream: Mutex::new(Weak::new()),
            wake,
            config_changed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            reconnects: AtomicU64::new(0),
        });
        supervisor::first_connection(&shared)?;
        let supervisor = supervisor::spawn(&shared)?;
        Ok(Self {
            shared,
            supervisor: Some(supervisor),
        })
    }

    /// Virtio features that the backend offers, without the bits that are not the driver's business.
    pub fn offered(&self) -> u64 {
        self.shared.lock().offered
    }

    /// Queues that this session can start.
    pub fn queue_count(&self) -> u16 {
        self.shared.lock().queue_count
    }

    /// The configuration space, as last read from the backend. Never waits for the backend.
    pub fn config(&self) -> Vec<u8> {
        self.shared.config().clone()
    }

    /// Whether a backend is there, and if not, why.
    pub fn health(&self) -> Health {
        let state = self.shared.lock();
        Health {
            connected: state.link.is_some(),
            queues: state.queues.len(),
            reconnects: self.shared.reconnects.load(Ordering::Relaxed),
            last_error: state.last_error.clone(),
        }
    }

    /// Starts the device (stopping it first, if it runs): `features` is what the driver accepted (bits that the backend did not offer are kept from
    /// it), `queues` those that the driver enabled. Without a connected backend it takes effect when one is there.
    ///
    /// # Errors
    /// A queue that does not lie in guest memory, and a backend that refuses; then the device is not started.
    pub fn start(&self, features: u64, queues: Vec<QueueSetup>) -> Result<()> {
        let mut state = self.shared.lock();
        self.stop_locked(&mut state);
        let features = features & state.offered;
        for setup in queues {
            let inserted = state.insert_queue(features, setup);
            inserted.inspect_err(|_| state.forget_device())?;
        }
        state.started = Some(features);
        let result = self.shared.with_link(&mut state, start::device);
        // The supervisor has new error descriptors to watch.
        self.shared.wake();
        self.settle(&mut state, result)
    }

    /// Starts one more queue of a started device.
    ///
    /// # Errors
    /// As [`Session::start`], but on a refusal the whole device is stopped.
    pub fn start_queue(&self, setup: QueueSetup) -> Result<()> {
        let mut state = self.shared.lock();
        let features = state
            .started
            .ok_or(Error::Spec("the device is not started"))?;
        let index = setup.index;
        state.insert_queue(features, setup)?;
        let result = self.shared.with_link(&mut state, |state, link| {
            start::queue(state, link, features, index)
        });
        self.shared.wake();
        self.settle(&mut state, result)
    }

    /// Stops one queue when its requests in flight are done. Returns where it stopped, if a backend had it.
    pub fn stop_queue(&self, index: u16) -> Option<u32> {
        let mut state = self.shared.lock();
        let queue = state.queues.remove(&index)?;
        self.shared
            .with_link(&mut state, |_, link| start::stop_queue(link, &queue))
            .and_then(Result::ok)
            .flatten()
    }

    /// Stops every queue when its requests in flight are done. Returns where each stopped; a queue that no backend
    /// holds now is left out.
    pub fn stop(&self) -> Vec<(u16, u32)> {
        let mut state = self.shared.lock();
        self.stop_locked(&mut state)
    }

    /// Stops every queue and resets the device, what the driver wrote into the configuration included.
    pub fn reset(&self) {
        let mut state = self.shared.lock();
        self.stop_locked(&mut state);
        let rewritten = state.written.clear();
        let config = self.shared.with_link(&mut state, |_, link| {
            start::reset_device(link)?;
            let read = rewritten.then(|| self.shared.read_config(link));
            read.transpose()
        });
        if let Some(Ok(Some(config))) = config {
            *self.shared.config() = config;
        }
    }

    /// Sends the interrupts of a queue to another descriptor, and signals that once, as one interrupt may have gone
    /// to the old.
    pub fn set_call(&self, index: u16, call: Arc<EventFd>) {
        let mut state = self.shared.lock();
        let Some(queue) = state.queues.get_mut(&index) else {
            return;
        };
        queue.setup.call = Arc::clone(&call);
        self.shared
            .with_link(&mut state, |_, link| start::set_call(link, index, &call));
        call.notify();
    }

    /// Writes the configuration space; a backend that comes back is told again.
    ///
    /// # Errors
    /// The backend's refusal, which before the start is not final: it is asked again with the driver's features. And
    /// [`Error::Away`] without a connection; then it is told when there is one.
    pub fn write_config(&self, offset: u32, data: &[u8]) -> Result<()> {
        let mut state = self.shared.lock();
        let written = self.shared.with_link(&mut state, |_, link| {
            if !link.connection.has(protocol::CONFIG) {
                return Err(Error::Missing("CONFIG"));
            }
            link.connection.set_config(offset, data)?;
            self.shared.read_config(link)
        });
        match written {
            Some(Ok(config)) => {
                state.written.record(offset, data);
                *self.shared.config() = config;
                Ok(())
            }
            // Before the start the backend does not know the features that the field may hang on.
            Some(Err(error @ Error::Refused(_))) if state.started.is_none() => {
                self.record(&mut state, offset, data);
                Err(error)
            }
            Some(Err(error)) if !error.breaks_connection() => Err(error),
            Some(Err(_)) | None => {
                self.record(&mut state, offset, data);
                Err(Error::Away)
            }
        }
    }

    fn record(&self, state: &mut State, offset: u32, data: &[u8]) {
        state.written.record(offset, data);
        state.written.overlay(&mut self.shared.config());
    }

    /// Adds a memory region; a running backend learns of it at once.
    pub fn add_region(&self, region: Region) -> Result<()> {
        let mut state = self.shared.lock();
        state.memory.add(region.clone())?;
        let result = self.shared.with_link(&mut state, |state, link| {
            start::region_added(state, link, &region)
        });
        result.unwrap_or(Ok(()))
    }

    /// Removes the region that starts at `guest_addr`.
    pub fn remove_region(&self, guest_addr: u64) -> Result<()> {
        let mut state = self.shared.lock();
        let region = state.memory.remove(guest_addr);
        let region = region.ok_or(Error::Memory("no region starts at this address"))?;
        let result = self.shared.with_link(&mut state, |state, link| {
            start::region_removed(state, link, &region)
        });
        result.unwrap_or(Ok(()))
    }

    /// Starts (or with `None` stops) logging of every page that the backend writes.
    pub fn set_dirty_log(&self, log: Option<DirtyLog>) -> Result<()> {
        let mut state = self.shared.lock();
        state.log = log;
        let result = self.shared.with_link(&mut state, start::log_changed);
        result.unwrap_or(Ok(()))
    }

    /// Begins to move the backend's device state through `file`; all queues have to be stopped. Returns the
    /// descriptor to use instead, if the backend gave one. End with [`Session::check_state`].
    pub fn transfer_state(
        &self,
        transfer: DeviceStateTransfer,
        file: &File,
    ) -> Result<Option<File>> {
        let mut state = self.shared.lock();
        let result = self.shared.with_link(&mut state, |_, link| {
            if !link.connection.has(protocol::DEVICE_STATE) {
                return Err(Error::Missing("DEVICE_STATE"));
            }
            link.connection.transfer_state(transfer, file)
        });
        result.unwrap_or(Err(Error::Away))
    }

    /// Whether the backend took or gave its state in full.
    pub fn check_state(&self) -> Result<()> {
        let mut state = self.shared.lock();
        let result = self
            .shared
            .with_link(&mut state, |_, link| link.connection.check_state());
        result.unwrap_or(Err(Error::Away))
    }

    /// Cuts the connection, as the death of the backend would.
    #[cfg(test)]
    pub(crate) fn break_connection(&self) {
        self.shared.drop_link(&mut self.shared.lock());
    }

    fn stop_locked(&self, state: &mut State) -> Vec<(u16, u32)> {
        let queues = std::mem::take(&mut state.queues);
        let bases = self.shared.with_link(state, |_, link| {
            let mut bases = Vec::new();
            for (index, queue) in &queues {
                bases.extend(start::stop_queue(link, queue)?.map(|base| (*index, base)));
            }
            Ok(bases)
        });
        state.forget_device();
        bases.and_then(Result::ok).unwrap_or_default()
    }

    /// A lost connection is not the caller's concern: the supervisor brings the device up again. Any other failure
    /// stops the device, and the connection, as the backend may have half of it.
    fn settle(&self, state: &mut State, result: Option<Result<()>>) -> Result<()> {
        match result {
            None | Some(Ok(())) => Ok(()),
            Some(Err(error)) if error.breaks_connection() => Ok(()),
            Some(Err(error)) => {
                state.forget_device();
                self.shared.drop_link(state);
                Err(error)
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.cut_stream();
        self.shared.drop_link(&mut self.shared.lock());
        if let Some(supervisor) = self.supervisor.take() {
            // A panic there has been reported by the hook; there is nothing left to save.
            let _ = supervisor.join();
        }
        // It may have made one more connection. Its reader must end before `shared` does, whose last holder it could
        // otherwise become.
        self.shared.drop_link(&mut self.shared.lock());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything that could panic.
        lock(&self.state)
    }

    fn config(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.config)
    }

    /// The configuration as the backend has it now.
    fn read_config(&self, link: &Link) -> Result<Vec<u8>> {
        let known = self.config().len();
        config::read(&self.spec, known, &link.connection)
    }

    fn wake(&self) {
        self.wake.notify();
    }

    /// Makes `stream` the one that the end of the session cuts, which may have come already.
    fn set_stream(&self, stream: Weak<UnixStream>) {
        *lock(&self.stream) = stream;
        if self.stopping.load(Ordering::Acquire) {
            self.cut_stream();
        }
    }

    fn cut_stream(&self) {
        let stream = lock(&self.stream);
        if let Some(stream) = stream.upgrade() {
            // An error means that it is cut already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Runs `operation` on the connection, if there is one. A connection that breaks is dropped, and the supervisor
    /// makes the next.
    fn with_link<T>(
        &self,
        state: &mut State,
        operation: impl FnOnce(&mut State, &mut Link) -> Result<T>,
    ) -> Option<Result<T>> {
        let mut link = state.link.take()?;
        let result = operation(state, &mut link);
        state.link = Some(link);
        if let Err(error) = &result {
            tracing::warn!(socket = %self.spec.socket.display(), %error, "a request to the backend failed");
            if error.breaks_connection() {
                self.drop_link(state);
            }
        }
        Some(result)
    }

    fn drop_link(&self, state: &mut State) {
        if let Some(link) = state.link.take() {
            link.connection.shut_down();
        }
        self.wake();
    }
}

impl State {
    fn forget_device(&mut self) {
        self.started = None;
        self.queues.clear();
        // The next start is a new life of the device; the old record must not be replayed into it.
        self.inflight = None;
    }

    fn insert_queue(&mut self, features: u64, setup: QueueSetup) -> Result<()> {
        let index = setup.index;
        let bad = |what| Error::Queue { index, what };
        if index >= self.queue_count {
            return Err(bad("there is no such queue"));
        }
        if self.queues.contains_key(&index) {
            return Err(bad("it is started twice"));
        }
        ring::address(&self.memory, &setup, features, self.log.is_some())?;
        let error = Arc::new(new_event("a queue's error descriptor")?);
        let queue = Queue {
            setup,
            error,
            handed_over: false,
        };
        self.queues.insert(index, queue);
        Ok(())
    }
}

fn new_event(what: &'static str) -> Result<EventFd> {
    EventFd::new().map_err(|error| Error::Resource {
        what,
        source: error.into(),
    })
}
