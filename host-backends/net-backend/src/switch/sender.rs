//! How a burst gets from one port of a switch to the others: by the sender's worker, a destination at a time.
//!
//! Rule: one receiver's lock at a time, taken once per burst and destination; a receiver that has no buffers costs the
//! sender one short wait, and none more until it has had some.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use guest_memory::GuestMemory;

use crate::path::inlet::Inlet;
use crate::path::receive::Outcome;
use crate::path::receive::Receiving;
use crate::path::soften::soften;
use crate::path::tally::TransmitTally;
use crate::path::transmit::Burst;
use crate::path::transmit::Departing;
use crate::path::transmit::Frame;
use crate::port::Core;
use crate::published::Follower;
use crate::switch::PortNumber;
use crate::switch::Ports;
use crate::switch::Station;
use crate::switch::Switch;
use crate::switch::claims::Verdict;
use crate::switch::table::Address;

/// How long a burst waits for a receiver's buffers: about what a guest needs to take an interrupt and add some.
const PATIENCE: Duration = Duration::from_micros(50);
/// Answers that a sender keeps.
const KNOWN: usize = 16;
/// Frame for all other ports.
const FLOOD: u16 = u16::MAX;
/// Frame for nobody.
const NOWHERE: u16 = u16::MAX - 1;
/// Frame that is delivered.
const GONE: u16 = u16::MAX - 2;

/// Where the frames of a burst go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ways {
    /// There are none.
    None,
    /// All to one port, or all to nobody.
    One(u16),
    /// To several ports.
    Several,
    /// One at least to all ports.
    All,
}

impl Ways {
    #[inline]
    fn and(self, to: u16) -> Self {
        match self {
            Self::All => self,
            _ if to == FLOOD => Self::All,
            Self::None => Self::One(to),
            Self::One(before) if before == to => self,
            Self::One(_) | Self::Several => Self::Several,
        }
    }
}

/// An answer of the table.
#[derive(Clone, Copy, Debug)]
struct Known {
    address: Address,
    to: u16,
    /// Until the table changes, or a second has passed.
    changes: u32,
    second: u32,
}

/// No answer: its second never comes.
const UNKNOWN: Known = Known {
    address: Address::ZERO,
    to: NOWHERE,
    changes: 0,
    second: u32::MAX,
};

/// One sender's view of its switch.
#[derive(Debug)]
pub(crate) struct Sender {
    switch: Arc<Switch>,
    number: u16,
    pair: u16,
    ports: Follower<Ports>,
    known: [Known; KNOWN],
    /// The source learned last, and when.
    source: (Address, u32),
}

impl Sender {
    pub fn new(switch: &Arc<Switch>, number: PortNumber, pair: u16) -> Self {
        Self {
            switch: Arc::clone(switch),
            number: number.0,
            pair,
            ports: switch.ports.follow(),
            known: [UNKNOWN; KNOWN],
            source: (Address::ZERO, u32::MAX),
        }
    }

    /// Delivers all frames of the burst, which were read from `memory`.
    pub fn forward(&mut self, burst: &mut Burst, memory: &GuestMemory, tally: &TransmitTally) {
        if self.ports.refresh(&self.switch.ports) {
            self.known = [UNKNOWN; KNOWN];
            self.source = (Address::ZERO, u32::MAX);
        }
        let ways = self.address(burst);
        let ports = Arc::clone(self.ports.get());
        if let Ways::One(to) = ways {
            if let Some(Some(port)) = ports.list.get(usize::from(to)) {
                self.bring(port, burst, memory, |_| true);
            }
        } else if ways == Ways::All {
            for (number, port) in ports.list.iter().enumerate() {
                if let Some(port) = port.as_ref().filter(|_| number != usize::from(self.number)) {
                    let number = number as u16;
                    let picks = |frame: &Frame| frame.to == number || frame.to == FLOOD;
                    self.bring(port, burst, memory, picks);
                }
            }
        } else {
            self.deliver_in_turn(&ports, burst, memory);
        }
        self.count(burst, tally);
    }

