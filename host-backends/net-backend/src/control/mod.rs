//! The control queue (virtio 1.4 sec. 5.1.6.5): what the driver asks of the device beside moving frames.
//!
//! Rule: a request is read once into owned bytes, checked whole, then done whole or refused with ERR; no request breaks
//! the device.

mod command;
mod handler;
mod journal;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use device_model::DeviceRecord;
use device_model::Moderator;
use host_os::sync::lock;
use net_link::Offloads;
use virtio_spec::net::control::Coalescing;
use virtio_spec::net::feature;

use crate::counters::ControlCounters;
use crate::port::Port;
use crate::port::PortState;
use crate::receive_filter::AddressTable;
use crate::rss::Hasher;
use crate::rss::Steering;
use journal::Journal;

pub(crate) use command::Command;
pub(crate) use command::HashSetup;
pub(crate) use command::Limits;
pub(crate) use command::MAX_REQUEST;
pub(crate) use command::Mode;
pub(crate) use command::Refusal;
pub(crate) use command::RssSetup;
pub(crate) use handler::ControlQueue;
pub(crate) use journal::RECORD_BYTES;

/// When the driver is to be interrupted (sec. 5.1.6.5.7), which a device follows as well as it can; a buffer counts as a
/// packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moderation {
    pub max_packets: u32,
    pub max_usecs: u32,
}

impl Moderation {
    pub fn from_wire(wire: Coalescing) -> Self {
        Self {
            max_packets: wire.max_packets.get(),
            max_usecs: wire.max_usecs.get(),
        }
    }

    pub fn to_wire(self) -> Coalescing {
        Coalescing {
            max_packets: self.max_packets.into(),
            max_usecs: self.max_usecs.into(),
        }
    }
}

/// What the driver set up that the frame path does not need.
#[derive(Debug, Default)]
struct Settings {
    /// By virtqueue.
    moderation: Vec<Moderation>,
    /// For queues that start anew: receive, transmit.
    moderation_of_new: [Moderation; 2],
    /// By virtqueue, for queues that a driver set up in another life of this card and that did not start in this yet.
    moderation_of_old: BTreeMap<u16, Moderation>,
    /// What holds back the interrupts of each virtqueue.
    moderators: BTreeMap<u16, Weak<Moderator>>,
    /// Queues that run.
    started: Vec<bool>,
    /// Queues that run or pause: what their driver set for them counts until the front-end stops them.
    alive: BTreeSet<u16>,
}

/// The card as its driver controls it.
#[derive(Debug)]
pub(crate) struct Control {
    port: Arc<Port>,
    pairs: u16,
    /// The announce bit of the status.
    announce: AtomicBool,
    /// Whether the control queue came to us; a front-end may keep it.
    ours: AtomicBool,
    settings: Mutex<Settings>,
    journal: Journal,
    pub counters: ControlCounters,
}

impl Control {
    pub fn new(port: Arc<Port>, pairs: u16) -> Self {
        Self {
            port,
            pairs,
            announce: AtomicBool::new(false),
            ours: AtomicBool::new(false),
            settings: Mutex::default(),
            journal: Journal::default(),
            counters: ControlCounters::default(),
        }
    }

    /// Forgets what the driver set up.
    pub fn reset(&self) {
        *lock(&self.settings) = Settings::default();
        self.journal.clear();
        self.announce.store(false, Ordering::Release);
        self.ours.store(false, Ordering::Release);
    }

    /// Whether the driver is asked to announce itself.
    pub fn announce_wanted(&self) -> bool {
        self.announce.load(Ordering::Acquire)
    }

    /// Asks the driver to announce itself, if it can; the caller tells it that the status changed.
    pub fn want_announce(&self) -> bool {
        let can = self.ours.load(Ordering::Acquire)
            && self.port.state().has(feature::GUEST_ANNOUNCE)
            && self.port.state().has(feature::STATUS);
        if can {
            self.announce.store(true, Ordering::Release);
        }
        can
    }

    /// Where the driver's orders are kept over this process's death.
    pub fn keep_in(&self, record: Option<DeviceRecord>) {
        self.journal.keep_in(record);
    }

    /// The control queue starts here: from now on the driver's word counts (sec. 5.1.6.5.5: one pair until it says more).
    pub fn take_over(&self) {
        if !self.ours.swap(true, Ordering::AcqRel) {
            self.port.update(|state| state.active_pairs = 1);
            let features = self.port.state().features;
            self.journal.begin(features, Vec::new());
        }
    }

