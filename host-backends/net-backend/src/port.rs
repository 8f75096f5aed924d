//! What the device face, the queue pairs' workers and the switch share of one network card.
//!
//! Rule: the control queue publishes a whole new [`PortState`]; the frame path reads its own copy of the last one and
//! pays one load per batch to know that it still is.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use device_model::QueueHandler;
use host_os::sync::lock;
use net_link::Interface;
use net_link::Link;
use net_link::Offloads;
use virtio_spec::net::header_size;

use crate::Error;
use crate::MacAddress;
use crate::conditions::Condition;
use crate::conditions::ConditionKind;
use crate::conditions::Conditions;
use crate::filter::Filter;
use crate::limit::Limits;
use crate::path;
use crate::path::inlet::Inlet;
pub use crate::path::policy::Policy;
use crate::path::tally::PairTally;
use crate::path::tally::Totals;
use crate::published::Published;
use crate::receive_filter::ReceiveFilter;
use crate::rss::Hasher;
use crate::rss::Steering;
use crate::switch::PortNumber;
use crate::switch::Switch;

/// Bytes of the Ethernet header and two VLAN tags, which the MTU does not count.
pub const ETHERNET_ROOM: usize = 14 + 8;
/// Most bytes of any frame, without the virtio-net header.
pub const MAX_FRAME: usize = net_link::MAX_FRAME;

/// Everything the frame path must know of a port, at one moment.
#[derive(Clone, Debug)]
pub struct PortState {
    /// Features the driver accepted.
    pub features: u64,
    /// Most bytes of a frame that is not segmented, without its Ethernet header; 65535 if nothing was agreed.
    pub mtu: u16,
    /// Whether the cable is in.
    pub link_up: bool,
    /// Queue pairs that the driver uses (VQ_PAIRS_SET, RSS), at least 1.
    pub active_pairs: u16,
    /// What frames for the guest may leave to it: its GUEST_* features, or what it chose later with GUEST_OFFLOADS_SET.
    pub offloads: Offloads,
    /// The station's address, receive modes, address and VLAN tables.
    pub receive: ReceiveFilter,
    /// Computes the hash of the header, with HASH_REPORT.
    pub hasher: Option<Arc<Hasher>>,
    /// Chooses the receive queue, with RSS; without it frames go to the queue of the sender's number.
    pub steering: Option<Arc<Steering>>,
}

impl PortState {
    /// A port of this address before any driver came: everything is received, the cable is in.
    pub fn new(mac: MacAddress) -> Self {
        Self {
            features: 0,
            mtu: u16::MAX,
            link_up: true,
            active_pairs: 1,
            offloads: Offloads::NONE,
            receive: ReceiveFilter::open(mac),
            hasher: None,
            steering: None,
        }
    }

    /// Whether the driver accepted `bit`.
    #[inline]
    pub fn has(&self, bit: u64) -> bool {
        self.features & bit != 0
    }

    /// Bytes of the header before each frame.
    #[inline]
    pub fn header_size(&self) -> usize {
        header_size(self.features)
    }

    /// Most bytes of a frame that the guest may send unsegmented.
    #[inline]
    pub fn max_frame(&self) -> usize {
        (usize::from(self.mtu) + ETHERNET_ROOM).min(MAX_FRAME)
    }
}

/// Bytes per second below which a limit lets less than one full frame of the standard MTU through.
const LEAST_RATE: u64 = 1514;

/// The other end of a port's cable.
pub(crate) enum Attachment {
    /// One link end per queue pair; absent while the pair's worker has it.
    Links(Vec<Mutex<Option<Box<dyn Link>>>>),
    /// A port of a switch of this process, and its number there.
    Switch(Arc<Switch>, PortNumber),
}

/// The part of a port that its switch knows too.
#[derive(Debug)]
pub(crate) struct Core {
    pub name: String,
    pub state: Arc<Published<PortState>>,
    pub policy: Arc<Policy>,
    /// What is wrong.
    pub conditions: Arc<Conditions>,
    /// The receive queues, by pair.
    pub inlets: Box<[Arc<Inlet>]>,
    /// Counters, by pair.
    pub tallies: Box<[Arc<PairTally>]>,
    routing: AtomicU32,
    /// Frames that the host itself wants sent, and whether there are any.
    own: Mutex<Vec<Vec<u8>>>,
    has_own: AtomicBool,
}

/// Most frames of the host's own that wait.
const MAX_OWN: usize = 16;

/// In `Core::routing`: frames are steered by their hash.
const STEERED: u32 = 1 << 16;

/// One network card between its device face and its network.
pub struct Port {
    core: Arc<Core>,
    attachment: Attachment,
}

impl fmt::Debug for Port {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Port")
            .field("name", &self.core.name)
            .field("pairs", &self.core.inlets.len())
            .finish_non_exhaustive()
    }
}

