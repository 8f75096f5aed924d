//! The cells between ports: testpmd's virtio_user ports as guests, served by testpmd's vhost ports or by ours.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::Cell;
use super::Choice;
use super::server::Card;
use super::server::Daemon;
use super::testpmd::Testpmd;
use super::testpmd::TestpmdSpec;
use crate::cpu;

/// Time for a flow to become steady.
const SETTLE: Duration = Duration::from_millis(700);

/// Bursts of 32 frames that go round between two ports: nearly as many frames as a ring holds, so that neither side
/// waits for the other.
const FIRST: u32 = 28;

/// Which way frames go, seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Out of one port, into the other, both ways at once.
    Between,
    /// As before with one frame in flight each way.
    PingPong,
    /// Out of one port, to nowhere.
    Out,
    /// From a source into one port.
    In,
}

/// One cell's parameters.
#[derive(Clone, Copy, Debug)]
struct Job {
    way: Way,
    bytes: usize,
    packed: bool,
}

impl Job {
    fn name(self) -> String {
        match self.way {
            Way::Between => format!("ports {} B both ways", self.bytes),
            Way::PingPong => "ports ping-pong".to_owned(),
            Way::Out => format!("port {} B out", self.bytes),
            Way::In => format!("port {} B in", self.bytes),
        }
    }

    fn ports(self) -> usize {
        if matches!(self.way, Way::Between | Way::PingPong) {
            2
        } else {
            1
        }
    }
}

/// Frames per second, and the server's CPU seconds per million frames.
type Figure = (f64, f64);

/// Measures all cells; says so and leaves the part out without testpmd.
pub fn run(
    program: &Path,
    time: Duration,
    cells: &Choice,
    take: &mut dyn FnMut(Cell),
) -> Result<()> {
    if !Testpmd::exists() {
        host_os::say!(
            "left out: the cells between ports: dpdk-testpmd is missing (Debian package dpdk-dev)"
        );
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let ways = [
        (Way::Between, 64),
        (Way::Between, 1500),
        (Way::Between, 9000),
        (Way::Out, 64),
        (Way::Out, 1500),
        (Way::In, 64),
        (Way::In, 1500),
        (Way::PingPong, 64),
    ];
    for (way, bytes) in ways {
        for packed in [false, true] {
            let job = Job { way, bytes, packed };
            if !cells.wants(&job.name()) {
                continue;
            }
            let ours = paravane(program, job, time, folder.path())?;
            let theirs = dpdk(job, time, folder.path())?;
            take(Cell {
                name: job.name(),
                unit: "frames/s",
                packed,
                paravane: ours.0,
                peer: "DPDK vhost",
                theirs: theirs.0,
                paravane_cpu: Some(ours.1),
                theirs_cpu: Some(theirs.1),
            });
        }
    }
    Ok(())
}

fn sockets(job: Job, folder: &Path) -> Vec<PathBuf> {
    let sockets: Vec<_> = (0..job.ports())
        .map(|port| folder.join(format!("port{port}.sock")))
        .collect();
    for socket in &sockets {
        let _ = std::fs::remove_file(socket);
    }
    sockets
}

fn paravane(program: &Path, job: Job, time: Duration, folder: &Path) -> Result<Figure> {
    let sockets = sockets(job, folder);
    let link = match job.way {
        Way::Between | Way::PingPong => "switch:bench",
        Way::Out => "null",
        Way::In if job.bytes == 64 => "source:64",
        Way::In => "source:1500",
    };
    let cards: Vec<_> = sockets
        .iter()
        .map(|socket| Card {
            socket: socket.clone(),
            link,
        })
        .collect();
    let daemon = Daemon::start(program, &cards, job.packed, cpu::pair().1, folder)?;
    client(job, &sockets, daemon.pid(), time, folder)
}

fn dpdk(job: Job, time: Duration, folder: &Path) -> Result<Figure> {
    let sockets = sockets(job, folder);
    let devices: Vec<_> = sockets
        .iter()
        .enumerate()
        .map(|(port, socket)| format!("net_vhost{port},iface={},queues=1", socket.display()))
        .collect();
    let mode = match job.way {
        Way::Between | Way::PingPong => "io",
        Way::Out => "rxonly",
        Way::In => "txonly",
    };
    let mut options = jumbo(job);
    options.push(format!("--forward-mode={mode}"));
    let spec = TestpmdSpec {
        name: "peer",
        cpu: cpu::pair().1,
        devices: &devices,
        options: &options,
    };
    let mut peer = Testpmd::start(&spec, folder)?;
    if job.way == Way::In {
        peer.say(&format!("set txpkts {}", job.bytes))?;
    }
    peer.say("start")?;
    client(job, &sockets, peer.pid(), time, folder)
}

fn jumbo(job: Job) -> Vec<String> {
    let mut options = vec!["--txd=1024".to_owned(), "--rxd=1024".to_owned()];
    if job.bytes > 2000 {
        options.extend(["--max-pkt-len=9018", "--mbuf-size=9728"].map(str::to_owned));
    }
    options
}

fn client(
    job: Job,
    sockets: &[PathBuf],
    server: u32,
    time: Duration,
    folder: &Path,
) -> Result<Figure> {
    let packed = u8::from(job.packed);
    let devices: Vec<_> = sockets
        .iter()
        .enumerate()
        .map(|(port, socket)| {
            format!(
                "net_virtio_user{port},path={},queues=1,queue_size=1024,packed_vq={packed},mac=02:00:00:00:00:0{port}",
                socket.display()
            )
        })
        .collect();
    let mode = match job.way {
        Way::Between | Way::PingPong => "mac",
        Way::Out => "txonly",
        Way::In => "rxonly",
    };
    let mut options = jumbo(job);
    options.push(format!("--forward-mode={mode}"));
    if job.ports() == 2 {
        options.extend(
            [
                "--eth-peer=0,02:00:00:00:00:01",
                "--eth-peer=1,02:00:00:00:00:00",
            ]
            .map(str::to_owned),
        );
    }
    let spec = TestpmdSpec {
        name: "client",
        cpu: cpu::pair().0,
        devices: &devices,
        options: &options,
    };
    let mut client = Testpmd::start(&spec, folder)?;
    client.say(&format!("set txpkts {}", job.bytes))?;
    match job.way {
        Way::Between => client.say(&format!("start tx_first {FIRST}"))?,
        Way::PingPong => {
            client.say("set burst 1")?;
            client.say("start tx_first 1")?;
        }
        Way::Out | Way::In => client.say("start")?,
    }
    std::thread::sleep(SETTLE);
    let first = client.statistics()?;
    let cpu_before = cpu::time(server)?;
    std::thread::sleep(time);
    let last = client.statistics()?;
    let used = cpu::time(server)? - cpu_before;
    let frames = match job.way {
        Way::Out => last.sent - first.sent,
        _ => last.received - first.received,
    };
    let seconds = (last.at - first.at).as_secs_f64();
    Ok((
        frames as f64 / seconds,
        used.as_secs_f64() / (frames.max(1) as f64) * 1e6,
    ))
}