    /// A queue is about to start. If the driver gave orders to another life of this card, they count before a frame moves.
    pub fn resume(&self) {
        let limits = self.limits();
        if self.ours.load(Ordering::Acquire) {
            return;
        }
        let Some(mut orders) = self.journal.left_by_another_life(limits.features) else {
            return;
        };
        self.ours.store(true, Ordering::Release);
        self.port.update(|state| state.active_pairs = 1);
        let left = orders.len();
        orders.retain(|order| self.repeat(order, &limits).is_ok());
        tracing::info!(
            name = self.port.name(),
            orders = orders.len(),
            refused = left - orders.len(),
            "what the driver ordered before counts on"
        );
        self.journal.begin(limits.features, orders);
    }

    fn repeat(&self, order: &[u8], limits: &Limits) -> Result<(), Refusal> {
        match Command::parse(order, limits)? {
            Command::ModerateQueue(index, moderation) => {
                // Its queue may start after this one.
                let mut settings = lock(&self.settings);
                settings.moderation_of_old.insert(index, moderation);
                Ok(())
            }
            command if command.lasts() => self.execute(command).map(drop),
            _ => Err(Refusal::Unknown),
        }
    }

    /// The driver's order was carried out, and is to outlive this process.
    pub fn remember(&self, order: &[u8]) {
        self.journal.remember(order);
    }

    /// A data queue starts, with the moderation that new queues have.
    pub fn queue_started(&self, index: u16) {
        let mut settings = lock(&self.settings);
        let queues = usize::from(self.pairs) * 2;
        settings.started.resize(queues, false);
        settings.moderation.resize(queues, Moderation::default());
        if settings.alive.insert(index) {
            self.begin_moderation(&mut settings, index);
        }
        settings.apply();
        if let Some(place) = settings.started.get_mut(usize::from(index)) {
            *place = true;
        }
        self.settle_pairs(&settings);
    }

    /// A data queue's life begins: what was set for all of its kind counts, or what its driver set in another life of this
    /// card.
    fn begin_moderation(&self, settings: &mut Settings, index: u16) {
        let [receive, transmit] = settings.moderation_of_new;
        let new = if index.is_multiple_of(2) {
            receive
        } else {
            transmit
        };
        let old = settings.moderation_of_old.remove(&index);
        if old.is_none() {
            self.journal.forget_moderation(index);
        }
        if let Some(place) = settings.moderation.get_mut(usize::from(index)) {
            *place = old.unwrap_or(new);
        }
    }

    /// The front-end stopped a data queue: what its driver set for it is void when it starts again (sec. 5.1.6.5.7.2).
    pub fn queue_ended(&self, index: u16) {
        lock(&self.settings).alive.remove(&index);
    }

    /// What holds back the interrupts of a data queue, if its driver can ask for that. Without one every interrupt is
    /// sent, as the device may (sec. 5.1.6.5.7.2).
    pub fn moderator(&self, index: u16) -> Option<Arc<Moderator>> {
        let state = self.port.state();
        if !state.has(feature::NOTF_COAL) && !state.has(feature::VQ_NOTF_COAL) {
            return None;
        }
        let made = Moderator::new().map(Arc::new);
        let made = made.inspect_err(|error| tracing::warn!(%error, "interrupts are not held back"));
        let moderator = made.ok()?;
        let mut settings = lock(&self.settings);
        settings
            .moderators
            .insert(index, Arc::downgrade(&moderator));
        Some(moderator)
    }

    /// A data queue stops, perhaps only for a pause.
    pub fn queue_stopped(&self, index: u16) {
        let mut settings = lock(&self.settings);
        if let Some(place) = settings.started.get_mut(usize::from(index)) {
            *place = false;
        }
        self.settle_pairs(&settings);
    }

    /// Without a word of the driver those pairs are in use whose receive queues run, from the first on.
    fn settle_pairs(&self, settings: &Settings) {
        if self.ours.load(Ordering::Acquire) {
            return;
        }
        let receive = settings.started.iter().step_by(2);
        let running = receive.take_while(|running| **running).count();
        let pairs = u16::try_from(running).unwrap_or(u16::MAX).max(1);
        if self.port.state().active_pairs != pairs {
            self.port.update(|state| state.active_pairs = pairs);
        }
    }

    /// What requests are checked against now.
    pub fn limits(&self) -> Limits {
        Limits {
            features: self.port.state().features,
            pairs: self.pairs,
        }
    }

