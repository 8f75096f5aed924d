//! How fast two network drivers and the backend's switch are together: one thread for the guests, one for the host.
//!
//! Rule: both poll; doorbells and interrupts are only counted. What did not arrive does not count.
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::anyhow;
use driver_fakes::DirectBuffer;
use driver_fakes::DirectPlatform;
use driver_fakes::FakeBar;
use driver_fakes::FakeFunction;
use driver_fakes::FakeInterrupts;
use net_backend::Fabric;
use net_backend::NetDevice;
use net_backend::NetSpec;
use net_driver::NetDriver;
use net_driver::Offload;
use net_driver::Options;
use net_driver::ReceiveQueue;
use net_driver::Transmit;
use net_driver::TransmitQueue;
use virtio_spec::net;

use crate::Backend;
use crate::shared_arena;

/// Entries of each queue.
const QUEUE: u16 = 256;
/// Frames sent before the doorbell is rung.
const BATCH: usize = 32;
/// Ethernet header of a frame from the first guest to the second, without the addresses.
const TYPE: [u8; 2] = [0x88, 0xb5];

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct NetWorkload {
    /// Bytes of a frame.
    pub frame_bytes: usize,
    /// For how long.
    pub duration: Duration,
    /// Packed rings.
    pub packed: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct NetRates {
    /// Frames that the first guest sent.
    pub sent: u64,
    /// Frames that the second guest got.
    pub received: u64,
    /// Doorbells that the guests rang.
    pub doorbells: u64,
    /// Time taken.
    pub elapsed: Duration,
}

struct Guest {
    platform: DirectPlatform,
    driver: NetDriver<FakeFunction>,
    receive: ReceiveQueue<DirectPlatform, FakeBar>,
    transmit: TransmitQueue<DirectPlatform, FakeBar>,
    mac: [u8; 6],
}

/// Sends frames from one guest to another through a switch of one process.
///
/// # Errors
/// A card does not start, or a queue breaks.
pub fn measure_net(work: &NetWorkload) -> anyhow::Result<NetRates> {
    let fabric = Fabric::default();
    let (mut first, mut sender) = guest("first", &fabric, work)?;
    let (mut second, mut receiver) = guest("second", &fabric, work)?;
    for queue in 0..2 {
        sender.serve(queue)?;
        receiver.serve(queue)?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let host = std::thread::spawn(move || -> anyhow::Result<()> {
        while !stopped.load(Ordering::Relaxed) {
            if !sender.serve(net::transmit_queue(0))? {
                std::hint::spin_loop();
            }
        }
        sender.drain()?;
        receiver.drain()
    });
    let rates = pump(&mut first, &mut second, work);
    stop.store(true, Ordering::Relaxed);
    host.join().map_err(|_| anyhow!("The host panicked"))??;
    first.driver.begin_stop(&first.platform);
    second.driver.begin_stop(&second.platform);
    rates
}

fn guest(name: &str, fabric: &Fabric, work: &NetWorkload) -> anyhow::Result<(Guest, Backend)> {
    let spec = NetSpec {
        packed: work.packed,
        mtu: Some(u16::try_from(work.frame_bytes)?.max(1500)),
        ..NetSpec::on_switch("loopback")
    };
    let (memory, arena) = shared_arena(64 << 20)?;
    let device = NetDevice::open(name, spec, fabric)?;
    let mac = device.mac().0;
    let (backend, function) = Backend::new(device, memory)?;
    let platform = DirectPlatform::new(arena);
    let options = Options {
        receive_size: QUEUE,
        transmit_size: QUEUE,
        ..Options::default()
    };
    let started = NetDriver::start(&platform, function, &FakeInterrupts(0), options)
        .map_err(|failure| anyhow!("The network did not start: {}", failure.error))?;
    let guest = Guest {
        platform,
        driver: started.driver,
        receive: started.receive.into_iter().next().context("no queue")?,
        transmit: started.transmit.into_iter().next().context("no queue")?,
        mac,
    };
    Ok((guest, backend))
}

fn pump(first: &mut Guest, second: &mut Guest, work: &NetWorkload) -> anyhow::Result<NetRates> {
    let header = first.driver.info().header_size;
    let mut idle = Vec::with_capacity(usize::from(QUEUE));
    for _ in 0..QUEUE / 2 {
        let bytes = header + work.frame_bytes;
        let buffer = first.platform.buffer(bytes).context("no memory")?;
        buffer.memory.write(header, &second.mac);
        buffer.memory.write(header + 6, &first.mac);
        buffer.memory.write(header + 12, &TYPE);
        idle.push(buffer);
    }
    let room = second
        .driver
        .info()
        .buffer_min
        .max(header + work.frame_bytes);
    for _ in 0..QUEUE {
        let buffer = second.platform.buffer(room).context("no memory")?;
        post(second, buffer)?;
    }
    second.receive.kick();
    first.transmit.disarm();
    second.receive.disarm();
    let mut spare = Vec::with_capacity(usize::from(QUEUE));
    let start = Instant::now();
    let mut received = 0;
    while start.elapsed() < work.duration {
        for _ in 0..64 {
            send(first, &mut idle)?;
            received += take(second, &mut spare)?;
        }
    }
    let elapsed = start.elapsed();
    let counters = first.transmit.counters();
    Ok(NetRates {
        sent: counters.frames,
        received,
        doorbells: counters.doorbells + second.receive.counters().doorbells,
        elapsed,
    })
}

/// Takes back what was sent and sends a batch.
fn send(guest: &mut Guest, idle: &mut Vec<DirectBuffer>) -> anyhow::Result<()> {
    while let Some(back) = guest.transmit.poll(&guest.platform)? {
        idle.push(back.buffer);
    }
    let batch = idle.len().min(BATCH);
    for buffer in idle.drain(..batch) {
        let request = Transmit {
            buffer,
            headroom: true,
            offload: Offload::default(),
            cookie: 0,
        };
        let sent = guest.transmit.submit(&guest.platform, request);
        sent.map_err(|rejected| anyhow!("A frame was refused: {}", rejected.reason))?;
    }
    if batch > 0 {
        guest.transmit.kick();
    }
    Ok(())
}

/// Takes a batch of received frames and posts their buffers anew; `spare` is empty before and afterwards.
fn take(guest: &mut Guest, spare: &mut Vec<DirectBuffer>) -> anyhow::Result<u64> {
    let mut frames = 0;
    while spare.len() < BATCH
        && let Some(received) = guest.receive.poll(&guest.platform)?
    {
        frames += u64::from(received.frame.is_ok());
        spare.extend(received.buffers.map(|part| part.buffer));
    }
    if spare.is_empty() {
        return Ok(0);
    }
    for buffer in spare.drain(..) {
        post(guest, buffer)?;
    }
    guest.receive.kick();
    Ok(frames)
}

fn post(guest: &mut Guest, buffer: DirectBuffer) -> anyhow::Result<()> {
    let posted = guest.receive.post(&guest.platform, buffer, 0);
    posted.map_err(|rejected| anyhow!("A buffer was refused: {}", rejected.reason))
}
