//! One TCP connection with a verified stream in each direction that its mode names.
//!
//! Rule: a connection begins with 24 bytes of its client: a magic number, the mode, how much the server sends, the seed. The client's
//! stream follows; the server's stream has the inverted seed. Every byte is compared where it arrives.
use smoltcp::socket::tcp;

use crate::cpu;
use crate::pattern;

/// Bytes that open a connection.
pub(crate) const HELLO: usize = 24;
const MAGIC: [u8; 8] = *b"PARAVANE";

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// From the client.
    Send,
    /// From the server.
    Receive,
    /// Both at once.
    Both,
    /// None: the server may end.
    Quit,
}

impl Mode {
    /// By its name on the command line.
    pub(crate) fn named(text: &str) -> Option<Self> {
        Some(match text {
            "send" => Self::Send,
            "receive" => Self::Receive,
            "both" => Self::Both,
            "quit" => Self::Quit,
            _ => return None,
        })
    }

    fn letter(self) -> u8 {
        match self {
            Self::Send => b's',
            Self::Receive => b'r',
            Self::Both => b'b',
            Self::Quit => b'q',
        }
    }
}

/// What a client asks for in the first bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) mode: Mode,
    /// KiB after which the server ends its direction; with 0 it sends until the client ends.
    pub(crate) amount_kib: u32,
    pub(crate) seed: u64,
}

impl Greeting {
    /// For the `index`th of several streams, which differ.
    pub(crate) fn nth(self, index: u64) -> Self {
        let seed = self.seed + index;
        Self { seed, ..self }
    }

    pub(crate) fn bytes(self) -> [u8; HELLO] {
        let mut bytes = [0; HELLO];
        let (magic, rest) = bytes.split_at_mut(8);
        magic.copy_from_slice(&MAGIC);
        let (mode, rest) = rest.split_at_mut(4);
        mode.fill(self.mode.letter());
        let (amount, seed) = rest.split_at_mut(4);
        amount.copy_from_slice(&self.amount_kib.to_le_bytes());
        seed.copy_from_slice(&self.seed.to_le_bytes());
        bytes
    }

    /// What a connection that began with these bytes is for.
    pub(crate) fn understand(bytes: &[u8; HELLO]) -> Option<Self> {
        let amount_kib = u32::from_le_bytes(bytes.get(12..16)?.try_into().ok()?);
        let seed = u64::from_le_bytes(bytes.get(16..)?.try_into().ok()?);
        let modes = [Mode::Send, Mode::Receive, Mode::Both, Mode::Quit];
        let greetings = modes.into_iter().map(|mode| Self {
            mode,
            amount_kib,
            seed,
        });
        greetings
            .into_iter()
            .find(|greeting| greeting.bytes() == *bytes)
    }

    /// Bytes that the server sends before it ends its direction, if it does that first.
    pub(crate) fn amount(self) -> Option<u64> {
        let given = self.amount_kib > 0 && matches!(self.mode, Mode::Receive | Mode::Both);
        given.then_some(u64::from(self.amount_kib) << 10)
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Seeds of what we send and of what we get, if that direction is used.
    out: Option<u64>,
    into: Option<u64>,
    /// Bytes to send in all, if that is known.
    amount: Option<u64>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) bad: bool,
    progress: u64,
    /// Longest time without progress, in ticks.
    pub(crate) pause: u64,
}

impl Flow {
    /// The client's end.
    pub(crate) fn client(Greeting { mode, seed, .. }: Greeting) -> Self {
        Self::new(
            matches!(mode, Mode::Send | Mode::Both).then_some(seed),
            matches!(mode, Mode::Receive | Mode::Both).then_some(!seed),
            None,
        )
    }

    /// The server's end.
    pub(crate) fn server(greeting: Greeting) -> Self {
        let Greeting { mode, seed, .. } = greeting;
        Self::new(
            matches!(mode, Mode::Receive | Mode::Both).then_some(!seed),
            matches!(mode, Mode::Send | Mode::Both).then_some(seed),
            greeting.amount(),
        )
    }

    fn new(out: Option<u64>, into: Option<u64>, amount: Option<u64>) -> Self {
        Self {
            out,
            into,
            amount,
            sent: 0,
            received: 0,
            bad: false,
            progress: cpu::tsc(),
            pause: 0,
        }
    }

    /// Takes what came.
    pub(crate) fn receive(&mut self, socket: &mut tcp::Socket<'_>) {
        while socket.can_recv() {
            let (seed, at) = (self.into, self.received);
            let taken = socket.recv(|bytes| {
                let good = seed.is_some_and(|seed| pattern::stream_matches(bytes, seed, at));
                (bytes.len(), (bytes.len(), good))
            });
            let Ok((len, good)) = taken else { return };
            self.received += len as u64;
            self.bad |= !good;
            self.went_on(len);
        }
    }

    /// Gives as much as the socket takes.
    pub(crate) fn send(&mut self, socket: &mut tcp::Socket<'_>) {
        let Some(seed) = self.out else { return };
        while socket.can_send() && !self.has_sent_all() {
            let at = self.sent;
            let left = self.amount.map_or(u64::MAX, |amount| amount - at);
            let given = socket.send(|space| {
                let len = (space.len() as u64).min(left) as usize;
                pattern::stream_fill(space.get_mut(..len).unwrap_or_default(), seed, at);
                (len, len)
            });
            let Ok(len) = given else { return };
            if len == 0 {
                return;
            }
            self.sent += len as u64;
            self.went_on(len);
        }
    }

    /// Whether nothing more will be sent.
    pub(crate) fn has_sent_all(&self) -> bool {
        self.amount.is_some_and(|amount| self.sent >= amount)
    }

    fn went_on(&mut self, len: usize) {
        if len > 0 {
            let now = cpu::tsc();
            self.pause = self.pause.max(now - self.progress);
            self.progress = now;
        }
    }

    /// Ticks since something moved.
    pub(crate) fn idle(&self) -> u64 {
        cpu::tsc() - self.progress
    }
}
