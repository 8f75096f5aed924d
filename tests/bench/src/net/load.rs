//! The loads between a guest's port and the host's stack.
//!
//! One rule: a load counts what arrived, not what was tried.

use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use super::flood::Flood;
use super::host::Host;
use super::host::Stream;
use super::host::Work;
use super::packet;
use super::port::HEADER;
use super::port::Port;
use super::stage;
use super::tcp::Connection;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// Frames of so many bytes out of the guest; no protocol of the host takes them.
    Out(usize),
    /// Frames of so many bytes into the guest, by a packet socket of the host.
    In(usize),
    /// ICMP echo, one at a time, answered by the host's kernel.
    Echo,
    /// A TCP stream out of the guest, in large segments.
    TcpOut,
    /// A TCP stream into the guest.
    TcpIn,
}

impl Load {
    /// All loads, in the order of the report.
    pub const ALL: [Self; 7] = [
        Self::Out(64),
        Self::Out(1500),
        Self::In(64),
        Self::In(1500),
        Self::Echo,
        Self::TcpOut,
        Self::TcpIn,
    ];

    /// Name in reports.
    pub fn name(self) -> String {
        match self {
            Self::Out(bytes) => format!("{bytes} B out"),
            Self::In(bytes) => format!("{bytes} B in"),
            Self::Echo => "echo".to_owned(),
            Self::TcpOut => "TCP out".to_owned(),
            Self::TcpIn => "TCP in".to_owned(),
        }
    }

    /// What the figure counts, per second.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Out(_) | Self::In(_) => "frames/s",
            Self::Echo => "round trips/s",
            Self::TcpOut | Self::TcpIn => "bit/s",
        }
    }

    /// Runs for `time`; returns units per second.
    pub fn run(self, port: &mut dyn Port, time: Duration) -> Result<f64> {
        let mac = stage::host_mac()?;
        match self {
            Self::Out(bytes) => out(port, mac, bytes, time),
            Self::In(bytes) => flood_in(port, mac, bytes, time),
            Self::Echo => echo(port, mac, time),
            Self::TcpOut | Self::TcpIn => tcp(port, mac, self == Self::TcpOut, time),
        }
    }
}

fn out(port: &mut dyn Port, mac: [u8; 6], bytes: usize, time: Duration) -> Result<f64> {
    let head = packet::dead_end(mac);
    let header = [0; HEADER];
    let before = port.sent();
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..64 {
            if !port.send(&header, &head, bytes)? {
                break;
            }
        }
        port.flush()?;
    }
    Ok((port.sent() - before) as f64 / start.elapsed().as_secs_f64())
}

fn flood_in(port: &mut dyn Port, mac: [u8; 6], bytes: usize, time: Duration) -> Result<f64> {
    let mut host = Host::new(Work::Flood(Flood::new(mac, bytes)?), port.is_served());
    let start = Instant::now();
    let mut received = 0_u64;
    while start.elapsed() < time {
        for _ in 0..64 {
            let Some(frame) = port.receive()? else {
                host.turn();
                break;
            };
            received += u64::from(frame.len == bytes);
        }
    }
    let rate = received as f64 / start.elapsed().as_secs_f64();
    drop(host);
    while port.receive()?.is_some() {}
    Ok(rate)
}

fn echo(port: &mut dyn Port, mac: [u8; 6], time: Duration) -> Result<f64> {
    let header = [0; HEADER];
    let start = Instant::now();
    let mut answers = 0_u64;
    let mut sequence = 0_u16;
    while start.elapsed() < time {
        sequence = sequence.wrapping_add(1);
        let request = packet::echo_request(mac, sequence);
        while !port.send(&header, &request, request.len())? {
            port.flush()?;
        }
        port.flush()?;
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_millis(100) {
            let Some(frame) = port.receive()? else {
                std::hint::spin_loop();
                continue;
            };
            if packet::echo_reply(&frame.head) == Some(sequence) {
                answers += 1;
                break;
            }
        }
    }
    Ok(answers as f64 / start.elapsed().as_secs_f64())
}

fn tcp(port: &mut dyn Port, mac: [u8; 6], out: bool, time: Duration) -> Result<f64> {
    let (stream, target) = Stream::listen(out)?;
    let mut host = Host::new(Work::Stream(Box::new(stream)), port.is_served());
    let mut connection = Connection::open(&mut *port, mac, 40_000, target)?;
    let transfer = if out {
        connection.send_for(time, &mut host)?
    } else {
        connection.receive_for(time, &mut host)?
    };
    if transfer.repeats != 0 {
        host_os::say!(
            "({} segments were repeated or came out of order)",
            transfer.repeats
        );
    }
    drop(host);
    while port.receive()?.is_some() {}
    Ok(transfer.bytes as f64 * 8.0 / transfer.seconds)
}
