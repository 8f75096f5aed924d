//! What the device face, the queue pairs' workers and the switch share of one network card.
//!
//! Rule: the control queue publishes a whole new [`PortState`]; the frame path reads its own copy of the last one and
//! pays one load per batch to know that it still is.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;

use device_model::QueueHandler;
use net_link::Link;
use net_link::Offloads;
use virtio_spec::net::feature;

use crate::path;
use crate::path::inlet::Inlet;
use crate::path::tally::PairTally;
use crate::path::tally::Totals;
use crate::published::Published;
use crate::published::lock;
use crate::switch::Switch;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Bytes of the header without HASH_REPORT (virtio 1.4 sec. 5.1.6).
pub const HEADER: usize = 12;
/// Bytes of the header with HASH_REPORT.
pub const HASH_HEADER: usize = 20;
/// Bytes of the Ethernet header and two VLAN tags, which the MTU does not count.
pub const ETHERNET_ROOM: usize = 14 + 8;
/// Most bytes of any frame, without the virtio-net header.
pub const MAX_FRAME: usize = net_link::MAX_FRAME;

/// What decides where received frames go (virtio 1.4 sec. 5.1.6.5.6 and 5.1.6.5.7).
pub trait Steer: Send + Sync + fmt::Debug {
    /// The queue pair, the hash and its report for the frame that begins with `head` (its Ethernet header): all of a
    /// short frame, at least 128 bytes of a long one.
    fn steer(&self, head: &[u8]) -> Steered;
}

/// The answer of [`Steer::steer`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steered {
    /// The receive queue's pair; taken modulo the pairs in use.
    pub pair: u16,
    /// `hash_value` of the header, with HASH_REPORT.
    pub hash: u32,
    /// `hash_report` of the header.
    pub report: u16,
}

/// Which frames the driver wants (virtio 1.4 sec. 5.1.6.5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveModes {
    /// All frames.
    pub promiscuous: bool,
    /// All multicast frames.
    pub all_multicast: bool,
    /// All unicast frames.
    pub all_unicast: bool,
    /// No multicast frames.
    pub no_multicast: bool,
    /// No unicast frames.
    pub no_unicast: bool,
    /// No broadcast frames.
    pub no_broadcast: bool,
}

/// The VLANs the driver wants, a bit each (virtio 1.4 sec. 5.1.6.5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanSet([u64; 64]);

impl VlanSet {
    /// No VLAN: only untagged frames.
    pub fn empty() -> Self {
        Self([0; 64])
    }

    /// Adds or removes one; ids from 4096 on are none.
    pub fn set(&mut self, id: u16, wanted: bool) -> bool {
        let Some(word) = self.0.get_mut(usize::from(id / 64)) else {
            return false;
        };
        let bit = 1 << (id % 64);
        *word = if wanted { *word | bit } else { *word & !bit };
        true
    }

    /// Whether `id` is wanted.
    #[inline]
    pub fn has(&self, id: u16) -> bool {
        let word = self.0.get(usize::from(id / 64)).copied().unwrap_or(0);
        word & 1 << (id % 64) != 0
    }
}

/// Everything the frame path must know of a port, at one moment.
#[derive(Clone, Debug)]
pub struct PortState {
    /// Features the driver accepted.
    pub features: u64,
    /// The station's address, as configured or set by the driver.
    pub mac: Mac,
    /// Most bytes of a frame that is not segmented, without its Ethernet header; 65535 if nothing was agreed.
    pub mtu: u16,
    /// Whether the cable is in.
    pub link_up: bool,
    /// Queue pairs that the driver uses (VQ_PAIRS_SET), at least 1.
    pub active_pairs: u16,
    /// What frames for the guest may leave to it: its GUEST_* features, or what it chose later with GUEST_OFFLOADS_SET.
    pub offloads: Offloads,
    /// Receive modes.
    pub modes: ReceiveModes,
    /// Further unicast addresses (MAC_TABLE_SET).
    pub unicast: Vec<Mac>,
    /// Multicast addresses.
    pub multicast: Vec<Mac>,
    /// The VLAN filter; `None` without CTRL_VLAN, when every tag passes.
    pub vlans: Option<Box<VlanSet>>,
    /// RSS or hash report, if the driver set one up.
    pub steering: Option<Arc<dyn Steer>>,
}

