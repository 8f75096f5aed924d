//! One TCP connection with a verified stream in each direction that its mode names.
//!
//! Rule: a connection begins with 24 bytes of its client: a magic number, the mode, the seed. The client's stream follows; the server's
//! stream has the inverted seed. Every byte is compared where it arrives.
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

    /// The first bytes of a connection.
    pub(crate) fn hello(self, seed: u64) -> [u8; HELLO] {
        let mut bytes = [0; HELLO];
        let (magic, rest) = bytes.split_at_mut(8);
        magic.copy_from_slice(&MAGIC);
        let (mode, seed_place) = rest.split_at_mut(8);
        mode.fill(self.letter());
        seed_place.copy_from_slice(&seed.to_le_bytes());
        bytes
    }

    /// Mode and seed of a connection that began with these bytes.
    pub(crate) fn understand(bytes: &[u8; HELLO]) -> Option<(Self, u64)> {
        let seed = bytes.get(16..)?.try_into().ok()?;
        let modes = [Self::Send, Self::Receive, Self::Both, Self::Quit];
        let mode = modes
            .into_iter()
            .find(|mode| mode.hello(u64::from_le_bytes(seed)) == *bytes)?;
        Some((mode, u64::from_le_bytes(seed)))
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Seeds of what we send and of what we get, if that direction is used.
    out: Option<u64>,
    into: Option<u64>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) bad: bool,
    progress: u64,
    /// Longest time without progress, in ticks.
    pub(crate) pause: u64,
}

impl Flow {
    /// The client's end.
    pub(crate) fn client(mode: Mode, seed: u64) -> Self {
        Self::new(
            matches!(mode, Mode::Send | Mode::Both).then_some(seed),
            matches!(mode, Mode::Receive | Mode::Both).then_some(!seed),
        )
    }

    /// The server's end.
    pub(crate) fn server(mode: Mode, seed: u64) -> Self {
        Self::new(
            matches!(mode, Mode::Receive | Mode::Both).then_some(!seed),
            matches!(mode, Mode::Send | Mode::Both).then_some(seed),
        )
    }

    fn new(out: Option<u64>, into: Option<u64>) -> Self {
        Self {
            out,
            into,
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
        while socket.can_send() {
            let at = self.sent;
            let given = socket.send(|space| {
                pattern::stream_fill(space, seed, at);
                (space.len(), space.len())
            });
            let Ok(len) = given else { return };
            if len == 0 {
                return;
            }
            self.sent += len as u64;
            self.went_on(len);
        }
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
