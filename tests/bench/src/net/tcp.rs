//! One TCP connection from the guest's side, as fast as its port: large segments out, or acknowledgements of what
//! comes in.
//!
//! One rule: it does what TCP requires for a correct transfer (windows, order, retransmission) and no more, so that
//! the network and not this end is measured.

use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;

use super::host::Host;
use super::packet;
use super::packet::Segment;
use super::packet::flag;
use super::port::Port;
use super::port::Received;

/// Largest payload of a segment on the wire.
const MSS: u16 = 1460;
/// Payload of one large segment: as many whole ones as an IP packet holds.
const LARGE: u32 = 44 * MSS as u32;
/// Shift of the windows that this end announces: 4 MiB, as a guest's kernel does.
const SHIFT: u8 = 6;
/// Without progress for so long, what is not acknowledged is sent again.
const RETRANSMIT: Duration = Duration::from_millis(100);
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection.
pub struct Connection<'a> {
    port: &'a mut dyn Port,
    host_mac: [u8; 6],
    own: Segment,
    /// First byte that is not acknowledged, and the end of the peer's window.
    unacknowledged: u32,
    window_end: u32,
    peer_shift: u8,
    progress: Instant,
    duplicates: u32,
    retransmissions: u64,
}

/// What a transfer came to.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Bytes that arrived in order.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// How often something had to be sent again, or came out of order.
    pub repeats: u64,
}

impl<'a> Connection<'a> {
    /// Connects to the host's TCP port `target`.
    pub fn open(
        port: &'a mut dyn Port,
        host_mac: [u8; 6],
        source: u16,
        target: u16,
    ) -> Result<Self> {
        let own = Segment {
            source,
            target,
            sequence: 1000,
            window: 0xffff,
            ..Segment::default()
        };
        let mut this = Self {
            port,
            host_mac,
            own,
            unacknowledged: own.sequence,
            window_end: own.sequence,
            peer_shift: 0,
            progress: Instant::now(),
            duplicates: 0,
            retransmissions: 0,
        };
        this.handshake()?;
        Ok(this)
    }

