//! The verified streams of the probe guest, for the host's end of a connection.
//!
//! One rule: the same bytes as the guest's `flow.rs` and `pattern.rs`: 24 bytes of greeting, then words made of a seed and
//! their number; the server's stream has the inverted seed, and the length that the greeting may ask for.

use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;

/// Port of all services of a peer.
pub const PORT: u16 = 7700;
/// Without progress for this long a stream has failed.
const STALL: Duration = Duration::from_secs(60);
const CHUNK: usize = 128 << 10;

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
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
    const ALL: [(Self, &'static str); 4] = [
        (Self::Send, "send"),
        (Self::Receive, "receive"),
        (Self::Both, "both"),
        (Self::Quit, "quit"),
    ];

    /// By its name.
    pub fn named(text: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text)?;
        Some(found.0)
    }

    fn letter(self) -> u8 {
        let name = Self::ALL.iter().find(|(mode, _)| *mode == self);
        name.map_or(0, |(_, name)| name.as_bytes()[0])
    }

    /// What opens a connection of which the server sends `amount_kib`, or until the client ends if that is 0.
    fn hello(self, amount_kib: u32, seed: u64) -> [u8; 24] {
        let mut bytes = [self.letter(); 24];
        bytes[..8].copy_from_slice(b"PARAVANE");
        bytes[12..16].copy_from_slice(&amount_kib.to_le_bytes());
        bytes[16..].copy_from_slice(&seed.to_le_bytes());
        bytes
    }
}

/// A step of `splitmix64`.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills a buffer with a stream from offset `at` on.
pub fn fill(target: &mut [u8], seed: u64, at: u64) {
    let mut done = 0;
    while done < target.len() {
        let offset = at + done as u64;
        let word = mix(seed ^ (offset / 8)).to_le_bytes();
        let skip = (offset % 8) as usize;
        let take = (8 - skip).min(target.len() - done);
        target[done..done + take].copy_from_slice(&word[skip..skip + take]);
        done += take;
    }
}

/// What one end of a connection has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    /// Bytes given to the network.
    pub sent: u64,
    /// Bytes that came, all compared.
    pub received: u64,
    /// Time from the greeting to the end of the working time.
    pub took: Duration,
}

impl Moved {
    /// Both ways, in Mbit/s.
    pub fn mbit_s(&self) -> f64 {
        (self.sent + self.received) as f64 * 8.0 / 1e6 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Sends the stream of `seed` until there are `most` bytes of it or `more` says no, and closes that direction.
fn send(
    mut stream: &TcpStream,
    seed: u64,
    most: u64,
    mut more: impl FnMut() -> bool,
) -> anyhow::Result<u64> {
    let (mut chunk, mut at) = (vec![0; CHUNK], 0);
    while at < most && more() {
        let len = (most - at).min(CHUNK as u64) as usize;
        fill(&mut chunk[..len], seed, at);
        let mut rest = &chunk[..len];
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(len) => {
                    at += len as u64;
                    rest = &rest[len..];
                }
                // The other side has had enough.
                Err(error) if ended(error.kind()) => return Ok(at),
                Err(error) => return Err(error).context("Send a stream"),
            }
        }
    }
    let _gone_is_fine = stream.shutdown(Shutdown::Write);
    Ok(at)
}

fn ended(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

/// Receives the stream of `seed` to its end; the time is given each time that something came.
fn receive(mut stream: &TcpStream, seed: u64, mut came: impl FnMut(u64)) -> anyhow::Result<u64> {
    let (mut chunk, mut expected, mut at) = (vec![0; CHUNK], vec![0; CHUNK], 0_u64);
    loop {
        let len = match stream.read(&mut chunk) {
            Ok(0) => return Ok(at),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(at),
            Err(error) => return Err(error).context("Receive a stream"),
        };
        fill(&mut expected[..len], seed, at);
        ensure!(
            chunk[..len] == expected[..len],
            "The stream came with other bytes after offset {at}"
        );
        at += len as u64;
        came(at);
    }
}

/// The client's end: connects to a peer and works for some time.
///
/// # Errors
/// When the peer is not there, a byte is wrong, or nothing moves for a minute.
pub fn client(peer: &str, mode: Mode, time: Duration) -> anyhow::Result<Moved> {
    let mut stream =
        TcpStream::connect((peer, PORT)).with_context(|| format!("Connect to {peer}"))?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    let seed = 1;
    stream.write_all(&mode.hello(0, seed))?;
    let start = Instant::now();
    let (sends, receives) = (
        matches!(mode, Mode::Send | Mode::Both),
        matches!(mode, Mode::Receive | Mode::Both),
    );
    let mut in_time = 0;
    let (sent, received) = std::thread::scope(|scope| -> anyhow::Result<_> {
        let sender = scope.spawn(|| -> anyhow::Result<u64> {
            if sends {
                return send(&stream, seed, u64::MAX, || start.elapsed() < time);
            }
            if mode != Mode::Quit {
                std::thread::sleep(time);
            }
            let _gone_is_fine = stream.shutdown(Shutdown::Write);
            Ok(0)
        });
        let received = receive(&stream, !seed, |at| {
            if start.elapsed() <= time {
                in_time = at;
            }
        })?;
        let sent = sender
            .join()
            .map_err(|_| anyhow::anyhow!("The sender panicked"))??;
        Ok((sent, received))
    })?;
    ensure!(
        receives || received == 0,
        "The peer sent what nobody asked for"
    );
    Ok(Moved {
        sent,
        received: in_time,
        // What was sent is with the peer only now.
        took: if sends { start.elapsed() } else { time },
    })
}

/// The server's end of one connection; `true` when the client asks the server to end.
///
/// # Errors
/// When a byte is wrong or nothing moves for a minute.
pub fn serve(mut stream: TcpStream) -> anyhow::Result<(Moved, bool)> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    let mut hello = [0; 24];
    stream.read_exact(&mut hello).context("Greeting")?;
    let (mut amount, mut seed) = ([0; 4], [0; 8]);
    amount.copy_from_slice(&hello[12..16]);
    seed.copy_from_slice(&hello[16..]);
    let (amount_kib, seed) = (u32::from_le_bytes(amount), u64::from_le_bytes(seed));
    let most = match amount_kib {
        0 => u64::MAX,
        some => u64::from(some) << 10,
    };
    let (mode, _) = Mode::ALL
        .into_iter()
        .find(|(mode, _)| mode.hello(amount_kib, seed) == hello)
        .context("The client does not speak our language")?;
    let start = Instant::now();
    let over = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let sends = matches!(mode, Mode::Receive | Mode::Both);
            send(&stream, !seed, most, || sends && !over.load(order))
        });
        let received = receive(&stream, seed, |_| ());
        over.store(true, order);
        let sent = sender
            .join()
            .map_err(|_| anyhow::anyhow!("The sender panicked"))??;
        let moved = Moved {
            sent,
            received: received?,
            took: start.elapsed(),
        };
        Ok((moved, mode == Mode::Quit))
    })
}