    #[inline]
    fn count(&self, burst: &Burst, tally: &TransmitTally) {
        let (mut frames, mut bytes, mut nowhere) = (0, 0, 0);
        for frame in &burst.frames {
            if frame.to == NOWHERE {
                nowhere += 1;
            } else {
                frames += 1;
                bytes += u64::from(frame.len);
            }
        }
        tally.frames.add(frames);
        tally.bytes.add(bytes);
        if nowhere != 0 {
            tally.nowhere.add(nowhere);
        }
    }

    /// Destination by destination, in the order of their first frames.
    #[inline]
    fn deliver_in_turn(&self, ports: &Ports, burst: &mut Burst, memory: &GuestMemory) {
        let mut position = 0;
        while let Some(frame) = burst.frames.get(position) {
            let to = frame.to;
            position += 1;
            if to >= GONE {
                continue;
            }
            if let Some(Some(port)) = ports.list.get(usize::from(to)) {
                self.bring(port, burst, memory, |frame| frame.to == to);
            }
            for frame in &mut burst.frames {
                if frame.to == to {
                    frame.to = GONE;
                }
            }
        }
    }

    /// Finds each frame's destination and learns its source.
    #[inline]
    fn address(&mut self, burst: &mut Burst) -> Ways {
        let now = self.switch.now();
        let changes = self.switch.table.changes();
        let mut ways = Ways::None;
        for position in 0..burst.frames.len() {
            let head = burst.head(position);
            let Some((destination, rest)) = head.split_first_chunk::<6>() else {
                continue;
            };
            let to = self.find(Address::new(*destination), changes, now);
            if let Some(source) = rest.first_chunk::<6>() {
                self.learn(Address::new(*source), to, now);
            }
            ways = ways.and(to);
            if let Some(frame) = burst.frames.get_mut(position) {
                frame.to = to;
            }
        }
        ways
    }

    #[inline]
    fn learn(&mut self, source: Address, to: u16, now: u32) {
        if self.source == (source, now) {
            return;
        }
        self.learn_anew(source, to, now);
    }

    /// A frame from `source` goes to port `to`.
    fn learn_anew(&mut self, source: Address, to: u16, now: u32) {
        if !source.is_station() {
            return;
        }
        let switch = &self.switch;
        let heard = switch.table.port(source, now);
        let verdict = self.ports.judge(source, self.number, to, heard);
        match verdict {
            Verdict::Learn => {}
            Verdict::Claim | Verdict::Displace => {
                switch.claim(source, self.number, verdict);
            }
            Verdict::Refuse(holder) => {
                switch.collided(self.ports.get(), source, self.number, holder);
            }
            // The next frame may show that it does not come back.
            Verdict::Ignore => return,
        }
        self.source = (source, now);
        if !matches!(verdict, Verdict::Refuse(_)) {
            switch.table.learn(source, self.number, now);
        }
    }

    #[inline]
    fn find(&mut self, address: Address, changes: u32, now: u32) -> u16 {
        let at = address.slot(KNOWN);
        if let Some(known) = self.known.get(at)
            && known.address == address
            && known.changes == changes
            && known.second == now
        {
            return known.to;
        }
        let to = self.look_up(address, now);
        if let Some(known) = self.known.get_mut(at) {
            *known = Known {
                address,
                to,
                changes,
                second: now,
            };
        }
        to
    }

    fn look_up(&self, address: Address, now: u32) -> u16 {
        if address.is_group() {
            return FLOOD;
        }
        let owner = self.ports.claims.port(address);
        match owner.or_else(|| self.switch.table.port(address, now)) {
            Some(port) if port == self.number => NOWHERE,
            Some(port) => port,
            None => FLOOD,
        }
    }

