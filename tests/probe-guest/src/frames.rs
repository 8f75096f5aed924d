//! Raw frames of an experimental type, past the TCP/IP stack: floods that are counted, and echoes that are timed.
//!
//! Rule: every frame carries its number and a filler that is compared; a flood may lose frames, but none may come wrong.
use alloc::boxed::Box;
use alloc::vec;

use net_driver::Offload;
use smoltcp::wire::EthernetAddress;

use crate::apic;
use crate::card::Card;
use crate::command::Task;
use crate::cpu;
use crate::device::number;
use crate::histogram::Histogram;
use crate::json::Line;
use crate::machine::Failure;
use crate::machine::Machine;
use crate::net::STALL_MS;

/// The type for local experiments (IEEE 802).
pub(crate) const TYPE: [u8; 2] = [0x88, 0xb5];

/// To be counted.
const DATA: u8 = 1;
/// To be sent back as [`ANSWER`].
const ECHO: u8 = 2;
const ANSWER: u8 = 3;
/// The end of a flood; to be answered with [`REPORT`].
const END: u8 = 4;
const REPORT: u8 = 5;

const KIND: usize = 14;
const SEQUENCE: core::ops::Range<usize> = 16..24;
const STAMP: core::ops::Range<usize> = 24..32;
const FILLER: usize = 32;
/// Shortest frame without its checksum.
const SHORTEST: u64 = 60;
const LONGEST: usize = 9014;
/// Without an answer for this long an echo is lost, in milliseconds.
const LOST_MS: u64 = 2000;

/// What every frame is filled with, from [`FILLER`] on.
static PATTERN: [u8; LONGEST] = {
    let mut bytes = [0; LONGEST];
    let mut at = 0;
    while at < LONGEST {
        bytes[at] = (at as u32).wrapping_mul(0x9e37_79b9).to_be_bytes()[0];
        at += 1;
    }
    bytes
};

/// What came of our own kind.
#[derive(Default)]
pub(crate) struct Raw {
    received: u64,
    bytes: u64,
    bad: u64,
    /// Frames that came behind a later one.
    late: u64,
    next: u64,
    first: u64,
    last: u64,
    answers: u64,
    /// Number and stamp of the last answer.
    answer: Option<(u64, u64)>,
    /// What the peer says of our flood: frames, nanoseconds.
    verdict: Option<(u64, u64)>,
    khz: u64,
}

fn word(frame: &[u8], at: core::ops::Range<usize>) -> u64 {
    let bytes = frame.get(at).and_then(|bytes| bytes.try_into().ok());
    u64::from_le_bytes(bytes.unwrap_or_default())
}

fn set_word(frame: &mut [u8], at: core::ops::Range<usize>, value: u64) {
    if let Some(bytes) = frame.get_mut(at) {
        bytes.copy_from_slice(&value.to_le_bytes());
    }
}

impl Raw {
    /// Works on a frame of our type.
    #[inline]
    pub(crate) fn arrived(&mut self, card: &mut Card<'_>, frame: &mut [u8]) {
        let filler = frame.get(FILLER..).unwrap_or_default();
        let good = PATTERN.get(FILLER..FILLER + filler.len()) == Some(filler);
        self.bad += u64::from(!good);
        let (number, stamp) = (word(frame, SEQUENCE), word(frame, STAMP));
        match frame.get(KIND).copied().unwrap_or(0) {
            DATA => self.count(number, frame.len() as u64),
            ECHO => self.send_back(card, frame, ANSWER),
            ANSWER => {
                self.answers += 1;
                self.answer = Some((number, stamp));
            }
            END => self.end(card, frame, number),
            REPORT => self.verdict = Some((number, stamp)),
            _ => self.bad += 1,
        }
    }

    fn count(&mut self, number: u64, len: u64) {
        self.last = cpu::tsc();
        if self.received == 0 {
            self.first = self.last;
        }
        self.received += 1;
        self.bytes += len;
        if number < self.next {
            self.late += 1;
        } else {
            self.next = number + 1;
        }
    }

