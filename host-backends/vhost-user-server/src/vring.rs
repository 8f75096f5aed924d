//! One ring as the session knows it: what the front-end said so far, and the worker if it runs. One rule: a ring runs
//! exactly when it was kicked on (`SET_VRING_KICK`), is enabled and is fully described.

use crate::Polling;
use crate::worker::Failure;
use crate::worker::Job;
use crate::worker::Remains;
use crate::worker::Stop;
use crate::worker::Worker;
use device_model::Device;
use device_model::Error;
use device_model::InflightRegion;
use device_model::Queue;
use device_model::QueueCounters;
use device_model::QueueSetup;
use device_model::RingAddresses;
use device_model::is_ring_new;
use guest_memory::GuestMemory;
use host_os::EventFd;
use std::sync::Arc;
use virtqueue::Format;
use virtqueue::QueueConfig;

/// What all rings of a session share.
pub(crate) struct Environment<'a> {
    pub(crate) device: &'a dyn Device,
    pub(crate) memory: &'a Arc<GuestMemory>,
    pub(crate) inflight: Option<&'a InflightRegion>,
    /// Virtio features accepted.
    pub(crate) features: u64,
    pub(crate) polling: Polling,
    pub(crate) name: &'a str,
    pub(crate) worker_ended: &'a Arc<EventFd>,
}

/// One ring.
pub(crate) struct Vring {
    pub(crate) index: u16,
    pub(crate) size: u16,
    pub(crate) addresses: Option<RingAddresses>,
    /// Where the ring stands when it does not run.
    pub(crate) base: u32,
    pub(crate) kick: Option<Arc<EventFd>>,
    pub(crate) call: Option<Arc<EventFd>>,
    pub(crate) err: Option<Arc<EventFd>>,
    /// `SET_VRING_KICK` came, with or without a descriptor.
    pub(crate) started: bool,
    pub(crate) enabled: bool,
    /// The ring failed; it starts again only after the front-end stopped or reset it.
    pub(crate) broken: bool,
    /// The last run ended with nothing in flight.
    drained: bool,
    /// Where the last run failed. Its requests stay in the in-flight record.
    failed: Option<u32>,
    counters: Arc<QueueCounters>,
    worker: Option<Worker>,
}

impl Vring {
    pub(crate) fn new(index: u16, counters: Arc<QueueCounters>) -> Self {
        Self {
            index,
            size: 0,
            addresses: None,
            base: 0,
            kick: None,
            call: None,
            err: None,
            started: false,
            enabled: false,
            broken: false,
            drained: false,
            failed: None,
            counters,
            worker: None,
        }
    }

    /// Whether its worker exists.
    pub(crate) fn is_running(&self) -> bool {
        self.worker.is_some()
    }

    /// Whether the front-end said all of it and wants it to run.
    pub(crate) fn is_described(&self) -> bool {
        let wanted = self.started && self.enabled && !self.broken;
        wanted && self.addresses.is_some() && self.size != 0
    }

    /// Starts the worker if the ring is to run and does not yet.
    pub(crate) fn start_if_ready(&mut self, environment: &Environment<'_>) -> Result<(), Error> {
        let wanted = self.started && self.enabled && !self.broken && self.worker.is_none();
        let Some(addresses) = self.addresses.filter(|_| wanted && self.size != 0) else {
            return Ok(());
        };
        if environment.memory.regions().len() == 0 {
            return Ok(());
        }
        let started = self.start(addresses, environment);
        if started.is_err() {
            // Not for ever: a later message (the memory that is missing, say) may make it possible.
            if let Some(err) = &self.err {
                err.notify();
            }
        }
        started
    }

    fn start(
        &mut self,
        addresses: RingAddresses,
        environment: &Environment<'_>,
    ) -> Result<(), Error> {
        let config = QueueConfig::from_features(self.size, environment.features)?;
        let record = match environment.inflight {
            Some(region) => Some(region.record(self.index, config.format)?),
            None => None,
        };
        if let (Some(record), Some(failed)) = (&record, self.failed.take()) {
            let bases = (failed, self.base);
            if is_ring_new(&config, &addresses, bases, environment.memory)? {
                // The driver reset the ring after it failed: what it had in flight is void, and would be read from the new ring.
                record.forget();
            }
        }
        let queue = Queue::new(QueueSetup {
            config,
            addresses,
            base: self.base,
            memory: environment.memory.clone(),
            record,
            call: self.call.clone(),
            counters: self.counters.clone(),
        })?;
        let handler = environment
            .device
            .start_queue(self.index, environment.features)?;
        self.worker = Some(Worker::start(Job {
            name: format!("{}/q{}", environment.name, self.index),
            queue,
            handler,
            kick: self.kick.clone(),
            call: self.call.clone(),
            err: self.err.clone(),
            polling: environment.polling,
            ended: environment.worker_ended.clone(),
        })?);
        Ok(())
    }

    /// Stops the worker. Nothing of it is left but where the ring stands: the next start makes a new handler, so that
    /// whatever a handler binds to its thread (an io_uring, say) ends with that thread. Returns why it failed, if it did.
    pub(crate) fn stop(&mut self, how: Stop) -> Option<Failure> {
        let Remains {
            base,
            in_flight,
            failure,
        } = self.worker.take()?.stop(how);
        self.base = base;
        self.drained = in_flight == 0 && failure.is_none();
        self.broken |= failure.is_some();
        self.failed = failure.as_ref().map(|_| base).or(self.failed);
        failure
    }

    /// Collects a worker that ended by itself.
    pub(crate) fn reap(&mut self) -> Option<Failure> {
        if self.worker.as_ref().is_some_and(Worker::is_finished) {
            return self.stop(Stop::Drain);
        }
        None
    }

    pub(crate) fn set_kick(&mut self, kick: Option<EventFd>) {
        self.kick = kick.map(Arc::new);
        self.started = true;
        if let Some(worker) = &self.worker {
            worker.set_kick(self.kick.clone());
        }
    }

    pub(crate) fn set_call(&mut self, call: Option<EventFd>) {
        self.call = call.map(Arc::new);
        if let Some(worker) = &self.worker {
            worker.set_call(self.call.clone());
        }
    }

    pub(crate) fn set_err(&mut self, err: Option<EventFd>) {
        self.err = err.map(Arc::new);
        if let Some(worker) = &self.worker {
            worker.set_err(self.err.clone());
        }
    }

    /// What `GET_VRING_BASE` does: the ring is stopped until the next `SET_VRING_KICK`. If nothing was left in flight,
    /// the record is closed: from now on the base that the front-end is told counts.
    pub(crate) fn halt(
        &mut self,
        how: Stop,
        inflight: Option<&InflightRegion>,
        format: Format,
    ) -> Option<Failure> {
        let failure = self.stop(how);
        if std::mem::take(&mut self.drained)
            && let Some(Ok(record)) = inflight.map(|region| region.record(self.index, format))
        {
            record.forget();
        }
        self.started = false;
        self.broken = false;
        self.kick = None;
        self.call = None;
        failure
    }

    /// Back to the state before any message, worker stopped.
    pub(crate) fn reset(&mut self) {
        self.stop(Stop::Drain);
        *self = Self::new(self.index, self.counters.clone());
    }
}
