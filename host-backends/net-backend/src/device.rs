//! A network card as a virtio device: what it offers, how it starts queues, how it changes while it runs.
//!
//! Rule: nothing here is on the frame path; workers see changes through the port's published state.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;

use device_model::ConfigNotifier;
use device_model::Device;
use device_model::DeviceRecord;
use device_model::QueueHandler;
use device_model::fingerprint;
use host_os::sync::lock;
use net_link::Interface;
use virtio_spec::device_id;
use virtio_spec::feature as ring;
use virtio_spec::net::Config;
use virtio_spec::net::feature as net;

use crate::Error;
use crate::LinkChoice;
use crate::MacAddress;
use crate::NetSpec;
use crate::cable::Cable;
use crate::capture::Capture;
use crate::check_mtu;
use crate::conditions::Condition;
use crate::config;
use crate::config::Shown;
use crate::control::Control;
use crate::control::ControlQueue;
use crate::control::RECORD_BYTES;
use crate::control::guest_offloads;
use crate::counters::Metrics;
use crate::filter::Filter;
use crate::limit::Limits;
use crate::port::Policy;
use crate::port::Port;
use crate::port::PortState;
use crate::presence::Present;
use crate::rarp;
use crate::switch::Fabric;

/// Smallest MTU that a front-end may name: the least that IPv4 allows.
const LEAST_MTU: u16 = 68;

/// One network card, shared by its queues.
pub struct NetDevice {
    spec: NetSpec,
    features: u64,
    mac: MacAddress,
    /// What the configuration space shows, and a driver of now was promised.
    mtu: AtomicU16,
    /// What it shows from the next reset on.
    next_mtu: AtomicU16,
    /// The front-end's word on the MTU in this session; 0 for none.
    told_mtu: AtomicU16,
    /// The operator named the MTU.
    mtu_named: AtomicBool,
    port: Arc<Port>,
    control: Arc<Control>,
    cable: Arc<Cable>,
    /// What is behind the link, or behind the switch's uplink.
    interface: Option<Arc<Interface>>,
    notify: Mutex<Option<ConfigNotifier>>,
}

impl std::fmt::Debug for NetDevice {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("NetDevice")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl NetDevice {
    /// Opens the link of `spec`, or plugs it into its switch of `fabric`. `name` stands in messages, and makes the
    /// address if `spec` has none.
    ///
    /// # Errors
    /// The specification is wrong, or its link cannot be opened.
    pub fn open(name: &str, spec: NetSpec, fabric: &Fabric) -> Result<Arc<Self>, Error> {
        spec.check().map_err(Error::Spec)?;
        let mac = spec
            .mac
            .unwrap_or_else(|| MacAddress::from_fingerprint(fingerprint(&[name.as_bytes()])));
        let state = PortState::new(mac);
        let policy = policy(&spec, mac)?;
        let cable = Arc::<Cable>::default();
        let interface;
        let port = match &spec.link {
            LinkChoice::Switch(switch) => {
                let switch = fabric.switch(switch);
                interface = switch.interface();
                Port::on_switch(name, &switch, spec.queue_pairs, state, policy)?
            }
            LinkChoice::Outside(link) => {
                let mut ends = net_link::open(link, spec.queue_pairs)?;
                interface = ends.first().and_then(|end| end.interface());
                for end in &mut ends {
                    // Until a worker reads it; a front-end may enable some pairs only.
                    end.detach()?;
                    end.watch(cable.end());
                }
                Port::on_links(name, ends, state, policy)?
            }
        };
        tracing::info!(name, link = %spec.link, %mac, pairs = spec.queue_pairs, "network card is ready");
        port.set_limits(Limits {
            bytes: spec.rate_bytes,
            packets: spec.rate_packets,
        });
        let mtu = spec.shown_mtu();
        let device = Arc::new(Self {
            features: config::features(&spec),
            control: Arc::new(Control::new(Arc::clone(&port), spec.queue_pairs)),
            mac,
            mtu: AtomicU16::new(mtu),
            next_mtu: AtomicU16::new(mtu),
            told_mtu: AtomicU16::new(0),
            mtu_named: AtomicBool::new(spec.mtu.is_some()),
            port,
            cable,
            interface,
            notify: Mutex::new(None),
            spec,
        });
        device.cable.belongs_to(&device);
        device.settle_cable();
        device.look_at_interface();
        Ok(device)
    }

    /// What the card was opened with.
    pub fn spec(&self) -> &NetSpec {
        &self.spec
    }

