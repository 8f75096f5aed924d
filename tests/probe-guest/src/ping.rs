//! The `ping` job: echoes to a peer, one after the other, each compared byte for byte.
//!
//! Rule: a lost echo is counted and told, a wrong one ends the job.
use alloc::boxed::Box;
use alloc::vec;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp;
use smoltcp::wire::Icmpv4Packet;
use smoltcp::wire::Icmpv4Repr;
use smoltcp::wire::IpAddress;

use crate::command::Task;
use crate::cpu;
use crate::device::number;
use crate::histogram::Histogram;
use crate::json::Line;
use crate::machine::Failure;
use crate::machine::Machine;
use crate::net::Net;
use crate::net::peer;
use crate::pattern;

const IDENT: u16 = 0x5056;
/// An echo that takes longer is lost, in milliseconds.
const LOST_MS: u64 = 1000;
const HEADER: usize = 8;

pub(crate) fn run(machine: &Machine, task: &Task<'_>) -> Result<(), Failure> {
    let peer = peer(task, "peer")?;
    let count = number(task, "count", 1000)?;
    let size = number(task, "size", 56)?.min(60_000) as usize;
    let allowed = number(task, "lost", 0)?;
    let mut net = Net::open(machine, task)?;
    let buffer = || {
        icmp::PacketBuffer::new(
            vec![icmp::PacketMetadata::EMPTY; 4],
            vec![0; 4 * (size + HEADER)],
        )
    };
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket
        .bind(icmp::Endpoint::Ident(IDENT))
        .map_err(|_| Failure::new("The echo socket does not bind", 0))?;
    let handle = net.sockets.add(socket);
    let mut payload = vec![0; size];
    let mut histogram = Box::new(Histogram::new());
    let (mut lost, mut sent) = (0, 0_u64);
    // The first one pays for the address resolution; it may be lost while a link comes up.
    while sent <= count {
        pattern::stream_fill(&mut payload, sent, 0);
        let took = echo(&mut net, handle, (peer.into(), sent as u16), &payload)?;
        match took {
            Some(ticks) if sent > 0 => histogram.record(ticks),
            None if sent > 0 => lost += 1,
            _ => {}
        }
        sent += 1;
    }
    let mut line = Line::new("ping");
    line.number("size", size as u64)
        .number("count", count)
        .number("lost", lost);
    histogram.report(&machine.platform, &mut line);
    net.report(&mut line);
    line.print();
    net.close()?;
    if lost <= allowed {
        Ok(())
    } else {
        Err(Failure::new("Echoes were lost", lost))
    }
}

/// Sends one echo and waits for its answer; the ticks that it took.
fn echo(
    net: &mut Net<'_>,
    handle: smoltcp::iface::SocketHandle,
    (peer, seq_no): (IpAddress, u16),
    payload: &[u8],
) -> Result<Option<u64>, Failure> {
    let request = Icmpv4Repr::EchoRequest {
        ident: IDENT,
        seq_no,
        data: payload,
    };
    let socket = net.socket::<icmp::Socket<'_>>(handle);
    let space = socket
        .send(request.buffer_len(), peer)
        .map_err(|_| Failure::new("No room for an echo", seq_no.into()))?;
    request.emit(
        &mut Icmpv4Packet::new_unchecked(space),
        &ChecksumCapabilities::default(),
    );
    let start = cpu::tsc();
    let limit = net.machine.platform.ticks(LOST_MS);
    loop {
        net.step()?;
        let socket = net.socket::<icmp::Socket<'_>>(handle);
        while let Ok((bytes, _)) = socket.recv() {
            let packet = Icmpv4Packet::new_checked(bytes)
                .map_err(|_| Failure::new("An answer is cut", seq_no.into()))?;
            let answer = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default())
                .map_err(|_| Failure::new("An answer has a bad checksum", seq_no.into()))?;
            match answer {
                Icmpv4Repr::EchoReply {
                    seq_no: theirs,
                    data,
                    ..
                } if theirs == seq_no => {
                    if data != payload {
                        return Err(Failure::new("An answer has other bytes", seq_no.into()));
                    }
                    return Ok(Some(cpu::tsc() - start));
                }
                // One that counts as lost already.
                _ => {}
            }
        }
        if cpu::tsc() - start > limit {
            return Ok(None);
        }
    }
}