    fn handshake(&mut self) -> Result<()> {
        let [high, low] = MSS.to_be_bytes();
        let options = [2, 4, high, low, 1, 3, 3, SHIFT];
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.transmit(self.own.sequence, flag::SYN, 0, &options)?;
            self.port.flush()?;
            let again = Instant::now() + RETRANSMIT;
            while Instant::now() < again {
                let Some(frame) = self.port.receive()? else {
                    std::hint::spin_loop();
                    continue;
                };
                if self.established(&frame) {
                    self.acknowledge()?;
                    return Ok(());
                }
            }
        }
        bail!("the host does not answer on TCP port {}", self.own.target)
    }

    fn established(&mut self, frame: &Received) -> bool {
        let Some((segment, mut options)) = packet::read_tcp(&frame.head, frame.len) else {
            return false;
        };
        if segment.target != self.own.source || segment.flags & flag::SYN == 0 {
            return false;
        }
        while let [kind, rest @ ..] = options {
            match (kind, rest) {
                (0, _) => break,
                (1, rest) => options = rest,
                (kind, [len, ..]) => {
                    if *kind == 3 {
                        self.peer_shift = options.get(2).copied().unwrap_or(0);
                    }
                    options = options.get(usize::from(*len).max(2)..).unwrap_or(&[]);
                }
                _ => break,
            }
        }
        self.own.sequence += 1;
        self.unacknowledged = self.own.sequence;
        self.own.acknowledge = segment.sequence.wrapping_add(1);
        self.window_end = self.own.sequence.wrapping_add(u32::from(segment.window));
        true
    }

    fn transmit(
        &mut self,
        sequence: u32,
        flags: u8,
        payload: usize,
        options: &[u8],
    ) -> Result<bool> {
        let segment = Segment {
            sequence,
            flags,
            payload,
            ..self.own
        };
        let (head, header) = packet::tcp_head(self.host_mac, &segment, options, MSS);
        self.port.send(&header, &head, head.len() + payload)
    }

    fn acknowledge(&mut self) -> Result<()> {
        while !self.transmit(self.own.sequence, flag::ACK, 0, &[])? {
            self.port.flush()?;
        }
        self.port.flush()
    }

    /// Sends as fast as it goes for `time`.
    pub fn send_for(&mut self, time: Duration, host: &mut Host) -> Result<Transfer> {
        let start = Instant::now();
        let first = u64::from(self.unacknowledged);
        let mut acknowledged = 0_u64;
        let mut last = first as u32;
        self.progress = start;
        while start.elapsed() < time {
            let sent = self.fill_window()?;
            self.port.flush()?;
            let heard = self.take_acknowledgements()?;
            if !sent && !heard {
                host.turn();
            }
            acknowledged += u64::from(self.unacknowledged.wrapping_sub(last));
            last = self.unacknowledged;
        }
        let seconds = start.elapsed().as_secs_f64();
        let _ = self.transmit(self.own.sequence, flag::RST | flag::ACK, 0, &[])?;
        self.port.flush()?;
        Ok(Transfer {
            bytes: acknowledged,
            seconds,
            repeats: self.retransmissions,
        })
    }

    /// Whether anything was sent.
    fn fill_window(&mut self) -> Result<bool> {
        let before = self.own.sequence;
        for _ in 0..16 {
            let room = self
                .window_end
                .wrapping_sub(self.own.sequence)
                .cast_signed();
            if i64::from(room) < i64::from(LARGE) {
                break;
            }
            if !self.transmit(self.own.sequence, flag::ACK, LARGE as usize, &[])? {
                break;
            }
            self.own.sequence = self.own.sequence.wrapping_add(LARGE);
        }
        Ok(self.own.sequence != before)
    }

    /// Whether anything came.
    fn take_acknowledgements(&mut self) -> Result<bool> {
        let mut none = true;
        while let Some(frame) = self.port.receive()? {
            none = false;
            let Some((segment, _)) = packet::read_tcp(&frame.head, frame.len) else {
                continue;
            };
            ensure!(
                segment.flags & flag::RST == 0,
                "the host reset the connection"
            );
            let step = segment.acknowledge.wrapping_sub(self.unacknowledged);
            self.window_end = segment
                .acknowledge
                .wrapping_add(u32::from(segment.window) << self.peer_shift);
            if step != 0 && step < 1 << 30 {
                self.unacknowledged = segment.acknowledge;
                self.progress = Instant::now();
                self.duplicates = 0;
            } else if step == 0 && self.own.sequence != self.unacknowledged {
                self.duplicates += 1;
            }
        }
        let stuck = self.own.sequence != self.unacknowledged
            && none
            && self.progress.elapsed() > RETRANSMIT;
        if self.duplicates > 64 || stuck {
            // Go back: the host drops what it has already.
            self.own.sequence = self.unacknowledged;
            self.retransmissions += 1;
            self.duplicates = 0;
            self.progress = Instant::now();
        }
        Ok(!none)
    }

    /// Receives for `time`.
    pub fn receive_for(&mut self, time: Duration, host: &mut Host) -> Result<Transfer> {
        let start = Instant::now();
        let mut bytes = 0;
        let mut repeats = 0;
        while start.elapsed() < time {
            let mut news = false;
            for _ in 0..16 {
                let Some(frame) = self.port.receive()? else {
                    break;
                };
                let Some((segment, _)) = packet::read_tcp(&frame.head, frame.len) else {
                    continue;
                };
                ensure!(
                    segment.flags & flag::RST == 0,
                    "the host reset the connection"
                );
                news = true;
                if segment.sequence == self.own.acknowledge {
                    self.own.acknowledge =
                        self.own.acknowledge.wrapping_add(segment.payload as u32);
                    bytes += segment.payload as u64;
                } else {
                    repeats += 1;
                    // At once for each, so that the host sees the gap (RFC 5681, 4.2).
                    self.acknowledge()?;
                }
            }
            if news {
                self.acknowledge()?;
            } else {
                host.turn();
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let _ = self.transmit(self.own.sequence, flag::RST | flag::ACK, 0, &[])?;
        self.port.flush()?;
        Ok(Transfer {
            bytes,
            seconds,
            repeats,
        })
    }
}
