//! The `tcp` job: verified streams to and from a peer for some seconds, and until `least=` bytes have gone each way.
//!
//! Rule: what is counted has been acknowledged by the peer or compared here; the connection then ends in order, so that nothing is lost
//! unseen.
//!
//! The client ends its direction first, at any time, and the server goes on for a while: what a TCP has to bear, but passt does not
//! (host-backends/README.md). With `amount=` the server ends first, after so many bytes, and the client when it has all of them and the
//! server has acknowledged all of its own.
use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use smoltcp::wire::Ipv4Address;

use crate::command::Task;
use crate::cpu;
use crate::device::number;
use crate::flow::Flow;
use crate::flow::Greeting;
use crate::flow::Mode;
use crate::json::Line;
use crate::machine::Failure;
use crate::machine::Machine;
use crate::net::Net;
use crate::net::PORT;
use crate::net::STALL_MS;
use crate::net::peer;

/// A socket with buffers of `window` bytes.
pub(crate) fn socket(window: usize) -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; window]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket
}

/// Bytes of the buffers that a task asks for.
pub(crate) fn window(task: &Task<'_>) -> Result<usize, Failure> {
    Ok(number(task, "window", 512 << 10)?.clamp(4096, 16 << 20) as usize)
}

struct Stream {
    handle: SocketHandle,
    flow: Flow,
    greeted: bool,
}

/// Connections to a peer, at work.
pub(crate) struct Tcp<'a> {
    net: Net<'a>,
    /// Of the first stream; the others have the seeds that follow.
    greeting: Greeting,
    streams: Vec<Stream>,
    start: u64,
}

pub(crate) fn run(machine: &Machine, task: &Task<'_>) -> Result<(), Failure> {
    let seconds = number(task, "seconds", 2)?;
    let least = number(task, "least", 0)?;
    let mut tcp = Tcp::open(machine, task)?;
    Line::new("connected")
        .number("streams", tcp.streams.len() as u64)
        .print();
    let ticks = machine.platform.ticks(seconds * 1000);
    while tcp.works() && (cpu::tsc() - tcp.start < ticks || !tcp.has_moved(least)) {
        tcp.round(true)?;
    }
    tcp.end()
}

impl<'a> Tcp<'a> {
    /// Opens the card and the connections that the task asks for.
    pub(crate) fn open(machine: &'a Machine, task: &Task<'_>) -> Result<Self, Failure> {
        let mode = Mode::named(task.text("mode").unwrap_or("send"))
            .ok_or(Failure::new("mode= is one of send receive both quit", 0))?;
        let peer = peer(task, "peer")?;
        let amount_kib = number(task, "amount", 0)? >> 10;
        let mut tcp = Tcp {
            net: Net::open(machine, task)?,
            greeting: Greeting {
                mode,
                amount_kib: u32::try_from(amount_kib).unwrap_or(u32::MAX),
                seed: number(task, "seed", 1)?,
            },
            streams: Vec::new(),
            start: 0,
        };
        tcp.connect(peer, number(task, "streams", 1)?, window(task)?)?;
        tcp.start = cpu::tsc();
        Ok(tcp)
    }

    /// Ends the connections in order and says what was moved.
    pub(crate) fn end(mut self) -> Result<(), Failure> {
        let moved = self.moved();
        let platform = &self.net.machine.platform;
        let ns = platform.nanoseconds(cpu::tsc() - self.start);
        self.finish()?;
        self.report(moved, ns);
        let bad = self.streams.iter().filter(|stream| stream.flow.bad).count();
        self.net.close()?;
        if bad == 0 {
            Ok(())
        } else {
            Err(Failure::new("Streams came with other bytes", bad as u64))
        }
    }
}