impl Core {
    fn new(name: &str, pairs: usize, state: PortState, policy: Policy) -> Result<Arc<Self>, Error> {
        let tallies: Box<[Arc<PairTally>]> = (0..pairs).map(|_| Arc::default()).collect();
        let state = Arc::new(Published::new(state));
        let policy = Arc::new(policy);
        let conditions = Arc::new(Conditions::new(name));
        let inlets = tallies.iter().map(|tally| {
            let (state, policy) = (Arc::clone(&state), Arc::clone(&policy));
            let inlet = Inlet::new(state, policy, Arc::clone(tally), Arc::clone(&conditions))?;
            Ok(Arc::new(inlet))
        });
        let inlets = inlets.collect::<Result<_, Error>>()?;
        Ok(Arc::new(Self {
            name: name.to_owned(),
            state,
            policy,
            conditions,
            inlets,
            tallies,
            routing: AtomicU32::new(1),
            own: Mutex::default(),
            has_own: AtomicBool::new(false),
        }))
    }

    fn update<R>(&self, change: impl FnOnce(&mut PortState) -> R) -> R {
        let result = self.state.update(change);
        let state = self.state.get();
        let steered = if state.steering.is_some() { STEERED } else { 0 };
        let routing = u32::from(state.active_pairs.max(1)) | steered;
        self.routing.store(routing, Ordering::Release);
        for inlet in &self.inlets {
            inlet.wake();
        }
        result
    }

    /// Lets a frame of the host's own wait for the first pair's worker; `false` if too many do.
    pub fn add_own(&self, frame: &[u8]) -> bool {
        let mut own = lock(&self.own);
        if own.len() >= MAX_OWN {
            return false;
        }
        own.push(frame.to_vec());
        self.has_own.store(true, Ordering::Release);
        drop(own);
        if let Some(first) = self.inlets.first() {
            first.wake();
        }
        true
    }

    /// Whether frames of the host's own wait.
    #[inline]
    pub fn has_own(&self) -> bool {
        self.has_own.load(Ordering::Acquire)
    }

    /// The frames of the host's own.
    pub fn take_own(&self) -> Vec<Vec<u8>> {
        let mut own = lock(&self.own);
        self.has_own.store(false, Ordering::Release);
        std::mem::take(&mut *own)
    }

    /// Receive queues that frames may go to, the first ones.
    #[inline]
    pub fn active_pairs(&self) -> usize {
        (self.routing.load(Ordering::Relaxed) & (STEERED - 1)) as usize
    }

    /// What chooses the receive queue, if anything does.
    #[inline]
    pub fn steering(&self) -> Option<Arc<Steering>> {
        if self.routing.load(Ordering::Acquire) & STEERED == 0 {
            return None;
        }
        self.state.get().steering.clone()
    }
}

impl Port {
    /// A port on `links`, one for each of its queue pairs.
    ///
    /// # Errors
    /// No eventfd is to be had.
    pub fn on_links(
        name: &str,
        links: Vec<Box<dyn Link>>,
        state: PortState,
        policy: Policy,
    ) -> Result<Arc<Self>, Error> {
        let core = Core::new(name, links.len(), state, policy)?;
        let links = links.into_iter().map(|link| Mutex::new(Some(link)));
        Ok(Arc::new(Self {
            core,
            attachment: Attachment::Links(links.collect()),
        }))
    }

    /// A port of `switch` with `pairs` queue pairs; it is part of the network until it is dropped.
    ///
    /// # Errors
    /// No eventfd is to be had, or the switch is full.
    pub fn on_switch(
        name: &str,
        switch: &Arc<Switch>,
        pairs: u16,
        state: PortState,
        policy: Policy,
    ) -> Result<Arc<Self>, Error> {
        let core = Core::new(name, usize::from(pairs), state, policy)?;
        let number = switch.plug(&core)?;
        Ok(Arc::new(Self {
            core,
            attachment: Attachment::Switch(Arc::clone(switch), number),
        }))
    }

    /// The port's name, for messages.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Queue pairs.
    pub fn pairs(&self) -> u16 {
        u16::try_from(self.core.inlets.len()).unwrap_or(u16::MAX)
    }

    /// What the operator wants done to the frames.
    pub fn policy(&self) -> &Policy {
        &self.core.policy
    }

    /// The state now.
    pub fn state(&self) -> Arc<PortState> {
        self.core.state.get()
    }

    /// Changes the state; every worker goes on with the new one from its next batch on, sleeping ones are woken.
    pub fn update<R>(&self, change: impl FnOnce(&mut PortState) -> R) -> R {
        self.core.update(change)
    }