impl PortState {
    /// A port of this address before any driver came: promiscuous (the state without CTRL_RX), cable in.
    pub fn new(mac: Mac) -> Self {
        Self {
            features: 0,
            mac,
            mtu: u16::MAX,
            link_up: true,
            active_pairs: 1,
            offloads: Offloads::NONE,
            modes: ReceiveModes {
                promiscuous: true,
                ..ReceiveModes::default()
            },
            unicast: Vec::new(),
            multicast: Vec::new(),
            vlans: None,
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
        if self.has(feature::HASH_REPORT) {
            HASH_HEADER
        } else {
            HEADER
        }
    }

    /// Most bytes of a frame that the guest may send unsegmented.
    #[inline]
    pub fn max_frame(&self) -> usize {
        usize::from(self.mtu) + ETHERNET_ROOM
    }

    /// Whether the driver wants a frame to `destination` (virtio 1.4 sec. 5.1.6.5.1, 5.1.6.5.2).
    #[inline]
    pub fn wants(&self, destination: Mac) -> bool {
        if destination == self.mac {
            return !self.modes.no_unicast;
        }
        let modes = &self.modes;
        if destination == [0xff; 6] {
            !modes.no_broadcast
        } else if destination[0] & 1 != 0 {
            !modes.no_multicast
                && (modes.promiscuous
                    || modes.all_multicast
                    || self.multicast.contains(&destination))
        } else {
            !modes.no_unicast
                && (modes.promiscuous || modes.all_unicast || self.unicast.contains(&destination))
        }
    }

    /// Whether the driver wants the VLAN of the frame that begins with `head`.
    #[inline]
    pub fn wants_vlan(&self, head: &[u8]) -> bool {
        let Some(vlans) = &self.vlans else {
            return true;
        };
        match head.get(12..16) {
            Some(&[0x81, 0x00, high, low] | &[0x88, 0xa8, high, low]) => {
                let id = u16::from_be_bytes([high, low]) & 0xfff;
                id == 0 || vlans.has(id)
            }
            _ => true,
        }
    }
}

/// The other end of a port's cable.
pub(crate) enum Attachment {
    /// One link end per queue pair; absent while the pair's worker has it.
    Links(Vec<Mutex<Option<Box<dyn Link>>>>),
    /// A port of a switch of this process.
    Switch(Arc<Switch>),
}

/// One network card between its device face and its network.
pub struct Port {
    name: String,
    state: Published<PortState>,
    attachment: Attachment,
    inlets: Box<[Arc<Inlet>]>,
    tallies: Box<[Arc<PairTally>]>,
}

impl fmt::Debug for Port {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Port")
            .field("name", &self.name)
            .field("pairs", &self.inlets.len())
            .finish_non_exhaustive()
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
    ) -> Result<Arc<Self>, device_model::Error> {
        let pairs = links.len();
        let links = links.into_iter().map(|link| Mutex::new(Some(link)));
        Self::new(name, pairs, Attachment::Links(links.collect()), state)
    }

    /// A port of `switch` with `pairs` queue pairs; it is part of the network until [`Self::unplug`].
    ///
    /// # Errors
    /// No eventfd is to be had, or the switch is full.
    pub fn on_switch(
        name: &str,
        switch: &Arc<Switch>,
        pairs: u16,
        state: PortState,
    ) -> Result<Arc<Self>, device_model::Error> {
        let attachment = Attachment::Switch(Arc::clone(switch));
        let port = Self::new(name, usize::from(pairs), attachment, state)?;
        switch.plug(&port)?;
        Ok(port)
    }

    fn new(
        name: &str,
        pairs: usize,
        attachment: Attachment,
        state: PortState,
    ) -> Result<Arc<Self>, device_model::Error> {
        let tallies: Box<[Arc<PairTally>]> = (0..pairs).map(|_| Arc::default()).collect();
        let inlets = tallies.iter().map(|_| Ok(Arc::new(Inlet::new()?)));
        let inlets = inlets.collect::<Result<_, device_model::Error>>()?;
        Ok(Arc::new(Self {
            name: name.to_owned(),
            state: Published::new(state),
            attachment,
            inlets,
            tallies,
        }))
    }

    /// The port's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Queue pairs.
    pub fn pairs(&self) -> u16 {
        u16::try_from(self.inlets.len()).unwrap_or(u16::MAX)
    }

    /// The state now.
    pub fn state(&self) -> Arc<PortState> {
        self.state.get()
    }

    /// Changes the state; every worker goes on with the new one from its next batch on, sleeping ones are woken.
    pub fn update<R>(&self, change: impl FnOnce(&mut PortState) -> R) -> R {
        let result = self.state.update(change);
        for inlet in &self.inlets {
            inlet.wake();
        }
        result
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

    /// Sends a frame of the host's making out of the port, as the guest would (`SEND_RARP`).
    ///
    /// # Errors
    /// The cable is out, or too many wait.
    pub fn send_own(&self, frame: &[u8]) -> Result<(), device_model::Error> {
        path::send_own(self, frame)
    }

    /// Takes the port out of its switch: frames for it are dropped from now on. Idempotent.
    pub fn unplug(&self) {
        if let Attachment::Switch(switch) = &self.attachment {
            switch.unplug(self);
        }
    }

    /// Sum of all pairs' counters.
    pub fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        for tally in &self.tallies {
            tally.add_to(&mut sum);
        }
        sum
    }

    pub(crate) fn published(&self) -> &Published<PortState> {
        &self.state
    }

    pub(crate) fn inlets(&self) -> &[Arc<Inlet>] {
        &self.inlets
    }

    pub(crate) fn tally(&self, pair: u16) -> Option<&Arc<PairTally>> {
        self.tallies.get(usize::from(pair))
    }

    pub(crate) fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// The link of a pair; its user brings it back.
    pub(crate) fn take_link(&self, pair: u16) -> Option<Box<dyn Link>> {
        match &self.attachment {
            Attachment::Links(links) => lock(links.get(usize::from(pair))?).take(),
            Attachment::Switch(_) => None,
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
