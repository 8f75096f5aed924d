//! The PCI function. Rule: doorbells exist exactly while the driver is up and the BAR is decoded, at the address that
//! it is decoded at; a notification that comes by the slow way is passed on all the same.

use std::sync::Arc;
use std::sync::Mutex;

use host_os::EventFd;
use host_os::sync::lock;
use machine::DoorbellMatch;
use machine::Doorbells;
use machine::Interrupts;
use machine::Ram;
use machine::pci::BarRegion;
use machine::pci::ConfigSpace;
use machine::pci::Msix;
use machine::pci::PciFunction;
use virtio_spec::feature;
use virtio_spec::pci::cap;

use super::FrontendSpec;
use super::core::Core;
use super::core::Notifier;
use super::core::adapt;
use super::core::offer;
use super::core::writable;
use super::layout;
use super::registers::Action;
use super::registers::Registers;
use super::shared_memory;
use crate::Error;
use crate::Result;
use crate::session::QueueSetup;
use crate::session::Session;

/// Features that this transport provides, whatever the backend is: a queue reset is a stop and a start to it, and the
/// data of a notification does not reach it.
const TRANSPORT_FEATURES: u64 = feature::RING_RESET | feature::NOTIFICATION_DATA;

/// A virtio-pci function that a vhost-user backend serves.
pub struct VhostUserDevice {
    space: ConfigSpace,
    /// Offset of the PCI configuration access capability.
    window: usize,
    core: Arc<Mutex<Core>>,
    session: Arc<Session>,
    doorbells: Arc<dyn Doorbells>,
    features: u64,
    /// One for each queue; it is the doorbell's descriptor and the backend's.
    kicks: Vec<Arc<EventFd>>,
    /// One for each vector: what the backend signals.
    calls: Vec<Arc<EventFd>>,
    /// Where interrupts without a vector go.
    no_call: Arc<EventFd>,
    /// Where the BAR is decoded.
    bar_address: Option<u64>,
    /// Where the doorbells are registered.
    doorbells_at: Option<u64>,
}

impl VhostUserDevice {
    /// Connects to the backend (waiting for it as `spec` says) and makes a function of it.
    pub fn connect(
        spec: &FrontendSpec,
        ram: &Ram,
        interrupts: &Arc<dyn Interrupts>,
        doorbells: Arc<dyn Doorbells>,
    ) -> Result<Self> {
        let notifier = Arc::new(Notifier::default());
        let session = Arc::new(Session::connect(
            spec.session()?,
            shared_memory(ram)?,
            notifier.clone(),
        )?);
        let queues = session.queue_count();
        let config_len = u32::try_from(session.config().len()).unwrap_or(0);
        let (mut space, window) = layout::config_space(spec.device_id, config_len)?;
        let msix = Msix::new(interrupts, queues + 1, layout::msix(), &mut space);
        let msix = msix.map_err(|error| Error::Machine {
            what: "interrupt lines",
            reason: error.to_string(),
        })?;
        let sizes = vec![spec.queue_size; queues.into()];
        let offered = (session.offered() | TRANSPORT_FEATURES) & spec.features;
        let offered = offer(spec.device_id, offered, &session.config(), queues);
        let core = Core {
            registers: Registers::new(offered, &sizes, queues + 1),
            msix,
            isr: 0,
            config: Vec::new(),
            device_id: spec.device_id,
        };
        let calls = (0..=queues).map(|vector| share(core.msix.event(vector)));
        let calls = calls.collect::<Result<_>>()?;
        let kicks = (0..queues).map(|_| share(None)).collect::<Result<_>>()?;
        let core = Arc::new(Mutex::new(core));
        // It is set once, here.
        let _ = notifier.target.set(Arc::downgrade(&core));
        // Only now, as a change before this point was reported to nobody.
        lock(&core).config = adapt(spec.device_id, session.config(), queues);
        Ok(Self {
            space,
            window: window.into(),
            core,
            session,
            doorbells,
            features: spec.features,
            kicks,
            calls,
            no_call: share(None)?,
            bar_address: None,
            doorbells_at: None,
        })
    }