    #[inline]
    fn bring(
        &self,
        station: &Station,
        burst: &mut Burst,
        memory: &GuestMemory,
        picks: impl Fn(&Frame) -> bool,
    ) {
        match station {
            Station::Card(port) => self.deliver(port, burst, memory, picks),
            Station::Uplink(uplink) => uplink.send(burst, memory, picks),
        }
    }

    /// Delivers the frames that `picks` picks to `port`.
    #[inline]
    fn deliver(
        &self,
        port: &Core,
        burst: &mut Burst,
        memory: &GuestMemory,
        picks: impl Fn(&Frame) -> bool,
    ) {
        let inlets = &port.inlets;
        let active = port.active_pairs().clamp(1, inlets.len().max(1));
        if let Some(steering) = port.steering() {
            for (pair, inlet) in inlets.iter().enumerate().take(active) {
                let mine = |head: &[u8]| {
                    let hash = steering.hasher().frame(head);
                    usize::from(steering.pair(hash)) % active == pair
                };
                hand_over(inlet, burst, memory, |frame, head| {
                    picks(frame) && mine(head)
                });
            }
        } else if let Some(inlet) = inlets.get(usize::from(self.pair) % active) {
            hand_over(inlet, burst, memory, |frame, _| picks(frame));
        }
    }
}

/// Puts the frames that `picks` picks into a receive queue.
#[inline]
fn hand_over(
    inlet: &Inlet,
    burst: &mut Burst,
    memory: &GuestMemory,
    picks: impl Fn(&Frame, &[u8]) -> bool,
) {
    let count = burst.frames.len();
    let mut position = 0;
    let mut deadline = None;
    while position < count {
        let mut queue = inlet.open();
        let before = position;
        while let Some(frame) = burst.frames.get(position) {
            if picks(frame, burst.head(position))
                && let Some(mut frame) = burst.depart(memory, position)
            {
                match queue.deliver(&mut frame) {
                    Outcome::Done => {}
                    Outcome::Unfit => queue = deliver_softened(inlet, queue, &frame),
                    Outcome::Starved => break,
                }
            }
            position += 1;
        }
        if position >= count {
            return;
        }
        if position != before {
            deadline = None;
        }
        if !queue.is_worth_waiting() || is_over(&mut deadline) {
            let left = (position..count).filter(|at| {
                let frame = burst.frames.get(*at);
                frame.is_some_and(|frame| picks(frame, burst.head(*at)))
            });
            queue.starve(left.count() as u64);
            return;
        }
        drop(queue);
        // The receiver may need this very CPU to add buffers.
        std::thread::yield_now();
    }
}

/// Whether the wait that began with the first such question is over.
fn is_over(deadline: &mut Option<Instant>) -> bool {
    let now = Instant::now();
    now >= *deadline.get_or_insert(now + PATIENCE)
}

/// Finishes a frame in software for a receiver that cannot take it as it is. Its pieces wait for buffers as frames do.
#[cold]
fn deliver_softened<'a>(
    inlet: &'a Inlet,
    queue: Receiving<'a>,
    frame: &Departing<'_>,
) -> Receiving<'a> {
    let accepts = queue.view().offloads();
    let mut opened = Some(queue);
    let softened = soften(frame, accepts, &mut Vec::new(), |mut piece| {
        let mut deadline = None;
        loop {
            let queue = opened.get_or_insert_with(|| inlet.open());
            let outcome = queue.deliver(&mut piece);
            if outcome == Outcome::Done {
                return true;
            }
            let waits = outcome == Outcome::Starved && queue.is_worth_waiting();
            if !waits || is_over(&mut deadline) {
                queue.starve(1);
                return false;
            }
            // What is there so far is published, and others may use the queue.
            opened = None;
            std::thread::yield_now();
        }
    });
    let queue = opened.unwrap_or_else(|| inlet.open());
    if softened.is_err() {
        queue.tally().unsupported.add(1);
    }
    queue
}