    /// The card's state, which its workers see.
    pub fn port(&self) -> &Arc<Port> {
        &self.port
    }

    #[cfg(test)]
    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// The address that the guest has now.
    pub fn mac(&self) -> MacAddress {
        self.port.state().receive.mac
    }

    /// The MTU that the guest is told.
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Ordering::Acquire)
    }

    /// Whether frames get through: the operator left the cable in, and the link works.
    pub fn link_up(&self) -> bool {
        self.port.state().link_up
    }

    /// Queue pairs that the driver uses.
    pub fn active_pairs(&self) -> u16 {
        self.port.state().active_pairs
    }

    /// The features that the driver accepted.
    pub fn features_in_use(&self) -> u64 {
        self.port.state().features
    }

    /// Sum of all queues' counters.
    pub fn metrics(&self) -> Metrics {
        Metrics::of(&self.port, &self.control)
    }

    /// Puts the cable in or pulls it; the guest is told.
    pub fn set_link(&self, up: bool) {
        self.cable.pull(!up);
        self.settle_cable();
    }

    /// The limits of each direction.
    pub fn limits(&self) -> Limits {
        self.port.policy().limits()
    }

    /// Limits each direction; at once.
    pub fn set_limits(&self, limits: Limits) {
        self.port.set_limits(limits);
    }

    /// What is wrong now: what makes the card useless, or less useful than it looks.
    pub fn conditions(&self) -> Vec<Condition> {
        self.look_at_interface();
        self.port.conditions()
    }

    /// Whether frames are recorded; `None` without a file for them.
    pub fn capturing(&self) -> Option<bool> {
        let capture = self.port.policy().capture.as_ref();
        capture.map(|capture| capture.is_on())
    }

    /// Records frames from now on, or no more; `false` without a file for them.
    pub fn set_capture(&self, on: bool) -> bool {
        let capture = self.port.policy().capture.as_ref();
        capture.map(|capture| capture.set(on)).is_some()
    }

    /// Changes the MTU that the guest is told: at once, or from its driver's next start if the present one was promised
    /// another (virtio 1.4 sec. 5.1.4.1). Returns whether it is at once.
    ///
    /// # Errors
    /// It is none that a guest can be told.
    pub fn change_mtu(&self, mtu: u16) -> Result<bool, Error> {
        check_mtu(mtu).map_err(|fault| Error::Spec(vec![fault]))?;
        self.next_mtu.store(mtu, Ordering::Release);
        self.mtu_named.store(true, Ordering::Release);
        let promised = self.port.state().has(net::MTU);
        if !promised {
            self.mtu.store(mtu, Ordering::Release);
            self.notify_config_change();
        }
        self.look_at_interface();
        Ok(!promised)
    }

    /// Compares the card with the interface behind its link.
    fn look_at_interface(&self) {
        let Some(interface) = &self.interface else {
            return;
        };
        let own = match self.told_mtu.load(Ordering::Acquire) {
            0 => self.mtu(),
            told => told,
        };
        self.port.compare(interface, own);
    }

    /// Takes on what operator and link say about the cable.
    pub(crate) fn settle_cable(&self) {
        let up = self.cable.is_in();
        let was = self
            .port
            .update(|state| std::mem::replace(&mut state.link_up, up));
        if was == up {
            return;
        }
        tracing::info!(name = self.port.name(), up, "the link changed");
        if up {
            // Switches on the way may have forgotten the guest.
            self.control.want_announce();
        }
        self.notify_config_change();
    }

    fn notify_config_change(&self) {
        let notify = lock(&self.notify).clone();
        if let Some(notify) = notify {
            notify();
        }
    }

    /// What frames are held to: the front-end's word, which may come before the features, or the operator's. A
    /// front-end that says nothing may show its driver a configuration of its own, so ours by default binds nobody.
    fn agreed_mtu(&self) -> u16 {
        match self.told_mtu.load(Ordering::Acquire) {
            0 if self.mtu_named.load(Ordering::Acquire) => self.mtu(),
            0 => u16::MAX,
            told => told,
        }
    }

    fn config(&self) -> Config {
        let state = self.port.state();
        let shown = Shown {
            mac: state.receive.mac.0,
            mtu: self.mtu(),
            link_up: state.link_up,
            announce: self.control.announce_wanted(),
        };
        config::space(&self.spec, shown)
    }

    /// Where the control queue is for a driver with these features (sec. 5.1.2): after all pairs, or after one.
    fn control_index(&self, features: u64) -> Option<u16> {
        let several = features & (net::MQ | net::RSS) != 0;
        let data = if several { self.spec.data_queues() } else { 2 };
        (features & net::CTRL_VQ != 0).then_some(data)
    }
}