    /// The session, to ask how it fares.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    fn carry_out(&mut self, core: &mut Core, action: Action) {
        match action {
            Action::None | Action::ConfigVector => {}
            Action::Reset => self.stop(core),
            Action::Start => self.start(core),
            Action::QueueVector(index) => {
                let call = self.call(core, index);
                self.session.set_call(index, call);
            }
            Action::StartQueue(index) => {
                let setup = self.setup(core, index);
                let started = setup.map_or(Ok(()), |setup| self.session.start_queue(setup));
                check(core, started);
            }
            Action::ResetQueue(index) => drop(self.session.stop_queue(index)),
        }
    }

    fn start(&mut self, core: &mut Core) {
        let count = u16::try_from(self.kicks.len()).unwrap_or(u16::MAX);
        let setups = (0..count).filter_map(|index| self.setup(core, index));
        let started = self
            .session
            .start(core.registers.negotiated(), setups.collect());
        check(core, started);
        self.place_doorbells(core);
    }

    /// The device is reset: the registers already are.
    fn stop(&mut self, core: &mut Core) {
        self.place_doorbells(core);
        self.session.reset();
        for kick in &self.kicks {
            kick.drain();
        }
        core.isr = 0;
        // A backend that came back with other features while a driver was up offers them to the next.
        let offered = (self.session.offered() | TRANSPORT_FEATURES) & self.features;
        let config = self.session.config();
        let count = u16::try_from(self.kicks.len()).unwrap_or(u16::MAX);
        let offered = offer(core.device_id, offered, &config, count);
        core.registers.offer(offered);
        core.replace_config(config);
    }

    /// What the driver set up for a queue, if it enabled it.
    fn setup(&self, core: &Core, index: u16) -> Option<QueueSetup> {
        let at = usize::from(index);
        let queue = core.registers.queues().get(at)?;
        queue.enabled.then_some(QueueSetup {
            index,
            size: queue.size,
            descriptors: queue.descriptors,
            driver: queue.driver,
            device: queue.device,
            kick: Arc::clone(self.kicks.get(at)?),
            call: self.call(core, index),
            base: None,
        })
    }

    fn call(&self, core: &Core, index: u16) -> Arc<EventFd> {
        let queue = core.registers.queues().get(usize::from(index));
        let call = queue.and_then(|queue| self.calls.get(usize::from(queue.vector)));
        Arc::clone(call.unwrap_or(&self.no_call))
    }

    /// Brings the doorbells where they have to be now.
    fn place_doorbells(&mut self, core: &Core) {
        let wanted = self.bar_address.filter(|_| core.registers.running());
        if wanted == self.doorbells_at {
            return;
        }
        if let Some(address) = self.doorbells_at.take() {
            self.for_each_doorbell(address, |doorbells, at, kick| {
                doorbells.unregister(at, DoorbellMatch::Any, kick)
            });
        }
        if let Some(address) = wanted {
            self.for_each_doorbell(address, |doorbells, at, kick| {
                doorbells.register(at, DoorbellMatch::Any, kick)
            });
            self.doorbells_at = Some(address);
        }
    }

    fn for_each_doorbell(
        &self,
        bar_address: u64,
        operation: impl Fn(&dyn Doorbells, u64, &EventFd) -> machine::Result<()>,
    ) {
        for (queue, kick) in (0..).zip(&self.kicks) {
            let at = layout::doorbell(bar_address, queue);
            if let Err(error) = operation(self.doorbells.as_ref(), at, kick) {
                // Not fatal: the write then comes to `bar_write`, only slower.
                tracing::warn!(queue, %error, "a doorbell could not be changed");
            }
        }
    }

    fn write_device_config(&self, core: &mut Core, offset: u64, data: &[u8]) {
        let Ok(offset) = u32::try_from(offset) else {
            return;
        };
        let end = u64::from(offset) + data.len() as u64;
        if end > core.config.len() as u64
            || !writable(
                core.device_id,
                core.registers.negotiated(),
                offset,
                data.len(),
            )
        {
            return;
        }
        if let Err(error) = self.session.write_config(offset, data) {
            tracing::debug!(%error, "a configuration write was not taken");
        }
        core.replace_config(self.session.config());
    }

    /// Where the PCI configuration access window points, if that is a place in the BAR (virtio 1.4, 4.1.4.9).
    fn window_target(&self) -> Option<(u64, usize)> {
        let [bar, ..] = self.space.u16_at(self.window + cap::BAR).to_le_bytes();
        let offset = u64::from(self.space.u32_at(self.window + cap::OFFSET));
        let len = self.space.u32_at(self.window + cap::STRUCTURE_LENGTH);
        let fits = bar == layout::BAR
            && matches!(len, 1 | 2 | 4)
            && offset.is_multiple_of(len.into())
            && offset + u64::from(len) <= layout::BAR_SIZE;
        fits.then_some((offset, usize::try_from(len).ok()?))
    }

    /// Whether a configuration access touches the window's data.
    fn touches_window(&self, offset: u16, len: usize) -> bool {
        let start = usize::from(offset);
        let data = self.window + cap::PCI_CFG_DATA;
        start < data + 4 && data < start + len
    }

    fn read_bar(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let mut core = lock(&self.core);
        let within = offset % layout::PAGE;
        match offset - within {
            layout::COMMON => {
                let at = usize::try_from(within).unwrap_or(usize::MAX);
                core.registers.read(at, data);
            }
            layout::ISR if within == 0 => {
                if let Some(byte) = data.first_mut() {
                    *byte = std::mem::take(&mut core.isr);
                }
            }
            layout::DEVICE => {
                let start = usize::try_from(within).unwrap_or(usize::MAX);
                let bytes = core.config.get(start..).unwrap_or_default();
                for (to, from) in data.iter_mut().zip(bytes) {
                    *to = *from;
                }
            }
            layout::MSIX_TABLE => core.msix.table_read(within, data),
            layout::MSIX_PENDING => core.msix.pba_read(within, data),
            _ => {}
        }
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) {
        if let Some(queue) = layout::doorbell_queue(offset) {
            return self.ring(queue);
        }
        let core = Arc::clone(&self.core);
        let mut core = lock(&core);
        let within = offset % layout::PAGE;
        match offset - within {
            layout::COMMON => {
                let at = usize::try_from(within).unwrap_or(usize::MAX);
                let action = core.registers.write(at, data);
                self.carry_out(&mut core, action);
            }
            layout::DEVICE => self.write_device_config(&mut core, within, data),
            layout::MSIX_TABLE => core.msix.table_write(within, data),
            _ => {}
        }
    }

    /// A notification that no doorbell caught. Before DRIVER_OK it means nothing.
    fn ring(&self, queue: u16) {
        if let Some(kick) = self.kicks.get(usize::from(queue))
            && lock(&self.core).registers.running()
        {
            kick.notify();
        }
    }
}