    /// Does what the driver asks; the answer has bytes only for questions.
    pub fn execute(&self, command: Command) -> Result<Option<Coalescing>, Refusal> {
        match command {
            Command::Mode(mode, on) => self.port.update(|state| set_mode(state, mode, on)),
            Command::Table { unicast, multicast } => self.port.update(|state| {
                state.receive.unicast = AddressTable::new(unicast);
                state.receive.multicast = AddressTable::new(multicast);
            }),
            Command::Address(address) => {
                if !self.port.hold_address(address) {
                    return Err(Refusal::Value);
                }
                self.port.update(|state| state.receive.mac = address);
            }
            Command::Vlan(id, wanted) => {
                self.port.update(|state| state.receive.set_vlan(id, wanted))
            }
            Command::AnnounceAck => self.announce.store(false, Ordering::Release),
            Command::Pairs(pairs) => self.set_pairs(pairs),
            Command::Rss(setup) => self.set_rss(setup),
            Command::Hash(setup) => self.set_hash(&setup),
            Command::Offloads(bits) => self
                .port
                .update(|state| state.offloads = guest_offloads(bits)),
            Command::Moderate {
                transmit,
                moderation,
            } => self.moderate(transmit, moderation),
            Command::ModerateQueue(index, moderation) => {
                let mut settings = lock(&self.settings);
                *settings.running(index)? = moderation;
                settings.apply();
            }
            Command::AskModeration(index) => {
                let mut settings = lock(&self.settings);
                return Ok(Some(settings.running(index)?.to_wire()));
            }
        }
        Ok(None)
    }

    /// Back to steering by the device's choice; hash reports go on.
    fn set_pairs(&self, pairs: u16) {
        self.port.update(|state| {
            state.active_pairs = pairs;
            state.steering = None;
        });
    }

    fn set_rss(&self, setup: RssSetup) {
        let hasher = Hasher::new(setup.hash.types, &setup.hash.key);
        let steering = Steering::new(hasher.clone(), setup.table, setup.unclassified);
        let pairs = setup.transmit_pairs.max(steering.highest_pair() + 1);
        self.port.update(|state| {
            state.active_pairs = pairs;
            state.hasher = reported(state, Some(hasher));
            state.steering = Some(Arc::new(steering));
        });
    }

    fn set_hash(&self, setup: &HashSetup) {
        let hasher = (setup.types != 0).then(|| Hasher::new(setup.types, &setup.key));
        self.port
            .update(|state| state.hasher = reported(state, hasher));
    }

    fn moderate(&self, transmit: bool, moderation: Moderation) {
        let mut settings = lock(&self.settings);
        let [receive, send] = &mut settings.moderation_of_new;
        *(if transmit { send } else { receive }) = moderation;
        let odd = usize::from(transmit);
        settings
            .moderation_of_old
            .retain(|index, _| usize::from(index % 2) != odd);
        for place in settings.moderation.iter_mut().skip(odd).step_by(2) {
            *place = moderation;
        }
        settings.apply();
    }
}

impl Settings {
    /// Tells the queues how they are set.
    fn apply(&self) {
        for (index, moderator) in &self.moderators {
            let set = self.moderation.get(usize::from(*index));
            if let (Some(moderator), Some(set)) = (moderator.upgrade(), set) {
                moderator.set(set.max_packets, set.max_usecs);
            }
        }
    }

    /// The moderation of a queue that runs, or pauses without its driver's knowledge.
    fn running(&mut self, index: u16) -> Result<&mut Moderation, Refusal> {
        if !self.alive.contains(&index) {
            return Err(Refusal::Value);
        }
        let place = self.moderation.get_mut(usize::from(index));
        place.ok_or(Refusal::Failed)
    }
}

fn set_mode(state: &mut PortState, mode: Mode, on: bool) {
    let modes = &mut state.receive.modes;
    *match mode {
        Mode::Promiscuous => &mut modes.promiscuous,
        Mode::AllMulticast => &mut modes.all_multicast,
        Mode::AllUnicast => &mut modes.all_unicast,
        Mode::NoMulticast => &mut modes.no_multicast,
        Mode::NoUnicast => &mut modes.no_unicast,
        Mode::NoBroadcast => &mut modes.no_broadcast,
    } = on;
}

/// The hasher, if the driver wants to see hashes.
fn reported(state: &PortState, hasher: Option<Hasher>) -> Option<Arc<Hasher>> {
    hasher
        .filter(|_| state.has(feature::HASH_REPORT))
        .map(Arc::new)
}

/// What a driver with these GUEST_* bits takes.
pub(crate) fn guest_offloads(bits: u64) -> Offloads {
    let has = |bit: u64| bits & bit == bit;
    let csum = has(feature::GUEST_CSUM);
    Offloads {
        csum,
        tso4: csum && has(feature::GUEST_TSO4),
        tso6: csum && has(feature::GUEST_TSO6),
        ecn: has(feature::GUEST_ECN),
        uso: csum && has(feature::GUEST_USO4 | feature::GUEST_USO6),
    }
}