/// What the operator wants done to the frames.
fn policy(spec: &NetSpec, mac: MacAddress) -> Result<Policy, Error> {
    let mut policy = Policy::default();
    if spec.filters_mac() {
        policy.filter = Some(Filter::new(mac, spec.allow_ip.clone()));
    }
    if let Some(path) = &spec.capture {
        let capture = Capture::create(path, spec.capture_paused).map_err(|source| {
            let path = path.clone();
            Error::Capture { path, source }
        })?;
        policy.capture = Some(Arc::new(capture));
    }
    Ok(policy)
}

impl Device for NetDevice {
    fn device_id(&self) -> u32 {
        device_id::NET
    }

    fn queue_count(&self) -> u16 {
        self.spec.data_queues() + u16::from(self.spec.control_queue)
    }

    fn queue_size_max(&self) -> u16 {
        self.spec.queue_size
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn acked(&self, features: u64) {
        if features != 0 && self.port.state().features == features {
            // Said again while rings run, as at the start of a migration: what the driver chose since stays.
            return;
        }
        let mtu = self.agreed_mtu();
        self.port.update(|state| {
            state.features = features;
            state.offloads = guest_offloads(features);
            state.mtu = if state.has(net::MTU) { mtu } else { u16::MAX };
        });
    }

    fn config_size(&self) -> u32 {
        u32::try_from(size_of::<Config>()).unwrap_or(0)
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        config::read(&self.config(), offset, out);
    }

    /// Nothing but the address of a legacy driver that cannot set it by a command: it writes it here, byte by byte
    /// (sec. 5.1.4.3).
    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), device_model::Error> {
        let refused = || device_model::Error::Config {
            offset,
            len: data.len(),
        };
        let from = usize::try_from(offset).map_err(|_| refused())?;
        self.port.update(|state| {
            let by_command = state.has(ring::VERSION_1) || state.has(net::CTRL_MAC_ADDR);
            let place = state.receive.mac.0.get_mut(from..from + data.len());
            match place.filter(|_| state.features & net::MAC != 0 && !by_command) {
                Some(place) => {
                    place.copy_from_slice(data);
                    Ok(())
                }
                None => Err(refused()),
            }
        })
    }

    fn start_queue(
        &self,
        index: u16,
        features: u64,
    ) -> Result<Box<dyn QueueHandler>, device_model::Error> {
        self.control.resume();
        if self.control_index(features) == Some(index) {
            return Ok(Box::new(ControlQueue::new(Arc::clone(&self.control))));
        }
        let pair = index / 2;
        let handler = if index.is_multiple_of(2) {
            self.port.receive_handler(pair)?
        } else {
            self.port.transmit_handler(pair)?
        };
        Ok(Box::new(Present::new(handler, &self.control, index)))
    }

    fn queue_ended(&self, index: u16) {
        self.control.queue_ended(index);
    }

    fn reset(&self) {
        self.control.reset();
        self.port.release();
        let mtu = self.next_mtu.load(Ordering::Acquire);
        self.mtu.store(mtu, Ordering::Release);
        self.told_mtu.store(0, Ordering::Release);
        self.port.update(|state| {
            let link_up = state.link_up;
            *state = PortState::new(self.mac);
            state.link_up = link_up;
        });
    }

    fn on_config_change(&self, notify: ConfigNotifier) {
        *lock(&self.notify) = Some(notify);
    }

    fn record_bytes(&self) -> u32 {
        if self.spec.control_queue {
            RECORD_BYTES
        } else {
            0
        }
    }

    fn keep_in(&self, record: Option<DeviceRecord>) {
        self.control.keep_in(record);
    }

    fn is_network(&self) -> bool {
        true
    }

    fn set_mtu(&self, mtu: u16) -> Result<(), device_model::Error> {
        if mtu < LEAST_MTU {
            return Err(device_model::Error::Unsupported);
        }
        tracing::debug!(mtu, "the front-end names the MTU");
        self.told_mtu.store(mtu, Ordering::Release);
        self.port.update(|state| state.mtu = mtu);
        self.look_at_interface();
        Ok(())
    }

    fn announce(&self, mac: [u8; 6]) -> Result<(), device_model::Error> {
        if self.control.want_announce() {
            self.notify_config_change();
        }
        self.port.arrived(MacAddress(mac));
        self.port.send_own(&rarp::announcement(mac))
    }
}
