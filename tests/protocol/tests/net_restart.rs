//! What a driver ordered through the control queue, under our own front-end, when the server is replaced or killed. One
//! rule: what counts is what driver and neighbours see, before a driver says anything again.

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use net_backend::Fabric;
use net_backend::NetSpec;
use protocol::BackEnd;
use protocol::Guest;
use protocol::GuestQueue;
use protocol::Machine;
use protocol::QueueShape;
use protocol::ServedCard;
use protocol::eventually;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use vhost_user_frontend::session::QueueSetup;
use vhost_user_frontend::session::Session;
use vhost_user_frontend::session::SessionSpec;
use virtio_spec::device_id;
use virtio_spec::feature::RING_EVENT_IDX;
use virtio_spec::feature::RING_PACKED;
use virtio_spec::feature::VERSION_1;
use virtio_spec::net;
use virtio_spec::net::feature;
use virtqueue::Segment;

const RING: u64 = VERSION_1 | RING_EVENT_IDX;
const FEATURES: u64 = RING
    | feature::MQ
    | feature::CTRL_VQ
    | feature::CTRL_RX
    | feature::CTRL_MAC_ADDR
    | feature::VQ_NOTF_COAL;
const PAIRS: u16 = 2;
const CONTROL: u16 = 2 * PAIRS;
/// Frames come with a header of this many bytes before them.
const HEADER: usize = 12;
const OWN: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0xc];
const PEER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0xd];
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// What a [`BackEnd`] runs.
const BODY: &str = "back_end_of_the_kill_test";

fn spec() -> NetSpec {
    NetSpec {
        queue_pairs: PAIRS,
        ..NetSpec::on_switch("lan")
    }
}

/// A driver under our front-end; it says nothing by itself when the server changes.
struct Driver {
    session: Session,
    guest: Guest,
    queues: Vec<GuestQueue>,
    /// Receive buffers by id.
    lent: HashMap<u16, u64>,
}

impl Driver {
    fn start(socket: &Path, features: u64) -> Result<Self> {
        let guest = Guest::new()?;
        let spec = SessionSpec {
            queue_count: CONTROL + 1,
            config_len: u32::try_from(size_of::<net::Config>())?,
            reconnect_pause_max: Duration::from_millis(20),
            ..SessionSpec::new(socket, device_id::NET)
        };
        let session = Session::connect(spec, guest.for_own_frontend()?, Arc::new(()))?;
        let shape = QueueShape { size: 64, features };
        let queues = (0..=CONTROL).map(|index| guest.queue(index, shape));
        let driver = Self {
            queues: queues.collect::<Result<_>>()?,
            lent: HashMap::new(),
            session,
            guest,
        };
        let setups = driver.queues.iter().map(setup).collect::<Result<_>>()?;
        driver.session.start(features, setups)?;
        Ok(driver)
    }

    /// Gives a control request; the answer with `more` bytes behind it.
    fn ask(&mut self, request: &[u8], more: u32) -> Result<Vec<u8>> {
        let (at, answer) = (self.guest.buffer(0), self.guest.buffer(1));
        self.guest.memory.write(at, request)?;
        let readable = Segment {
            addr: at,
            len: u32::try_from(request.len())?,
        };
        let writable = Segment {
            addr: answer,
            len: 1 + more,
        };
        let control = self.queues.last_mut().context("a control queue")?;
        let added = control.driver.add(&[readable], &[writable], None);
        added.map_err(|error| anyhow::anyhow!("{error}"))?;
        control.publish();
        control.wait(1)?;
        let mut bytes = vec![0xff; 1 + more as usize];
        self.guest.memory.read(answer, &mut bytes)?;
        Ok(bytes)
    }

    fn order(&mut self, request: &[u8]) -> Result<()> {
        ensure!(self.ask(request, 0)? == [0], "{request:?} is refused");
        Ok(())
    }

    /// The moderation of a queue, as its driver is told.
    fn moderation(&mut self, queue: u8) -> Result<Vec<u8>> {
        self.ask(&[6, 3, queue, 0, 0, 0], 8)
    }

    fn wait_for_return(&self, reconnects: u64) -> Result<()> {
        let back = || {
            let health = self.session.health();
            health.connected && health.reconnects >= reconnects
        };
        ensure!(eventually(back), "{:?}", self.session.health());
        Ok(())
    }

    /// Gives the first pair buffers.
    fn fill(&mut self) -> Result<()> {
        let receive = self.queues.first_mut().context("a receive queue")?;
        while receive.driver.free_descriptors() > 32 {
            let addr = self
                .guest
                .buffer(u64::from(receive.driver.free_descriptors()));
            let room = Segment { addr, len: 4096 };
            let id = receive.driver.add(&[], &[room], None);
            self.lent
                .insert(id.map_err(|error| anyhow::anyhow!("{error}"))?, addr);
        }
        receive.publish();
        Ok(())
    }

    /// The next frame of the first pair.
    fn next_frame(&mut self) -> Result<Vec<u8>> {
        let receive = self.queues.first_mut().context("a receive queue")?;
        let (id, written) = *receive.wait(1)?.first().context("a frame")?;
        let addr = self.lent.remove(&id).context("a buffer")?;
        let mut bytes = vec![0; written as usize];
        self.guest.memory.read(addr, &mut bytes)?;
        Ok(bytes.split_off(HEADER.min(bytes.len())))
    }
}

