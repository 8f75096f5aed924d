//! Queues whose worker broke down. One rule: what the driver or its front-end does to begin anew brings the queue back, and
//! a device that cannot come back ends the serving with an error, for a supervisor to see.

use anyhow::Result;
use device_model::ConfigNotifier;
use device_model::Device;
use device_model::Error;
use device_model::Progress;
use device_model::Queue;
use device_model::QueueHandler;
use guest_memory::GuestMemory;
use protocol::EchoDevice;
use protocol::Frontend;
use protocol::Guest;
use protocol::GuestQueue;
use protocol::PANIC_MARK;
use protocol::QueueShape;
use protocol::Serving;
use protocol::eventually;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use vhost_user_protocol::FrontendMessage as M;
use vhost_user_protocol::Inflight;
use vhost_user_protocol::Reply;
use vhost_user_protocol::Request;
use vhost_user_protocol::feature;

/// An echo device with one thing that its handler holds, as a network card's holds its link.
struct Lender {
    echo: Arc<EchoDevice>,
    lent: Arc<AtomicBool>,
    /// The handler panics once more when it is dropped.
    stubborn: bool,
}

struct Borrower {
    echo: Box<dyn QueueHandler>,
    lent: Arc<AtomicBool>,
    stubborn: bool,
}

impl Lender {
    fn new(stubborn: bool) -> Arc<Self> {
        let lent = Arc::default();
        let echo = EchoDevice::new(2);
        Arc::new(Self {
            echo,
            lent,
            stubborn,
        })
    }
}

impl Device for Lender {
    fn device_id(&self) -> u32 {
        self.echo.device_id()
    }

    fn queue_count(&self) -> u16 {
        self.echo.queue_count()
    }

    fn queue_size_max(&self) -> u16 {
        self.echo.queue_size_max()
    }

    fn features(&self) -> u64 {
        self.echo.features()
    }

    fn acked(&self, features: u64) {
        self.echo.acked(features);
    }

    fn config_size(&self) -> u32 {
        self.echo.config_size()
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        self.echo.read_config(offset, out);
    }

    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), Error> {
        self.echo.write_config(offset, data)
    }

    fn start_queue(&self, index: u16, features: u64) -> Result<Box<dyn QueueHandler>, Error> {
        let echo = self.echo.start_queue(index, features)?;
        if index != 0 {
            return Ok(echo);
        }
        if self.lent.swap(true, Ordering::AcqRel) {
            return Err(Error::Unsupported);
        }
        Ok(Box::new(Borrower {
            echo,
            lent: self.lent.clone(),
            stubborn: self.stubborn,
        }))
    }

    fn reset(&self) {
        self.echo.reset();
    }

    fn on_config_change(&self, notify: ConfigNotifier) {
        self.echo.on_config_change(notify);
    }
}

impl QueueHandler for Borrower {
    fn run(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<Progress, Error> {
        self.echo.run(queue, memory)
    }

    fn in_flight(&self) -> usize {
        self.echo.in_flight()
    }

    fn drain(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<(), Error> {
        self.echo.drain(queue, memory)
    }
}

impl Drop for Borrower {
    fn drop(&mut self) {
        assert!(!self.stubborn, "what is held cannot be given back");
        self.lent.store(false, Ordering::Release);
    }
}

/// How a front-end or its guest begins anew.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Comeback {
    /// `RESET_DEVICE`, and everything again.
    DeviceReset,
    /// A status of zero, and everything again.
    Status,
    /// `GET_VRING_BASE`, a new ring, a new kick: the driver reset this queue.
    RingReset,
    /// Another connection, with the same in-flight record.
    Reconnect,
}

struct Rig {
    serving: Serving,
    guest: Guest,
    shape: QueueShape,
    record: Option<(Inflight, OwnedFd)>,
}

impl Rig {
    fn new(shape: QueueShape) -> Result<Self> {
        Ok(Self {
            serving: Serving::new(Lender::new(false))?,
            guest: Guest::new()?,
            shape,
            record: None,
        })
    }

    fn negotiate(&mut self, frontend: &mut Frontend) -> Result<()> {
        frontend.negotiate(self.shape.features)?;
        frontend.set_memory(&self.guest)?;
        self.give_record(frontend)
    }

    fn give_record(&mut self, frontend: &mut Frontend) -> Result<()> {
        if self.record.is_none() {
            let wanted = Inflight {
                num_queues: 2,
                queue_size: self.shape.size,
                ..Inflight::default()
            };
            frontend.send(&M::GetInflightFd(wanted, size_of::<Inflight>()), &[])?;
            let (reply, mut fds) = frontend.reply(Request::GetInflightFd)?;
            let (Reply::Inflight(made, _), Some(fd)) = (reply, fds.pop()) else {
                anyhow::bail!("no record");
            };
            self.record = Some((made, fd));
        }
        if let Some((made, fd)) = &self.record {
            frontend.must(&M::SetInflightFd(*made), &[fd.as_fd()])?;
        }
        Ok(())
    }