impl Tcp<'_> {
    /// Whether there is something to do until the time is over.
    fn works(&self) -> bool {
        match self.greeting.mode {
            Mode::Quit => false,
            Mode::Receive => self.streams.iter().any(|stream| !self.has_all(stream)),
            Mode::Send | Mode::Both => true,
        }
    }

    /// Whether a server that ends first has ended.
    fn has_all(&self, stream: &Stream) -> bool {
        let socket = self.net.sockets.get::<tcp::Socket<'_>>(stream.handle);
        self.greeting.amount().is_some() && !socket.may_recv()
    }

    fn connect(&mut self, peer: Ipv4Address, count: u64, window: usize) -> Result<(), Failure> {
        for index in 0..count {
            let mut socket = socket(window);
            let port = 50_000 + (cpu::tsc() >> 10) as u16 % 10_000 + index as u16;
            socket
                .connect(self.net.interface.context(), (peer, PORT), port)
                .map_err(|_| Failure::new("A connection cannot be opened", index))?;
            self.streams.push(Stream {
                handle: self.net.sockets.add(socket),
                flow: Flow::client(self.greeting.nth(index)),
                greeted: false,
            });
        }
        let start = cpu::tsc();
        while self.streams.iter().any(|stream| !stream.greeted) {
            self.round(false)?;
            if cpu::tsc() - start > self.net.machine.platform.ticks(STALL_MS) {
                return Err(Failure::new("The peer does not answer", PORT.into()));
            }
        }
        Ok(())
    }

    /// One turn of the stack and of every stream; `more` to send.
    pub(crate) fn round(&mut self, more: bool) -> Result<(), Failure> {
        self.net.step()?;
        let stall = self.net.machine.platform.ticks(STALL_MS);
        let greeting = self.greeting;
        for (index, stream) in self.streams.iter_mut().enumerate() {
            let socket: &mut tcp::Socket<'_> = self.net.sockets.get_mut(stream.handle);
            if !stream.greeted {
                if socket.state() == tcp::State::Closed {
                    return Err(Failure::new("The peer refuses connections", PORT.into()));
                }
                if !socket.may_send() {
                    continue;
                }
                let hello = greeting.nth(index as u64).bytes();
                stream.greeted = socket.send_slice(&hello).is_ok();
            }
            stream.flow.receive(socket);
            if more {
                stream.flow.send(socket);
            }
            let gone = more && !socket.is_active();
            if stream.flow.bad || gone || stream.flow.idle() > stall {
                let what = match (stream.flow.bad, gone) {
                    (true, _) => "A stream came with other bytes",
                    (_, true) => "The peer ended a connection",
                    _ => "A stream stands still",
                };
                return Err(Failure::new(what, stream.flow.received));
            }
        }
        Ok(())
    }

    /// Bytes that the peer has acknowledged, and bytes that came.
    fn moved(&mut self) -> (u64, u64) {
        let sockets = &self.net.sockets;
        self.streams.iter().fold((0, 0), |(out, into), stream| {
            let waiting = sockets.get::<tcp::Socket<'_>>(stream.handle).send_queue() as u64;
            let sent = stream.flow.sent.saturating_sub(waiting);
            (out + sent, into + stream.flow.received)
        })
    }

    /// Whether so many bytes went in each direction that there is.
    fn has_moved(&mut self, least: u64) -> bool {
        let (sent, received) = self.moved();
        match self.greeting.mode {
            Mode::Quit => true,
            Mode::Send => sent >= least,
            Mode::Receive => received >= least,
            Mode::Both => sent >= least && received >= least,
        }
    }

    /// Closes, and waits until the peer has everything and so have we.
    fn finish(&mut self) -> Result<(), Failure> {
        if let Some(amount) = self.greeting.amount() {
            self.wait_for("The peer does not end", |tcp, stream| tcp.has_all(stream))?;
            let short = |stream: &Stream| stream.flow.received != amount;
            if let Some(stream) = self.streams.iter().find(|stream| short(stream)) {
                return Err(Failure::new("A stream is cut short", stream.flow.received));
            }
        }
        if self.greeting.amount_kib > 0 {
            self.wait_for("The peer does not take all", |tcp, stream| {
                let socket = tcp.net.sockets.get::<tcp::Socket<'_>>(stream.handle);
                socket.send_queue() == 0
            })?;
        }
        for stream in &self.streams {
            self.net
                .sockets
                .get_mut::<tcp::Socket<'_>>(stream.handle)
                .close();
        }
        self.wait_for("A connection does not end", |tcp, stream| {
            let socket = tcp.net.sockets.get::<tcp::Socket<'_>>(stream.handle);
            matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait)
        })?;
        // The last acknowledgement has to go out.
        self.net.step()
    }

    /// Works until all streams are as `over` says, or fails with `what`.
    fn wait_for(
        &mut self,
        what: &'static str,
        over: impl Fn(&Self, &Stream) -> bool,
    ) -> Result<(), Failure> {
        let start = cpu::tsc();
        loop {
            self.round(false)?;
            if self.streams.iter().all(|stream| over(self, stream)) {
                return Ok(());
            }
            if cpu::tsc() - start > self.net.machine.platform.ticks(STALL_MS) {
                return Err(Failure::new(what, 0));
            }
        }
    }

    fn report(&self, (sent, received): (u64, u64), ns: u64) {
        let rate = |bytes: u64| (u128::from(bytes) * 8_000_000 / u128::from(ns.max(1))) as u64;
        let pause = self.streams.iter().map(|stream| stream.flow.pause).max();
        let mut line = Line::new("tcp");
        let mode = match self.greeting.mode {
            Mode::Send => "send",
            Mode::Receive => "receive",
            Mode::Both => "both",
            Mode::Quit => "quit",
        };
        line.text("mode", mode)
            .number("streams", self.streams.len() as u64)
            .number("ns", ns)
            .number("sent", sent)
            .number("received", received);
        line.thousandths("mbit_s", rate(sent + received));
        let pause = self.net.machine.platform.nanoseconds(pause.unwrap_or(0));
        let sent_in_all = self.streams.iter().map(|stream| stream.flow.sent).sum();
        line.number("longest_pause_ms", pause / 1_000_000)
            .number("sent_in_all", sent_in_all);
        self.net.report(&mut line);
        line.print();
    }
}