fn setup(queue: &GuestQueue) -> Result<QueueSetup> {
    let [descriptors, driver, device] = queue.guest_areas;
    Ok(QueueSetup {
        index: queue.index,
        size: queue.shape.size,
        descriptors,
        driver,
        device,
        kick: Arc::new(queue.kick.try_clone()?),
        call: Arc::new(queue.call.try_clone()?),
        base: None,
    })
}

/// A card with a driver, whose server can be replaced.
struct Fixture {
    fabric: Fabric,
    served: ServedCard,
    driver: Driver,
}

impl Fixture {
    fn new(features: u64) -> Result<Self> {
        let fabric = Fabric::default();
        let served = ServedCard::new("own", spec(), &fabric)?;
        let driver = Driver::start(&served.path, features)?;
        Ok(Self {
            fabric,
            served,
            driver,
        })
    }

    fn replace_server(&mut self) -> Result<()> {
        let count = self.driver.session.health().reconnects + 1;
        self.served.shut_down();
        let path: PathBuf = self.served.path.clone();
        // The dead card leaves the switch, where its address is the next one's.
        self.served = ServedCard::new("none", NetSpec::on("null".parse()?), &self.fabric)?;
        self.served = ServedCard::at(path, "own", spec(), &self.fabric)?;
        self.driver.wait_for_return(count)
    }
}

#[test]
fn pairs_address_and_moderation_outlive_the_server_in_split_and_packed_rings() -> Result<()> {
    for ring in [0, RING_PACKED] {
        let mut fixture = Fixture::new(FEATURES | ring)?;
        ensure!(eventually(|| fixture.served.card.active_pairs() == 1));
        fixture.replace_server()?;
        ensure!(fixture.served.card.active_pairs() == 1, "no order yet");
        let driver = &mut fixture.driver;
        driver.order(&[4, 0, 2, 0])?;
        driver.order(&[&[1, 1][..], &OWN].concat())?;
        driver.order(&[6, 2, 1, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0])?;
        let moderation = driver.moderation(1)?;
        for round in 0..4 {
            fixture.replace_server()?;
            let card = &fixture.served.card;
            ensure!(card.active_pairs() == 2, "round {round}");
            ensure!(card.mac().0 == OWN, "round {round}");
            ensure!(fixture.driver.moderation(1)? == moderation);
            ensure!(fixture.driver.moderation(0)? == [0; 9]);
        }
    }
    Ok(())
}

#[test]
fn the_receive_filter_outlives_the_server() -> Result<()> {
    let mut fixture = Fixture::new(FEATURES)?;
    let neighbour = ServedCard::new("peer", NetSpec::on_switch("lan"), &fixture.fabric)?;
    let mut peer = Machine::new(&neighbour, RING, 1)?;
    peer.enable(0, true)?;
    let driver = &mut fixture.driver;
    driver.order(&[&[1, 1][..], &OWN].concat())?;
    driver.order(&[0, 0, 0])?;
    driver.fill()?;
    for mark in 0..3 {
        fixture.replace_server()?;
        let frame = |to: [u8; 6]| {
            let mut bytes = [&to[..], &PEER, &[0x88, 0xb5]].concat();
            bytes.resize(60, mark);
            bytes
        };
        // A ring is served from a moment after its server's return; what comes before is lost as on a cable.
        let refused = || fixture.served.card.metrics().frames.receive.filtered;
        let start = std::time::Instant::now();
        while refused() == 0 {
            ensure!(start.elapsed() < protocol::DEADLINE, "nothing is refused");
            peer.send(0, &frame(STRANGER))?;
        }
        peer.send(0, &frame(OWN))?;
        ensure!(fixture.driver.next_frame()? == frame(OWN), "round {mark}");
    }
    Ok(())
}

#[test]
fn a_reset_of_the_driver_ends_what_was_ordered() -> Result<()> {
    let mut fixture = Fixture::new(FEATURES)?;
    fixture.driver.order(&[4, 0, 2, 0])?;
    fixture.driver.session.reset();
    let queues = &mut fixture.driver.queues;
    let shape = queues.first().context("a queue")?.shape;
    for index in 0..=CONTROL {
        queues[usize::from(index)] = fixture.driver.guest.queue(index, shape)?;
    }
    let setups = queues.iter().map(setup).collect::<Result<_>>()?;
    fixture.driver.session.start(FEATURES, setups)?;
    ensure!(eventually(|| fixture.served.card.active_pairs() == 1));
    fixture.replace_server()?;
    ensure!(fixture.served.card.active_pairs() == 1);
    Ok(())
}

/// Not a test of its own: the process of the test below serves from here.
#[test]
#[ignore = "run by the other tests, as a process"]
fn back_end_of_the_kill_test() -> Result<()> {
    let served = ServedCard::at(BackEnd::socket()?, "own", spec(), &Fabric::default())?;
    loop {
        // Until it is killed.
        std::thread::park();
        ensure!(served.path.exists(), "nobody else ends this");
    }
}

/// Each order that was acknowledged counts when the process is killed right after, without a chance to save anything.
#[test]
fn orders_outlive_a_server_that_is_killed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("net.sock");
    let mut back_end = BackEnd::spawn(BODY, &path)?;
    let mut driver = Driver::start(&path, FEATURES)?;
    for round in 1..=8_u8 {
        driver.order(&[6, 2, round % 4, 0, 0, 0, round, 0, 0, 0, round, 0, 0, 0])?;
        drop(back_end);
        back_end = BackEnd::spawn(BODY, &path)?;
        driver.wait_for_return(round.into())?;
        let expected = [0, round, 0, 0, 0, round, 0, 0, 0];
        ensure!(driver.moderation(round % 4)? == expected, "round {round}");
    }
    drop(back_end);
    Ok(())
}