    /// New rings, as a driver's after a reset.
    fn start(&self, frontend: &mut Frontend, index: u16) -> Result<GuestQueue> {
        let queue = self.guest.queue(index, self.shape)?;
        frontend.start_queue(&queue, self.shape.fresh_base())?;
        Ok(queue)
    }

    fn again(
        &mut self,
        how: Comeback,
        mut frontend: Frontend,
        queue: &GuestQueue,
    ) -> Result<Frontend> {
        match how {
            Comeback::DeviceReset => {
                frontend.must(&M::ResetDevice, &[])?;
                let features = self.shape.features | feature::PROTOCOL_FEATURES;
                frontend.must(&M::SetFeatures(features), &[])?;
                self.give_record(&mut frontend)?;
            }
            Comeback::Status => frontend.must(&M::SetStatus(0), &[])?,
            Comeback::RingReset => drop(frontend.stop_queue(queue)?),
            Comeback::Reconnect => {
                drop(frontend);
                // A reconnect with the record takes up what is in it; the guest of this one was reset meanwhile.
                self.record = None;
                frontend = self.serving.connect()?;
                self.negotiate(&mut frontend)?;
            }
        }
        Ok(frontend)
    }
}

#[test]
fn a_queue_whose_worker_panicked_comes_back() -> Result<()> {
    use Comeback::*;
    for shape in [QueueShape::SPLIT, QueueShape::PACKED] {
        for how in [DeviceReset, Status, RingReset, Reconnect] {
            let mut rig = Rig::new(shape)?;
            let mut frontend = rig.serving.connect()?;
            rig.negotiate(&mut frontend)?;
            let mut queue = rig.start(&mut frontend, 0)?;
            for _ in 0..3 {
                queue.echo(&rig.guest, b"all well")?;
                queue.add(&rig.guest, 0, PANIC_MARK)?;
                queue.publish();
                assert!(eventually(|| queue.err.drain()), "{how:?}: it breaks down");
                frontend = rig.again(how, frontend, &queue)?;
                queue = rig.start(&mut frontend, 0)?;
            }
            let back = queue.echo(&rig.guest, b"as before");
            assert!(back.is_ok(), "{how:?}, {:#x}: {back:?}", shape.features);
        }
    }
    Ok(())
}

#[test]
fn a_ring_that_was_malformed_comes_back() -> Result<()> {
    use Comeback::*;
    for shape in [QueueShape::SPLIT, QueueShape::PACKED] {
        for how in [DeviceReset, Status, RingReset, Reconnect] {
            let mut rig = Rig::new(shape)?;
            let mut frontend = rig.serving.connect()?;
            rig.negotiate(&mut frontend)?;
            let mut queue = rig.start(&mut frontend, 0)?;
            queue.echo(&rig.guest, b"all well")?;
            // Good requests before the bad one stay with the device when it breaks down.
            queue.add(&rig.guest, 0, b"good one")?;
            spoil(&rig.guest, &queue, shape)?;
            queue.publish();
            queue.kick.notify();
            assert!(eventually(|| queue.err.drain()), "{how:?}: it breaks down");
            frontend = rig.again(how, frontend, &queue)?;
            queue = rig.start(&mut frontend, 0)?;
            let back = queue.echo(&rig.guest, b"as before");
            assert!(back.is_ok(), "{how:?}, {:#x}: {back:?}", shape.features);
        }
    }
    Ok(())
}

/// Makes the chain that begins at the ring's second descriptor one without an end.
fn spoil(guest: &Guest, queue: &GuestQueue, shape: QueueShape) -> Result<()> {
    let [descriptors, ..] = queue.guest_areas;
    if shape.features & virtio_spec::feature::RING_PACKED == 0 {
        // `next` of every descriptor names none of the table's.
        for at in 0..u64::from(shape.size) {
            guest
                .memory
                .write(descriptors + at * 16 + 12, &[1, 0, 0xff, 0xff])?;
        }
    } else {
        // The buffer ids of the chain that is about to be published are beyond the ring.
        for at in 0..u64::from(shape.size) {
            guest
                .memory
                .write(descriptors + at * 16 + 12, &[0xff, 0xff])?;
        }
    }
    Ok(())
}

#[test]
fn what_a_handler_cannot_give_back_ends_the_serving_with_an_error() -> Result<()> {
    let mut serving = Serving::new(Lender::new(true))?;
    let guest = Guest::new()?;
    let mut frontend = serving.connect()?;
    frontend.negotiate(QueueShape::SPLIT.features)?;
    frontend.set_memory(&guest)?;
    let mut queue = guest.queue(0, QueueShape::SPLIT)?;
    frontend.start_queue(&queue, 0)?;
    queue.add(&guest, 0, PANIC_MARK)?;
    queue.publish();
    assert!(frontend.is_closed_by_server());
    let ended = serving.ended();
    assert!(
        matches!(ended, Some(Err(vhost_user_server::Error::Lost))),
        "{ended:?}"
    );
    Ok(())
}
