//! The `udp` job: datagrams that the peer sends back, a window of them under way, each compared and timed.
//!
//! Rule: a lost datagram is counted and replaced; one with other bytes, or one that nobody asked for, ends the job.
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp;
use smoltcp::wire::IpEndpoint;

use crate::command::Task;
use crate::cpu;
use crate::device::number;
use crate::histogram::Histogram;
use crate::json::Line;
use crate::machine::Failure;
use crate::machine::Machine;
use crate::net::Net;
use crate::net::PORT;
use crate::net::STALL_MS;
use crate::net::peer;
use crate::pattern;

/// Without an answer for this long a datagram is lost, in milliseconds.
const LOST_MS: u64 = 1000;
/// Number and slot are in the first bytes.
const HEAD: usize = 16;
const OWN_PORT: u16 = 7701;

/// A socket with room for `count` datagrams of `size` bytes each way.
pub(crate) fn socket(count: usize, size: usize) -> udp::Socket<'static> {
    let buffer = || {
        udp::PacketBuffer::new(
            vec![udp::PacketMetadata::EMPTY; count],
            vec![0; count * size],
        )
    };
    udp::Socket::new(buffer(), buffer())
}

/// One datagram that is under way.
#[derive(Clone, Copy, Default)]
struct Slot {
    number: u64,
    sent: u64,
    busy: bool,
}

struct Udp<'a> {
    net: Net<'a>,
    handle: SocketHandle,
    peer: IpEndpoint,
    size: usize,
    slots: Vec<Slot>,
    next: u64,
    lost: u64,
    late: u64,
    histogram: Box<Histogram>,
}

pub(crate) fn run(machine: &Machine, task: &Task<'_>) -> Result<(), Failure> {
    let peer = peer(task, "peer")?;
    let size = number(task, "size", 1400)?.clamp(HEAD as u64, 1472) as usize;
    let window = number(task, "qd", 16)?.clamp(1, 64) as usize;
    let seconds = number(task, "seconds", 2)?;
    let mut net = Net::open(machine, task)?;
    let mut socket = socket(2 * window, size);
    socket
        .bind(OWN_PORT)
        .map_err(|_| Failure::new("The socket does not bind", OWN_PORT.into()))?;
    let handle = net.sockets.add(socket);
    let mut udp = Udp {
        net,
        handle,
        peer: (peer, PORT).into(),
        size,
        slots: vec![Slot::default(); window],
        next: 1,
        lost: 0,
        late: 0,
        histogram: Box::new(Histogram::new()),
    };
    let start = cpu::tsc();
    let ticks = machine.platform.ticks(seconds * 1000);
    while cpu::tsc() - start < ticks {
        udp.round(true)?;
    }
    let (count, ns) = (
        udp.histogram.count(),
        machine.platform.nanoseconds(cpu::tsc() - start),
    );
    while udp.slots.iter().any(|slot| slot.busy) {
        udp.round(false)?;
        if cpu::tsc() - start > ticks + machine.platform.ticks(STALL_MS) {
            return Err(Failure::new("Datagrams do not come back", udp.next));
        }
    }
    udp.report(count, ns);
    udp.net.close()
}

impl Udp<'_> {
    fn round(&mut self, more: bool) -> Result<(), Failure> {
        self.net.step()?;
        let socket: &mut udp::Socket<'_> = self.net.sockets.get_mut(self.handle);
        while let Ok((bytes, _)) = socket.recv() {
            let word = |at: core::ops::Range<usize>| {
                let word = bytes.get(at).and_then(|word| word.try_into().ok());
                u64::from_le_bytes(word.unwrap_or_default())
            };
            let (number, index) = (word(0..8), word(8..16));
            let body = bytes.get(HEAD..).unwrap_or_default();
            let good = bytes.len() == self.size && pattern::stream_matches(body, number, 0);
            let Some(slot) = self.slots.get_mut(index as usize).filter(|_| good) else {
                return Err(Failure::new("A datagram came with other bytes", number));
            };
            if slot.busy && slot.number == number {
                slot.busy = false;
                self.histogram.record(cpu::tsc() - slot.sent);
            } else {
                // It counts as lost already.
                self.late += 1;
            }
        }
        let limit = self.net.machine.platform.ticks(LOST_MS);
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.busy && cpu::tsc() - slot.sent > limit {
                slot.busy = false;
                self.lost += 1;
            }
            if slot.busy || !more || !socket.can_send() {
                continue;
            }
            *slot = Slot {
                number: self.next,
                sent: cpu::tsc(),
                busy: true,
            };
            let sent = socket.send_with(self.size, self.peer, |space| {
                let (number, rest) = space.split_at_mut(8);
                number.copy_from_slice(&slot.number.to_le_bytes());
                let (place, body) = rest.split_at_mut(8);
                place.copy_from_slice(&(index as u64).to_le_bytes());
                pattern::stream_fill(body, slot.number, 0);
                self.size
            });
            if sent.is_err() {
                slot.busy = false;
                break;
            }
            self.next += 1;
        }
        Ok(())
    }

    fn report(&self, count: u64, ns: u64) {
        let rate =
            |amount: u64| (u128::from(amount) * 1_000_000_000 / u128::from(ns.max(1))) as u64;
        let mut line = Line::new("udp");
        line.number("size", self.size as u64)
            .number("qd", self.slots.len() as u64)
            .number("ns", ns)
            .number("count", count)
            .number("per_second", rate(count))
            .number("lost", self.lost)
            .number("late", self.late);
        self.histogram.report(&self.net.machine.platform, &mut line);
        self.net.report(&mut line);
        line.print();
    }
}
