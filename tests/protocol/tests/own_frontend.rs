//! Our own front-end against our own server: both ends of Paravane in one process. One rule: what a guest would see is
//! checked, and that every request was executed exactly once.

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use protocol::Guest;
use protocol::GuestQueue;
use protocol::QueueShape;
use protocol::Served;
use protocol::eventually;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use vhost_user_frontend::Error;
use vhost_user_frontend::session::DirtyLog;
use vhost_user_frontend::session::Events;
use vhost_user_frontend::session::QueueSetup;
use vhost_user_frontend::session::Session;
use vhost_user_frontend::session::SessionSpec;

const SHAPES: [QueueShape; 2] = [QueueShape::SPLIT, QueueShape::PACKED];

/// A device id of no particular kind, so that any configuration may change.
const ECHO: u32 = 42;

/// Counts what the session reports.
#[derive(Default)]
struct Reports {
    config: AtomicU32,
    reset: AtomicU32,
}

impl Events for Reports {
    fn config_changed(&self, _config: &[u8]) {
        self.config.fetch_add(1, Ordering::Relaxed);
    }
    fn needs_reset(&self, _reason: &Error) {
        self.reset.fetch_add(1, Ordering::Relaxed);
    }
}

struct Fixture {
    served: Served,
    guest: Guest,
    session: Session,
    reports: Arc<Reports>,
}

impl Fixture {
    fn new(queues: u16) -> Result<Self> {
        let served = Served::new(queues)?;
        let guest = Guest::new()?;
        let spec = SessionSpec {
            queue_count: queues,
            config_len: 16,
            reconnect_pause_max: Duration::from_millis(20),
            ..SessionSpec::new(&served.path, ECHO)
        };
        let reports = Arc::new(Reports::default());
        let session = Session::connect(spec, guest.for_own_frontend()?, reports.clone())?;
        Ok(Self {
            served,
            guest,
            session,
            reports,
        })
    }

    fn queue(&self, index: u16, shape: QueueShape) -> Result<GuestQueue> {
        self.guest.queue(index, shape)
    }

    /// A started queue 0.
    fn running(shape: QueueShape) -> Result<(Self, GuestQueue)> {
        let fixture = Self::new(1)?;
        let queue = fixture.queue(0, shape)?;
        let setup = setup(&queue, None)?;
        fixture.session.start(shape.features, vec![setup])?;
        Ok((fixture, queue))
    }

    /// Ends the server with all its connections, and starts another on the same socket.
    fn replace_server(&mut self) -> Result<()> {
        self.served.shut_down();
        self.served = Served::at(self.served.path.clone(), 1)?;
        Ok(())
    }
}

fn setup(queue: &GuestQueue, base: Option<u32>) -> Result<QueueSetup> {
    let [descriptors, driver, device] = queue.guest_areas;
    Ok(QueueSetup {
        index: queue.index,
        size: queue.shape.size,
        descriptors,
        driver,
        device,
        kick: Arc::new(queue.kick.try_clone()?),
        call: Arc::new(queue.call.try_clone()?),
        base,
    })
}

#[test]
fn requests_are_answered_on_split_and_packed_rings() -> Result<()> {
    for shape in SHAPES {
        let (fixture, mut queue) = Fixture::running(shape)?;
        for round in 0..300_u64 {
            queue.echo(&fixture.guest, &round.to_le_bytes())?;
        }
        let journal = fixture.served.device.journal();
        ensure!(journal == (0..300).collect::<Vec<_>>());
    }
    Ok(())
}

#[test]
fn queues_stop_and_go_on_where_they_were() -> Result<()> {
    for shape in SHAPES {
        let (fixture, mut queue) = Fixture::running(shape)?;
        for round in 0..100_u64 {
            queue.echo(&fixture.guest, &round.to_le_bytes())?;
            if round % 7 == 0 {
                let bases = fixture.session.stop();
                let (_, base) = *bases.first().context("no base")?;
                let setup = setup(&queue, Some(base))?;
                fixture.session.start(shape.features, vec![setup])?;
            }
        }
        ensure!(fixture.served.device.journal().len() == 100);
    }
    Ok(())
}

#[test]
fn a_reset_device_starts_afresh() -> Result<()> {
    for shape in SHAPES {
        let (fixture, mut queue) = Fixture::running(shape)?;
        for round in 1..20 {
            queue.echo(&fixture.guest, b"somebody")?;
            fixture.session.reset();
            ensure!(fixture.served.device.resets() == round);
            queue = fixture.queue(0, shape)?;
            let setup = setup(&queue, None)?;
            fixture.session.start(shape.features, vec![setup])?;
        }
        queue.echo(&fixture.guest, b"the last")?;
        ensure!(fixture.session.health().reconnects == 0);
    }
    Ok(())
}

#[test]
fn one_queue_is_reset_while_the_other_runs() -> Result<()> {
    for shape in SHAPES {
        let fixture = Fixture::new(2)?;
        let mut first = fixture.queue(0, shape)?;
        let mut second = fixture.queue(1, shape)?;
        let setups = vec![setup(&first, None)?, setup(&second, None)?];
        fixture.session.start(shape.features, setups)?;
        for _ in 0..20 {
            first.echo(&fixture.guest, b"first...")?;
            second.echo(&fixture.guest, b"second..")?;
            fixture.session.stop_queue(1).context("no base")?;
            second = fixture.queue(1, shape)?;
            fixture.session.start_queue(setup(&second, None)?)?;
        }
        second.echo(&fixture.guest, b"the last")?;
    }
    Ok(())
}

