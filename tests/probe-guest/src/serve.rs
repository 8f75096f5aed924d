//! The `peer` job: the other end of every network job, until a connection asks it to quit.
//!
//! Rule: it answers echoes, counts floods, sends raw frames and datagrams back, and takes and gives verified streams, all at once; one
//! wrong byte makes its verdict bad.
use alloc::vec::Vec;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use smoltcp::socket::udp;

use crate::command::Task;
use crate::cpu;
use crate::device::number;
use crate::flow::Flow;
use crate::flow::Greeting;
use crate::flow::HELLO;
use crate::flow::Mode;
use crate::json::Line;
use crate::machine::Failure;
use crate::machine::Machine;
use crate::net::Net;
use crate::net::PORT;
use crate::tcp_load;
use crate::udp_load;

/// Datagrams in the socket.
const DATAGRAMS: usize = 128;
const DATAGRAM: usize = 1472;
/// A connection that is being closed ends after this time, in milliseconds.
const PATIENCE_MS: u64 = 3000;

/// One place for a connection.
struct Served {
    handle: SocketHandle,
    hello: [u8; HELLO],
    have: usize,
    flow: Option<Flow>,
}

struct Peer<'a> {
    net: Net<'a>,
    places: Vec<Served>,
    datagrams: SocketHandle,
    quit: bool,
    bad: u64,
    connections: u64,
    echoed: u64,
}

pub(crate) fn run(machine: &Machine, task: &Task<'_>) -> Result<(), Failure> {
    let mut net = Net::open(machine, task)?;
    net.wire.raw.set_clock(machine.platform.khz);
    let window = tcp_load::window(task)?;
    let mut places = Vec::new();
    for _ in 0..number(task, "connections", 4)? {
        places.push(Served {
            handle: net.sockets.add(tcp_load::socket(window)),
            hello: [0; HELLO],
            have: 0,
            flow: None,
        });
    }
    let mut socket = udp_load::socket(DATAGRAMS, DATAGRAM);
    socket
        .bind(PORT)
        .map_err(|_| Failure::new("The socket does not bind", PORT.into()))?;
    let datagrams = net.sockets.add(socket);
    let mut peer = Peer {
        net,
        places,
        datagrams,
        quit: false,
        bad: 0,
        connections: 0,
        echoed: 0,
    };
    let ticks = machine.platform.ticks(number(task, "seconds", 60)? * 1000);
    let start = cpu::tsc();
    peer.net.wire.card.describe("ready");
    while !peer.over() && cpu::tsc() - start < ticks {
        peer.round()?;
    }
    peer.report()
}

impl Peer<'_> {
    /// Whether it was asked to quit and all connections have ended.
    fn over(&self) -> bool {
        self.quit && self.places.iter().all(|place| place.flow.is_none())
    }

    fn round(&mut self) -> Result<(), Failure> {
        self.net.step()?;
        self.echo();
        let patience = self.net.machine.platform.ticks(PATIENCE_MS);
        for index in 0..self.places.len() {
            let Some(place) = self.places.get_mut(index) else {
                continue;
            };
            let socket: &mut tcp::Socket<'_> = self.net.sockets.get_mut(place.handle);
            if !socket.is_open() && !self.quit {
                socket
                    .listen(PORT)
                    .map_err(|_| Failure::new("The socket does not listen", PORT.into()))?;
                place.have = 0;
            }
            match &mut place.flow {
                None => {
                    if let Some(greeting) = greeted(place, socket) {
                        self.quit |= greeting.mode == Mode::Quit;
                        place.flow = Some(Flow::server(greeting));
                    }
                }
                Some(flow) => {
                    flow.receive(socket);
                    if socket.may_recv() {
                        flow.send(socket);
                        if flow.has_sent_all() {
                            socket.close();
                        }
                    } else {
                        socket.close();
                        if flow.idle() > patience {
                            // The client has gone without the last acknowledgement.
                            socket.abort();
                        }
                    }
                    if !socket.is_open() {
                        self.bad += u64::from(flow.bad);
                        self.connections += 1;
                        told(flow, &self.net);
                        // Asked to quit, it does not listen again, which would forget the greeting too.
                        (place.flow, place.have) = (None, 0);
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends datagrams back.
    fn echo(&mut self) {
        let socket: &mut udp::Socket<'_> = self.net.sockets.get_mut(self.datagrams);
        let mut copy = [0; DATAGRAM];
        while socket.can_send()
            && let Ok((bytes, from)) = socket.recv()
        {
            let len = bytes.len();
            let Some(space) = copy.get_mut(..len) else {
                continue;
            };
            space.copy_from_slice(bytes);
            self.echoed += u64::from(socket.send_slice(space, from.endpoint).is_ok());
        }
    }

    fn report(self) -> Result<(), Failure> {
        let bad = self.bad + self.net.wire.raw.bad();
        let mut line = Line::new("peer");
        line.truth("good", bad == 0)
            .number("connections", self.connections)
            .number("echoed", self.echoed);
        self.net.report(&mut line);
        line.print();
        self.net.close()?;
        if bad == 0 {
            Ok(())
        } else {
            Err(Failure::new("Frames or streams came with other bytes", bad))
        }
    }
}

/// What the client wants, once it has said that. A client that says something else is sent away.
fn greeted(place: &mut Served, socket: &mut tcp::Socket<'_>) -> Option<Greeting> {
    let space = place.hello.get_mut(place.have..)?;
    if socket.can_recv() {
        place.have += socket.recv_slice(space).unwrap_or(0);
    }
    if place.have < HELLO {
        return None;
    }
    let understood = Greeting::understand(&place.hello);
    if understood.is_none() {
        socket.abort();
    }
    understood
}

fn told(flow: &Flow, net: &Net<'_>) {
    let pause = net.machine.platform.nanoseconds(flow.pause) / 1_000_000;
    Line::new("served")
        .number("received", flow.received)
        .number("sent", flow.sent)
        .number("longest_pause_ms", pause)
        .truth("good", !flow.bad)
        .print();
}