    fn send_back(&mut self, card: &mut Card<'_>, frame: &mut [u8], kind: u8) {
        frame.copy_within(6..12, 0);
        if let Some(source) = frame.get_mut(6..12) {
            source.copy_from_slice(&card.mac);
        }
        if let Some(place) = frame.get_mut(KIND) {
            *place = kind;
        }
        if card.room() {
            card.send(frame, &Offload::default());
        }
    }

    /// Tells both sides what arrived; the end is told more than once, the flood counted once.
    fn end(&mut self, card: &mut Card<'_>, frame: &mut [u8], sent: u64) {
        if self.received > 0 {
            let ticks = u128::from(self.last - self.first);
            let ns = (ticks * 1_000_000 / u128::from(self.khz.max(1))) as u64;
            self.verdict = Some((self.received, ns));
            let mut line = Line::new("flooded");
            line.number("sent", sent)
                .number("received", self.received)
                .number("bytes", self.bytes)
                .number("late", self.late)
                .number("bad", self.bad)
                .number("ns", ns)
                .number("per_second", rate(self.received, ns))
                .print();
            (self.received, self.bytes, self.late, self.next) = (0, 0, 0, 0);
        }
        let (received, ns) = self.verdict.unwrap_or_default();
        set_word(frame, SEQUENCE, received);
        set_word(frame, STAMP, ns);
        self.send_back(card, frame, REPORT);
    }

    /// Frames with other bytes than were sent.
    pub(crate) fn bad(&self) -> u64 {
        self.bad
    }

    /// Tells the clock's speed, for what is told to the peer.
    pub(crate) fn set_clock(&mut self, khz: u64) {
        self.khz = khz;
    }
}

fn rate(amount: u64, ns: u64) -> u64 {
    (u128::from(amount) * 1_000_000_000 / u128::from(ns.max(1))) as u64
}

/// A card used without the stack.
struct Bare<'a> {
    card: Card<'a>,
    raw: Raw,
    incoming: Box<[u8]>,
    frame: Box<[u8]>,
    sleeps: bool,
}

impl<'a> Bare<'a> {
    fn open(machine: &'a Machine, task: &Task<'_>, kind: u8) -> Result<Self, Failure> {
        let card = Card::open(machine, task)?;
        let size = number(task, "size", 64)?.clamp(SHORTEST, card.mtu as u64 + 14) as usize;
        let mut frame = PATTERN.get(..size).unwrap_or_default().to_vec();
        let to = task.text("to").unwrap_or("ff-ff-ff-ff-ff-ff");
        let to: EthernetAddress = to
            .parse()
            .map_err(|()| Failure::new("to= is not like 52-54-00-00-00-01", 0))?;
        let head = [to.0.as_slice(), &card.mac, &TYPE, &[kind, 0]].concat();
        if let Some(place) = frame.get_mut(..head.len()) {
            place.copy_from_slice(&head);
        }
        let sleeps = task.text("wait") == Some("irq");
        if sleeps {
            apic::alarm(Some(cpu::FIRST_VECTOR));
        }
        Ok(Self {
            raw: Raw::default(),
            incoming: vec![0; net_driver::FRAME_MAX].into_boxed_slice(),
            frame: frame.into_boxed_slice(),
            card,
            sleeps,
        })
    }

    fn send(&mut self, kind: u8, number: u64, stamp: u64) {
        if let Some(place) = self.frame.get_mut(KIND) {
            *place = kind;
        }
        set_word(&mut self.frame, SEQUENCE, number);
        set_word(&mut self.frame, STAMP, stamp);
        self.card.send(&self.frame, &Offload::default());
    }