#[test]
fn a_change_of_the_configuration_arrives() -> Result<()> {
    let fixture = Fixture::new(1)?;
    fixture.session.write_config(0, &[9])?;
    fixture.served.device.change_config(77);
    ensure!(eventually(|| fixture.session.config().get(8) == Some(&77)));
    ensure!(fixture.session.config().first() == Some(&9));
    ensure!(fixture.reports.config.load(Ordering::Relaxed) > 0);
    ensure!(fixture.session.write_config(8, &[1]).is_err());
    ensure!(fixture.session.health().connected);
    Ok(())
}

#[test]
fn a_server_that_is_replaced_under_load_loses_and_doubles_nothing() -> Result<()> {
    for shape in SHAPES {
        let (mut fixture, mut queue) = Fixture::running(shape)?;
        let mut executed = Vec::new();
        for round in 0..20_u64 {
            for request in 0..16 {
                let value = round * 16 + request;
                queue.add(&fixture.guest, request * 2, &value.to_le_bytes())?;
                if request == 8 {
                    queue.publish();
                }
            }
            queue.publish();
            let device = fixture.served.device.clone();
            fixture.replace_server()?;
            let health = || format!("round {round}: {:?}", fixture.session.health());
            queue.wait(16).with_context(health)?;
            executed.extend(device.journal());
        }
        executed.extend(fixture.served.device.journal());
        executed.sort_unstable();
        ensure!(executed == (0..320).collect::<Vec<_>>(), "{executed:?}");
        ensure!(fixture.reports.reset.load(Ordering::Relaxed) == 0);
    }
    Ok(())
}

/// Requests that a server took and never completed stand in the in-flight record; the next server executes them.
#[test]
fn requests_in_flight_survive_their_server() -> Result<()> {
    for shape in SHAPES {
        let (mut fixture, mut queue) = Fixture::running(shape)?;
        for round in 0..10_u64 {
            queue.echo(&fixture.guest, b"completd")?;
            fixture.served.device.hold(true);
            for request in 0..5 {
                let value = 1000 + round * 5 + request;
                queue.add(&fixture.guest, request * 2, &value.to_le_bytes())?;
            }
            queue.publish();
            let held = fixture.served.device.clone();
            fixture.replace_server()?;
            queue.wait(5).with_context(|| format!("round {round}"))?;
            let marks = |journal: Vec<u64>| journal.into_iter().filter(|mark| *mark < 10_000);
            let mut executed: Vec<u64> = marks(held.journal()).collect();
            executed.extend(marks(fixture.served.device.journal()));
            executed.sort_unstable();
            let first = 1000 + round * 5;
            let expected: Vec<u64> = (first..first + 5).collect();
            let new: Vec<u64> = executed.into_iter().filter(|mark| *mark >= first).collect();
            ensure!(new == expected, "round {round}: {new:?}");
        }
    }
    Ok(())
}

#[test]
fn a_broken_ring_is_reported_and_a_reset_mends_it() -> Result<()> {
    let (fixture, mut queue) = Fixture::running(QueueShape::SPLIT)?;
    queue.echo(&fixture.guest, b"healthy.")?;
    let [_, available, _] = queue.guest_areas;
    fixture.guest.memory.write(available + 2, &[0xff, 0x7f])?;
    queue.kick.notify();
    ensure!(eventually(
        || fixture.reports.reset.load(Ordering::Relaxed) > 0
    ));
    fixture.session.reset();
    let mut queue = fixture.queue(0, QueueShape::SPLIT)?;
    let setup = setup(&queue, None)?;
    fixture
        .session
        .start(QueueShape::SPLIT.features, vec![setup])?;
    queue.echo(&fixture.guest, b"mended..")
}

#[test]
fn a_dirty_log_shows_what_the_device_wrote() -> Result<()> {
    let (fixture, mut queue) = Fixture::running(QueueShape::SPLIT)?;
    let size = (fixture.guest.spec.guest_addr + fixture.guest.spec.size) / 4096 / 8;
    let file = Arc::new(File::from(host_os::memfd::create("log", size)?));
    let log = DirtyLog {
        file: Arc::clone(&file),
        offset: 0,
        size,
    };
    fixture.session.set_dirty_log(Some(log))?;
    queue.echo(&fixture.guest, b"written.")?;
    fixture.session.set_dirty_log(None)?;
    let dirty = |address: u64| -> Result<bool> {
        use std::os::unix::fs::FileExt;
        let page = address / 4096;
        let mut byte = [0];
        file.read_exact_at(&mut byte, page / 8)?;
        Ok(byte[0] >> (page % 8) & 1 != 0)
    };
    ensure!(dirty(fixture.guest.buffer(1))?, "the answer");
    ensure!(dirty(queue.guest_areas[2])?, "the used ring");
    ensure!(!dirty(fixture.guest.buffer(0))?, "the request");
    queue.echo(&fixture.guest, b"later...")
}
