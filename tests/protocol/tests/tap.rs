//! A TAP interface with several queues behind a front-end that enables some of them. One rule: the interface lives in a
//! network namespace of the test's own thread.

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use net_backend::Fabric;
use net_backend::NetSpec;
use nix::sched::CloneFlags;
use protocol::Machine;
use protocol::ServedCard;
use protocol::eventually;
use std::net::UdpSocket;
use std::process::Command;
use virtio_spec::feature::RING_EVENT_IDX;
use virtio_spec::feature::VERSION_1;
use virtio_spec::net::feature;

const FEATURES: u64 =
    VERSION_1 | RING_EVENT_IDX | feature::MQ | feature::CTRL_VQ | feature::MRG_RXBUF;
/// Flows, enough that the kernel spreads them over all queues there are.
const FLOWS: u16 = 24;

fn ip(words: &str) -> Result<()> {
    let status = Command::new("ip").args(words.split_whitespace()).status()?;
    ensure!(status.success(), "ip {words}");
    Ok(())
}

/// Waits until the kernel sends on the interface, a moment after its first queue is read.
fn wait_until_up() -> bool {
    eventually(|| {
        let output = Command::new("ip")
            .args(["-o", "link", "show", "t0"])
            .output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("state UP"))
    })
}

/// Destination port of a UDP datagram over IPv4.
fn port(frame: &[u8]) -> Option<u16> {
    if frame.get(12..14)? != [8, 0] || *frame.get(23)? != 17 {
        return None;
    }
    Some(u16::from_be_bytes(*frame.get(36..)?.first_chunk()?))
}

/// Sends one datagram of each flow, and waits until all have come on the first `pairs` pairs.
fn all_flows_arrive(machine: &mut Machine, pairs: usize) -> Result<()> {
    let socket = UdpSocket::bind("192.0.2.1:0")?;
    let mut missing: Vec<u16> = (1000..1000 + FLOWS).collect();
    for port in &missing {
        socket.send_to(b"flow", ("192.0.2.2", *port))?;
    }
    while !missing.is_empty() {
        let ready = |machine: &Machine| (0..pairs).find(|pair| !machine.is_quiet(*pair));
        ensure!(
            eventually(|| ready(machine).is_some()),
            "flows {missing:?} went where nobody reads"
        );
        let pair = ready(machine).unwrap_or(0);
        let frame = machine.next_frame(pair)?;
        missing.retain(|flow| Some(*flow) != port(&frame));
    }
    for pair in 0..pairs {
        machine.enable(pair, true)?;
    }
    Ok(())
}

fn frames_of_all_flows_reach_the_enabled_pairs() -> Result<()> {
    ip("tuntap add dev t0 mode tap multi_queue vnet_hdr")?;
    ip("addr add 192.0.2.1/24 dev t0")?;
    ip("link set t0 up")?;
    ip("neigh add 192.0.2.2 lladdr 52:54:00:00:00:01 dev t0")?;
    let spec = NetSpec {
        queue_pairs: 2,
        ..NetSpec::on("tap:t0".parse()?)
    };
    let served = ServedCard::new("tap", spec, &Fabric::default())?;
    let mut machine = Machine::new(&served, FEATURES, 2)?;
    machine.enable(0, true)?;
    ensure!(wait_until_up(), "The interface does not come up");
    all_flows_arrive(&mut machine, 1).context("with the first pair")?;
    machine.enable(1, true)?;
    ensure!(eventually(|| served.card.active_pairs() == 2), "two pairs");
    all_flows_arrive(&mut machine, 2).context("with both pairs")?;
    machine.enable(1, false)?;
    ensure!(eventually(|| served.card.active_pairs() == 1), "one pair");
    all_flows_arrive(&mut machine, 1).context("with the first pair again")
}

#[test]
fn the_host_steers_frames_to_enabled_pairs_only() -> Result<()> {
    let thread = std::thread::spawn(|| {
        if let Err(errno) = nix::sched::unshare(CloneFlags::CLONE_NEWNET) {
            println!(
                "SKIPS ITSELF the_host_steers_frames_to_enabled_pairs_only: no network namespace ({errno}), needs root"
            );
            return Ok(());
        }
        if !std::path::Path::new("/dev/net/tun").exists() {
            println!("SKIPS ITSELF the_host_steers_frames_to_enabled_pairs_only: no /dev/net/tun");
            return Ok(());
        }
        frames_of_all_flows_reach_the_enabled_pairs()
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
