//! The backend's session, reduced to what the registers of the fake function say.
//!
//! Rule: the calls come in the order and with the arguments of a vhost-user session: features once, queues when they are enabled, drain
//! before anything stops, nothing after a reset.
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::Context;
use device_model::Device;
use device_model::InflightRegion;
use device_model::Queue;
use device_model::QueueCounters;
use device_model::QueueHandler;
use device_model::QueueSetup;
use device_model::RingAddresses;
use device_model::Shelf;
use driver_fakes::FakeFunction;
use driver_fakes::Layout;
use driver_fakes::Registers;
use guest_memory::GuestMemory;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use virtio_spec::feature;
use virtqueue::ChainBatch;
use virtqueue::Format;
use virtqueue::QueueConfig;

/// Features of the transport, which the front-end adds to what the device offers.
const TRANSPORT: u64 = feature::RING_RESET | feature::NOTIFICATION_DATA;

struct Live {
    epoch: u64,
    changes: u64,
    /// Absent while it lies on the shelf.
    queue: Option<Queue>,
    shelf: Option<Arc<dyn Shelf>>,
    handler: Box<dyn QueueHandler>,
}

impl Live {
    /// Works once, with the queue in hand. A queue on its shelf stays there unless its user has something to report, as in a worker.
    fn run(&mut self, memory: &Arc<GuestMemory>) -> anyhow::Result<bool> {
        // Queues are large: what has no shelf stays where it is.
        if self.shelf.is_none()
            && let Some(queue) = &mut self.queue
        {
            return Ok(self.handler.run(queue, memory)?.any());
        }
        if self.queue.is_none() && !self.is_called()? {
            return Ok(false);
        }
        let mut queue = self.take()?;
        let progress = self.handler.run(&mut queue, memory);
        self.put(queue);
        Ok(progress?.any())
    }

    fn is_called(&self) -> anyhow::Result<bool> {
        let Some(fd) = self.handler.completion_fd() else {
            return Ok(false);
        };
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
    }

    fn take(&mut self) -> anyhow::Result<Queue> {
        let queue = match (self.queue.take(), &self.shelf) {
            (None, Some(shelf)) => shelf.take(),
            (queue, _) => queue,
        };
        queue.context("the queue is not where it was left")
    }

    fn put(&mut self, queue: Queue) {
        match &self.shelf {
            Some(shelf) => shelf.put(queue),
            None => self.queue = Some(queue),
        }
    }
}

/// A device served on the calling thread.
pub struct Backend {
    device: Arc<dyn Device>,
    memory: Arc<GuestMemory>,
    function: FakeFunction,
    inflight: InflightRegion,
    live: HashMap<u16, Live>,
    /// Features that the device was told.
    acked: Option<u64>,
    /// Vring bases of queues that were stopped or killed, by index.
    bases: HashMap<u16, (u64, u32)>,
}

impl Backend {
    /// A backend for `device`, and the function that a driver finds it behind.
    ///
    /// # Errors
    /// No memory for the in-flight record.
    pub fn new(
        device: Arc<dyn Device>,
        memory: Arc<GuestMemory>,
    ) -> anyhow::Result<(Self, FakeFunction)> {
        let mut config = vec![0; device.config_size() as usize];
        device.read_config(0, &mut config);
        let offered =
            device.features() & !feature::VHOST_USER_PROTOCOL_FEATURES & !(1 << 26) | TRANSPORT;
        let registers = Registers::new(
            offered,
            config,
            device.queue_count(),
            device.queue_size_max(),
        );
        let device_type = u16::try_from(device.device_id())?;
        let function = FakeFunction::new(device_type, registers, Layout::default());
        let (queues, size) = (device.queue_count(), device.queue_size_max());
        let area = InflightRegion::create(queues, size, None, device.record_bytes())?;
        let inflight =
            InflightRegion::from_fd(area.fd.as_fd(), area.offset, area.size, queues, size)?;
        let backend = Self {
            device,
            memory,
            function: function.clone(),
            inflight,
            live: HashMap::new(),
            acked: None,
            bases: HashMap::new(),
        };
        Ok((backend, function))
    }