    /// The handler of transmit queue `pair` (virtqueue `2 * pair + 1`), which serves both directions.
    ///
    /// # Errors
    /// There is no such pair, its link is still with another worker, or no descriptor is to be had.
    pub fn transmit_handler(
        self: &Arc<Self>,
        pair: u16,
    ) -> Result<Box<dyn QueueHandler>, device_model::Error> {
        path::transmit_handler(self, pair)
    }

    /// The handler of receive queue `pair` (virtqueue `2 * pair`), which shelves the queue.
    ///
    /// # Errors
    /// There is no such pair.
    pub fn receive_handler(
        self: &Arc<Self>,
        pair: u16,
    ) -> Result<Box<dyn QueueHandler>, device_model::Error> {
        path::receive_handler(self, pair)
    }

    /// Sends a frame of the host's making out of the port, as the guest would (`SEND_RARP`). It leaves with the next
    /// batch of the first pair, or at once into a switch.
    ///
    /// # Errors
    /// The cable is out, or too many wait.
    pub fn send_own(&self, frame: &[u8]) -> Result<(), device_model::Error> {
        path::send_own(self, frame)
    }

    /// Sum of all pairs' counters.
    pub fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        for tally in &self.core.tallies {
            tally.add_to(&mut sum);
        }
        sum
    }

    /// Limits each direction; at once.
    pub fn set_limits(&self, limits: Limits) {
        self.policy().set_limits(limits);
        let conditions = &self.core.conditions;
        if (1..LEAST_RATE).contains(&limits.bytes) {
            conditions.raise(ConditionKind::RateLimit, || {
                let bytes = limits.bytes;
                format!("`rate-bytes` of {bytes} lets less than one full frame through in a second: it is in bytes per second")
            });
        } else {
            conditions.clear(ConditionKind::RateLimit);
        }
    }

    /// Compares the card, whose MTU is `mtu`, with the interface behind its link.
    pub(crate) fn compare(&self, interface: &Interface, mtu: u16) {
        let conditions = &self.core.conditions;
        let name = interface.name();
        match interface.mtu().filter(|theirs| *theirs != u32::from(mtu)) {
            Some(theirs) => {
                conditions.raise(ConditionKind::Mtu, || {
                    format!(
                        "The MTU of the card is {mtu} and that of {name} is {theirs}, so that the larger packets of one \
                         side do not reach the other: `mtu = {theirs}` for the card (and the guest), or `ip link set \
                         {name} mtu {mtu}`"
                    )
                });
            }
            None => conditions.clear(ConditionKind::Mtu),
        }
        if interface.is_up() == Some(false) {
            conditions.raise(ConditionKind::Interface, || {
                format!(
                    "The interface {name} is down, and no frame passes: `ip link set {name} up`"
                )
            });
        } else {
            conditions.clear(ConditionKind::Interface);
        }
    }

    /// The driver says that it has this address; whether it may, which is told if not.
    pub(crate) fn hold_address(&self, mac: MacAddress) -> bool {
        let filter = self.policy().filter.as_ref();
        if let Some(own) = filter.map(Filter::mac).filter(|own| *own != mac) {
            self.core.conditions.raise(ConditionKind::Spoofed, || {
                format!(
                    "The guest may not have the address {mac}: `mac-filter` holds it to {own}; give the card \
                     `mac = {mac}`, or `mac-filter = false`"
                )
            });
            return false;
        }
        match &self.attachment {
            Attachment::Switch(switch, number) => switch.hold(*number, mac).is_ok(),
            Attachment::Links(_) => true,
        }
    }

    /// The front-end says that a guest with this address has come here.
    pub(crate) fn arrived(&self, mac: MacAddress) {
        if let Attachment::Switch(switch, number) = &self.attachment {
            switch.arrived(*number, mac);
        }
    }

    /// The driver is gone, and what was so because of it.
    pub(crate) fn release(&self) {
        self.core.conditions.clear_drivers();
        if let Attachment::Switch(switch, number) = &self.attachment {
            switch.release(*number);
        }
    }

    /// What is wrong now, in words.
    pub fn conditions(&self) -> Vec<Condition> {
        self.core.conditions.list()
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// The link of a pair; its user brings it back.
    pub(crate) fn take_link(&self, pair: u16) -> Option<Box<dyn Link>> {
        match &self.attachment {
            Attachment::Links(links) => lock(links.get(usize::from(pair))?).take(),
            Attachment::Switch(..) => None,
        }
    }

    pub(crate) fn return_link(&self, pair: u16, link: Box<dyn Link>) {
        if let Attachment::Links(links) = &self.attachment
            && let Some(place) = links.get(usize::from(pair))
        {
            *lock(place) = Some(link);
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Attachment::Switch(switch, number) = &self.attachment {
            switch.unplug(*number);
        }
    }
}