    /// Looks at what came; sleeps when nothing did and that is allowed.
    fn step(&mut self) -> Result<(), Failure> {
        while let Some(len) = self.card.receive(&mut self.incoming) {
            if let Some(frame) = self.incoming.get_mut(..len)
                && frame.get(12..14) == Some(&TYPE)
            {
                self.raw.arrived(&mut self.card, frame);
            }
        }
        let (came, went) = self.card.flush()?;
        if self.sleeps && !came && !went {
            self.card.sleep();
        }
        Ok(())
    }

    fn close(self) -> Result<(), Failure> {
        apic::alarm(None);
        let bad = self.raw.bad;
        self.card.close()?;
        if bad == 0 {
            Ok(())
        } else {
            Err(Failure::new("Frames came with other bytes", bad))
        }
    }
}

/// The `flood` job: frames as fast as they go, and what the peer says of them.
pub(crate) fn flood(machine: &Machine, task: &Task<'_>) -> Result<(), Failure> {
    let mut bare = Bare::open(machine, task, DATA)?;
    let batch = number(task, "batch", 32)?.max(1);
    let platform = &machine.platform;
    let ticks = platform.ticks(number(task, "seconds", 2)? * 1000);
    let (start, mut sent) = (cpu::tsc(), 0);
    while cpu::tsc() - start < ticks {
        let mut staged = 0;
        while staged < batch && bare.card.room() {
            bare.send(DATA, sent, 0);
            (sent, staged) = (sent + 1, staged + 1);
        }
        bare.card.flush()?;
        if staged == 0 {
            core::hint::spin_loop();
        }
    }
    let ns = platform.nanoseconds(cpu::tsc() - start);
    let asked = cpu::tsc();
    while bare.raw.verdict.is_none() {
        if bare.card.room() {
            bare.send(END, sent, 0);
        }
        let until = cpu::tsc() + platform.ticks(20);
        while bare.raw.verdict.is_none() && cpu::tsc() < until {
            bare.step()?;
        }
        if cpu::tsc() - asked > platform.ticks(STALL_MS) {
            return Err(Failure::new("The peer does not say what it got", sent));
        }
    }
    let (received, received_ns) = bare.raw.verdict.unwrap_or_default();
    let mut line = Line::new("flood");
    line.number("size", bare.frame.len() as u64)
        .number("ns", ns)
        .number("sent", sent)
        .number("sent_per_second", rate(sent, ns))
        .number("received", received)
        .number("lost", sent.saturating_sub(received))
        .number("per_second", rate(received, received_ns));
    bare.card.report(&mut line);
    line.print();
    bare.close()
}

/// The `pingpong` job: frames that the peer sends back, one at a time, timed.
pub(crate) fn pingpong(machine: &Machine, task: &Task<'_>) -> Result<(), Failure> {
    let mut bare = Bare::open(machine, task, ECHO)?;
    let count = number(task, "count", 20_000)?;
    let platform = &machine.platform;
    let mut histogram = Box::new(Histogram::new());
    let (start, mut lost, mut number) = (cpu::tsc(), 0, 0);
    while histogram.count() < count {
        let sent = cpu::tsc();
        if bare.card.room() {
            bare.send(ECHO, number, sent);
        }
        bare.card.flush()?;
        loop {
            bare.step()?;
            let now = cpu::tsc();
            if bare.raw.answer.is_some_and(|(answer, _)| answer == number) {
                histogram.record(now - sent);
                break;
            }
            if now - sent > platform.ticks(LOST_MS) {
                lost += 1;
                break;
            }
        }
        number += 1;
        if lost > count {
            return Err(Failure::new("The peer does not answer", lost));
        }
    }
    let ns = platform.nanoseconds(cpu::tsc() - start);
    let mut line = Line::new("pingpong");
    line.number("size", bare.frame.len() as u64)
        .number("count", count)
        .number("lost", lost)
        .number("per_second", rate(count, ns));
    histogram.report(platform, &mut line);
    bare.card.report(&mut line);
    line.number("interrupts", cpu::interrupts()).print();
    bare.close()
}