    /// Lets one queue work once. Returns whether anything was taken or completed.
    ///
    /// # Errors
    /// The driver broke the ring, or the queue cannot be started.
    pub fn serve(&mut self, index: u16) -> anyhow::Result<bool> {
        // Registers are behind a lock, which the driver's doorbell needs too: a polling backend must not fight for it.
        let changes = self.function.changes();
        if let Some(live) = self
            .live
            .get_mut(&index)
            .filter(|live| live.changes == changes)
        {
            return live.run(&self.memory);
        }
        let Some((registers, features)) = self.registers(index) else {
            self.stop(index)?;
            self.bases.remove(&index);
            return Ok(false);
        };
        if self
            .live
            .get(&index)
            .is_none_or(|live| live.epoch != registers.epoch)
        {
            self.stop(index)?;
            let live = self.start(index, &registers, features)?;
            self.live.insert(index, live);
        }
        let live = self.live.get_mut(&index).context("just inserted")?;
        live.changes = changes;
        live.run(&self.memory)
    }

    fn stop(&mut self, index: u16) -> anyhow::Result<()> {
        if let Some(mut live) = self.live.remove(&index) {
            live.take()?;
        }
        Ok(())
    }

    /// Stops everything and resets the device itself, as a session does when the driver has written status 0.
    ///
    /// # Errors
    /// A queue is not where it was left.
    pub fn reset(&mut self) -> anyhow::Result<()> {
        for mut live in std::mem::take(&mut self.live).into_values() {
            live.take()?;
        }
        self.bases.clear();
        self.acked = None;
        self.device.reset();
        self.show_config();
        Ok(())
    }

    /// Shows the driver the device's configuration of now, as after a message that it changed.
    pub fn show_config(&self) {
        let mut config = vec![0; self.device.config_size() as usize];
        self.device.read_config(0, &mut config);
        self.function.registers().change_config(0, &config);
    }

    /// Finishes what is in flight on all queues, as a session does before it stops a ring.
    ///
    /// # Errors
    /// The driver broke the ring.
    pub fn drain(&mut self) -> anyhow::Result<()> {
        for live in self.live.values_mut() {
            let mut queue = live.take()?;
            let drained = live.handler.drain(&mut queue, &self.memory);
            live.put(queue);
            drained?;
        }
        Ok(())
    }

    /// Dies after it took up to `taken` more requests of each queue and staged the completion of up to `staged` of those; none of that
    /// is visible to the driver, only the in-flight record tells the successor, which the next `serve` starts.
    ///
    /// # Errors
    /// The driver broke the ring.
    pub fn kill(&mut self, taken: usize, staged: usize) -> anyhow::Result<()> {
        for (index, mut live) in self.live.drain() {
            let mut batch = ChainBatch::with_capacity(taken, 64);
            let mut queue = live.take()?;
            queue.take(&mut batch, taken)?;
            for chain in batch.iter().take(staged) {
                queue.complete(chain.token, 0)?;
            }
            self.bases.insert(index, (live.epoch, queue.base()));
            // The handler's own clean-up must not finish anything.
            std::mem::forget((live, queue));
        }
        Ok(())
    }

    /// Asks one queue's driver for notifications; true when there is work already.
    pub fn arm(&mut self, index: u16) -> bool {
        self.live
            .get_mut(&index)
            .and_then(|live| live.queue.as_mut())
            .is_some_and(Queue::arm)
    }

    fn registers(&self, index: u16) -> Option<(driver_fakes::QueueRegisters, u64)> {
        let registers = self.function.registers();
        let queue = registers.queues.get(usize::from(index))?.clone();
        (registers.is_live() && queue.enabled).then_some((queue, registers.accepted))
    }

    fn start(
        &mut self,
        index: u16,
        registers: &driver_fakes::QueueRegisters,
        features: u64,
    ) -> anyhow::Result<Live> {
        if self.acked != Some(features) {
            self.device.acked(features & !TRANSPORT);
            self.acked = Some(features);
        }
        let config = QueueConfig::from_features(registers.size, features)?;
        let addresses = RingAddresses {
            descriptors: registers.descriptors,
            driver: registers.driver,
            device: registers.device,
            log: None,
        };
        let fresh = if config.format == Format::Packed {
            0x8000_8000
        } else {
            0
        };
        let former = self
            .bases
            .get(&index)
            .filter(|(epoch, _)| *epoch == registers.epoch);
        let record = self.inflight.record(index, config.format)?;
        if former.is_none() {
            record.forget();
        }
        let queue = Queue::new(QueueSetup {
            config,
            addresses,
            base: former.map_or(fresh, |&(_, base)| base),
            memory: self.memory.clone(),
            record: Some(record),
            call: None,
            counters: Arc::new(QueueCounters::default()),
        })?;
        let handler = self.device.start_queue(index, features)?;
        Ok(Live {
            epoch: registers.epoch,
            changes: 0,
            queue: Some(queue),
            shelf: handler.shelf(),
            handler,
        })
    }
}
