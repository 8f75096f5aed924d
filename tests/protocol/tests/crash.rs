//! The back-end dies, the front-end stays (REGRESSIONS.md row 46). One rule: the in-flight record lives in
//! the test, the back-end in a child process that is killed without warning.

use anyhow::Context as _;
use anyhow::Result;
use protocol::BackEnd;
use protocol::EchoDevice;
use protocol::Frontend;
use protocol::Guest;
use protocol::GuestQueue;
use protocol::QueueShape;
use protocol::Served;
use protocol::eventually;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use vhost_user_protocol::FrontendMessage as M;
use vhost_user_protocol::Inflight;
use vhost_user_protocol::Reply;
use vhost_user_protocol::Request;

/// What a [`BackEnd`] runs.
const BODY: &str = "back_end_of_the_crash_tests";

/// Not a test of its own: the child process of the tests below serves from here.
#[test]
#[ignore = "run by the other tests, as a process"]
fn back_end_of_the_crash_tests() -> Result<()> {
    let listener = UnixListener::bind(BackEnd::socket()?)?;
    let device = EchoDevice::new(1);
    let server = vhost_user_server::Server::new(device, vhost_user_server::Options::default())?;
    server.serve(&listener)?;
    Ok(())
}

fn connect(path: &Path) -> Result<Frontend> {
    let mut stream = None;
    eventually(|| {
        stream = UnixStream::connect(path).ok();
        stream.is_some()
    });
    Frontend::new(stream.context("the back-end does not listen")?)
}

/// Starts the ring with its record; the base is that of the very first start, as the front-end learnt no other.
fn attach(
    frontend: &mut Frontend,
    guest: &Guest,
    queue: &GuestQueue,
    record: &mut Option<(Inflight, OwnedFd)>,
) -> Result<()> {
    frontend.negotiate(queue.shape.features)?;
    frontend.set_memory(guest)?;
    if record.is_none() {
        let wanted = Inflight {
            num_queues: 1,
            queue_size: queue.shape.size,
            ..Default::default()
        };
        frontend.send(&M::GetInflightFd(wanted, 24), &[])?;
        let (reply, mut fds) = frontend.reply(Request::GetInflightFd)?;
        let Reply::Inflight(area, _) = reply else {
            anyhow::bail!("{reply:?}")
        };
        *record = Some((area, fds.pop().context("no descriptor")?));
    }
    let (area, fd) = record.as_ref().context("no record")?;
    frontend.must(&M::SetInflightFd(*area), &[fd.as_fd()])?;
    let packed = queue.shape.features & virtio_spec::feature::RING_PACKED != 0;
    frontend.start_queue(queue, if packed { 0x8000_8000 } else { 0 })
}

fn crash_rounds(shape: QueueShape, rounds: u64) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("back.sock");
    let guest = Guest::new()?;
    let mut queue = guest.queue(0, shape)?;
    let mut record = None;
    let mut lent = BTreeMap::new();
    let (mut submitted, mut completed) = (0_u64, 0_u64);
    for round in 0..rounds {
        let back_end = BackEnd::spawn(BODY, &path)?;
        let mut frontend = connect(&path)?;
        attach(&mut frontend, &guest, &queue, &mut record)?;
        let end = std::time::Instant::now() + Duration::from_micros(round * 731 % 9000);
        while std::time::Instant::now() < end {
            while queue.driver.free_descriptors() >= 2 {
                let slot = submitted % 64 * 2;
                let id = queue.add(&guest, slot, &submitted.to_le_bytes())?;
                anyhow::ensure!(lent.insert(id, submitted).is_none(), "id {id} lent twice");
                submitted += 1;
            }
            queue.publish();
            completed += reap(&mut queue, &mut lent)?;
        }
        drop(back_end);
        completed += reap(&mut queue, &mut lent)?;
    }
    let _back_end = BackEnd::spawn(BODY, &path)?;
    let mut frontend = connect(&path)?;
    attach(&mut frontend, &guest, &queue, &mut record)?;
    while !lent.is_empty() {
        let done = queue.wait(1)?;
        for (id, _) in done {
            anyhow::ensure!(lent.remove(&id).is_some(), "id {id} completed twice");
            completed += 1;
        }
    }
    anyhow::ensure!(
        completed == submitted,
        "{completed} of {submitted} completed"
    );
    anyhow::ensure!(
        submitted > rounds,
        "only {submitted} requests in {rounds} rounds"
    );
    Ok(())
}

