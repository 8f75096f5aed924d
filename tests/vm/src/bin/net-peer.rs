//! The host's end of the probe guest's network jobs: verified streams over TCP, datagrams that go back.
//!
//! One rule: it is started inside the network that it belongs to, says `ready`, and ends when a connection asks it to.
//!
//! `net-peer serve ADDRESS`; `net-peer client ADDRESS send|receive|both|quit SECONDS`;
//! `net-peer echo ADDRESS SIZE COUNT`: datagrams one after the other, timed.

use std::net::TcpListener;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use serde_json::json;
use vm::stream;
use vm::stream::Mode;
use vm::stream::PORT;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", address] => serve(address),
        ["client", peer, mode, seconds] => {
            let mode = Mode::named(mode).context("send, receive, both or quit")?;
            client(peer, mode, Duration::from_secs(seconds.parse()?))
        }
        ["echo", peer, size, count] => echo(peer, size.parse()?, count.parse()?),
        _ => bail!("serve ADDRESS | client ADDRESS MODE SECONDS | echo ADDRESS SIZE COUNT"),
    }
}

fn serve(address: &str) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind((address, PORT)).with_context(|| format!("Listen on {address}"))?;
    let datagrams = UdpSocket::bind((address, PORT))?;
    std::thread::spawn(move || {
        let mut space = [0; 65536];
        while let Ok((len, from)) = datagrams.recv_from(&mut space) {
            // As on any network: what does not go is lost.
            let _lost = datagrams.send_to(&space[..len], from);
        }
    });
    host_os::say!("{}", json!({ "kind": "ready" }));
    let quit = Arc::new(AtomicBool::new(false));
    let mut under_way = Vec::new();
    for connection in listener.incoming() {
        let connection = connection?;
        if quit.load(Ordering::Relaxed) {
            break;
        }
        let (quit, address) = (Arc::clone(&quit), address.to_string());
        under_way.push(std::thread::spawn(move || {
            let outcome = stream::serve(connection);
            let line = match &outcome {
                Ok((moved, _)) => {
                    json!({ "kind": "served", "good": true, "sent": moved.sent, "received": moved.received })
                }
                Err(error) => {
                    json!({ "kind": "served", "good": false, "error": format!("{error:#}") })
                }
            };
            host_os::say!("{line}");
            if matches!(outcome, Ok((_, true))) {
                quit.store(true, Ordering::Relaxed);
                // Wakes the listener.
                let _woken = TcpStream::connect((address.as_str(), PORT));
            }
            outcome.is_ok()
        }));
    }
    // All are waited for, whatever the first ones say.
    let verdicts: Vec<bool> = under_way
        .into_iter()
        .map(|thread| thread.join().unwrap_or(false))
        .collect();
    ensure!(!verdicts.contains(&false), "A stream came with other bytes");
    Ok(())
}

fn client(peer: &str, mode: Mode, time: Duration) -> anyhow::Result<()> {
    let moved = stream::client(peer, mode, time)?;
    let line = json!({
        "kind": "tcp", "sent": moved.sent, "received": moved.received, "mbit_s": moved.mbit_s(),
    });
    host_os::say!("{line}");
    Ok(())
}

fn echo(peer: &str, size: usize, count: usize) -> anyhow::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((peer, PORT))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let (mut sent, mut back) = (vec![0; size], vec![0; size + 1]);
    let mut times = Vec::new();
    let mut lost = 0;
    for number in 0..count as u64 {
        stream::fill(&mut sent, number, 0);
        let start = Instant::now();
        socket.send(&sent)?;
        match socket.recv(&mut back) {
            Ok(len) => {
                ensure!(back[..len] == sent[..], "A datagram came with other bytes");
                times.push(start.elapsed().as_nanos() as f64 / 1000.0);
            }
            Err(_) => lost += 1,
        }
    }
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied();
    let line = json!({
        "kind": "udp", "size": size, "count": times.len(), "lost": lost, "p50_us": at(0.5), "p99_us": at(0.99),
    });
    host_os::say!("{line}");
    Ok(())
}