impl PciFunction for VhostUserDevice {
    fn config(&self) -> &ConfigSpace {
        &self.space
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.space
    }

    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.space.read(offset, data);
        if !self.touches_window(offset, data.len()) {
            return;
        }
        let Some((target, len)) = self.window_target() else {
            return;
        };
        let mut bytes = vec![0; len];
        self.read_bar(target, &mut bytes);
        let window = self.window + cap::PCI_CFG_DATA;
        for (at, byte) in (usize::from(offset)..).zip(data) {
            let shown = at.checked_sub(window).and_then(|at| bytes.get(at));
            *byte = shown.copied().unwrap_or(*byte);
        }
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.space.write(offset, data);
        lock(&self.core).msix.config_written(&self.space);
        if !self.touches_window(offset, data.len()) {
            return;
        }
        if let Some((target, len)) = self.window_target() {
            let value = self.space.u32_at(self.window + cap::PCI_CFG_DATA);
            let bytes = value.to_le_bytes();
            self.write_bar(target, bytes.get(..len).unwrap_or_default());
        }
    }

    fn bars_decoded(&mut self, regions: &[BarRegion]) {
        let region = regions.iter().find(|region| region.bar == layout::BAR);
        self.bar_address = region.map(|region| region.address);
        let core = Arc::clone(&self.core);
        self.place_doorbells(&lock(&core));
    }

    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        if bar == layout::BAR {
            self.read_bar(offset, data);
        }
    }

    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        if bar == layout::BAR {
            self.write_bar(offset, data);
        }
    }

    fn reset(&mut self) {
        let core = Arc::clone(&self.core);
        let mut core = lock(&core);
        core.registers.reset();
        core.msix.reset();
        self.stop(&mut core);
    }
}

impl Drop for VhostUserDevice {
    fn drop(&mut self) {
        // Requests in flight are finished before guest memory goes away.
        drop(self.session.stop());
    }
}

/// A device that the backend did not take is broken until the driver resets it.
fn check(core: &mut Core, started: Result<()>) {
    if let Err(error) = started {
        tracing::error!(%error, "the device could not be started");
        core.needs_reset();
    }
}

/// A descriptor to share: another one of `event`, or a new one.
fn share(event: Option<&EventFd>) -> Result<Arc<EventFd>> {
    let shared = match event {
        Some(event) => event.try_clone(),
        None => EventFd::new(),
    };
    let what = "an event descriptor";
    let shared = shared.map_err(|error| Error::Resource {
        what,
        source: error.into(),
    })?;
    Ok(Arc::new(shared))
}