fn reap(queue: &mut GuestQueue, lent: &mut BTreeMap<u16, u64>) -> Result<u64> {
    let mut count = 0;
    while let Some(used) = queue
        .driver
        .pop()
        .map_err(|error| anyhow::anyhow!("{error}"))?
    {
        anyhow::ensure!(
            lent.remove(&used.id).is_some(),
            "id {} completed twice",
            used.id
        );
        count += 1;
    }
    Ok(count)
}

#[test]
fn killed_back_end_completes_every_split_request_once() -> Result<()> {
    crash_rounds(QueueShape::SPLIT, 150)
}

#[test]
fn killed_back_end_completes_every_packed_request_once() -> Result<()> {
    crash_rounds(QueueShape::PACKED, 150)
}

#[test]
fn requests_left_in_flight_by_get_vring_base_run_once_on_the_next_back_end() -> Result<()> {
    // GET_VRING_BASE_INFLIGHT: the source need not wait for slow requests.
    for shape in [QueueShape::SPLIT, QueueShape::PACKED] {
        let (source, target) = (Served::new(1)?, Served::new(1)?);
        let guest = Guest::new()?;
        let mut queue = guest.queue(0, shape)?;
        let mut record = None;
        let mut frontend = source.connect()?;
        attach(&mut frontend, &guest, &queue, &mut record)?;
        queue.echo(&guest, b"before..")?;
        source.device.hold(true);
        let mut ids = Vec::new();
        for slot in 1..4_u64 {
            ids.push(queue.add(&guest, slot * 2, &slot.to_le_bytes())?);
        }
        queue.publish();
        assert!(eventually(
            || source.server.statistics().queues[0].taken == 4
        ));
        frontend.stop_queue(&queue)?;
        assert_eq!(
            source.device.journal().len(),
            1,
            "nothing more ran at the source"
        );
        let mut frontend = target.connect()?;
        attach(&mut frontend, &guest, &queue, &mut record)?;
        let done: Vec<u16> = queue.wait(3)?.into_iter().map(|(id, _)| id).collect();
        assert_eq!(done, ids);
        assert_eq!(target.device.journal(), [1, 2, 3]);
        assert_eq!(target.server.statistics().queues[0].replayed, 3);
        queue.echo(&guest, b"after...")?;
    }
    Ok(())
}

#[test]
fn damaged_record_stops_the_queue_and_a_reset_brings_it_back() -> Result<()> {
    let served = Served::new(1)?;
    let guest = Guest::new()?;
    let queue = guest.queue(0, QueueShape::SPLIT)?;
    let mut record = None;
    let mut frontend = served.connect()?;
    attach(&mut frontend, &guest, &queue, &mut record)?;
    frontend.stop_queue(&queue)?;
    let (area, fd) = record.context("no record")?;
    nix::sys::uio::pwrite(&fd, &[0xff; 1024], 0)?;
    frontend.must(&M::SetInflightFd(area), &[fd.as_fd()])?;
    assert!(frontend.start_queue(&queue, 0).is_err());
    frontend.must(&M::ResetDevice, &[])?;
    let mut queue = guest.queue(0, QueueShape::SPLIT)?;
    frontend.must(&M::SetFeatures(queue.shape.features | 1 << 30), &[])?;
    frontend.start_queue(&queue, 0)?;
    queue.echo(&guest, b"all well")
}
