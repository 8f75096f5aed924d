//! A front-end with a driver's queues, and everything that happens in the life of a queue. One rule: an event changes only
//! what its message says; the driver goes on as if it had not heard of it.

use anyhow::Context as _;
use anyhow::Result;
use guest_memory::DirtyLog;
use host_os::EventFd;
use protocol::Frontend;
use protocol::Guest;
use protocol::GuestQueue;
use protocol::QueueShape;
use protocol::Serving;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use vhost_user_protocol::FrontendMessage as M;
use vhost_user_protocol::Inflight;
use vhost_user_protocol::LogBase;
use vhost_user_protocol::Reply;
use vhost_user_protocol::Request;
use vhost_user_protocol::VringAddress;
use vhost_user_protocol::VringFd;
use vhost_user_protocol::feature;
use vhost_user_protocol::vring_flags;

/// Covers 32 GiB.
const LOG_BYTES: u64 = 1 << 20;

/// What happens to running queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Memory is plugged in.
    AddRegion,
    /// The memory that was plugged in, and that no ring or buffer lies in, goes.
    RemoveRegion,
    /// The same memory is described anew.
    Table,
    /// A migration begins: every write is logged from now on.
    LogOn,
    /// The migration is over, or was given up.
    LogOff,
    /// Rings are switched off and on.
    DisableEnable,
    /// Rings are stopped and started where they were.
    Stop,
    /// Rings are stopped and started at other front-end addresses.
    Moved,
    /// The connection ends; the next one brings the in-flight record.
    Reconnect,
    /// The driver begins anew, on new rings.
    Reset,
    /// Interrupts come by another descriptor.
    Call,
    /// Notifications come by another descriptor.
    Kick,
}

/// The life that every device goes through, first without a dirty log, then with one.
pub const LIFE: &[Event] = {
    use Event::*;
    &[
        AddRegion,
        RemoveRegion,
        Table,
        DisableEnable,
        Stop,
        Moved,
        Call,
        Kick,
        LogOn,
        AddRegion,
        RemoveRegion,
        Table,
        DisableEnable,
        Stop,
        Call,
        Kick,
        Reconnect,
        LogOff,
        Reconnect,
        Reset,
        LogOn,
        Moved,
        LogOff,
        Stop,
    ]
};

/// How rings look, and whether there is an in-flight record.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub shape: QueueShape,
    pub record: bool,
}

impl Terms {
    pub fn all(features: u64) -> [Self; 4] {
        let terms = |packed: bool, record| {
            let ring = if packed {
                QueueShape::PACKED
            } else {
                QueueShape::SPLIT
            };
            let features = ring.features | features;
            let shape = QueueShape { features, ..ring };
            Self { shape, record }
        };
        [
            terms(false, true),
            terms(true, true),
            terms(false, false),
            terms(true, false),
        ]
    }

    pub fn name(&self) -> String {
        let packed = self.shape.features & virtio_spec::feature::RING_PACKED != 0;
        let ring = if packed { "packed" } else { "split" };
        let record = if self.record {
            "with record"
        } else {
            "no record"
        };
        format!("{ring}, {record}")
    }
}

/// The message with a ring's addresses; while a log is on, what is written to the ring is to be logged too.
fn addresses(queue: &GuestQueue, logging: bool) -> VringAddress {
    let mut addresses = Frontend::addresses(queue);
    if logging {
        addresses.flags = vring_flags::LOG;
        addresses.log = queue.guest_areas[2];
    }
    addresses
}

/// The front-end and its guest.
pub struct Vm {
    pub serving: Serving,
    pub guest: Guest,
    pub queues: Vec<GuestQueue>,
    pub terms: Terms,
    frontend: Frontend,
    extra: Guest,
    plugged: bool,
    record: Option<(Inflight, OwnedFd)>,
    log: (DirtyLog, OwnedFd),
    logging: bool,
    /// How far the front-end's addresses are from the first ones.
    moved: u64,
    /// What happened so far.
    pub events: u32,
    /// The last of it is answered before a worker obeys it.
    pub unsettled: bool,
}

impl Vm {
    /// Starts the first `queues` queues of what `serving` serves.
    pub fn new(serving: Serving, terms: Terms, queues: u16) -> Result<Self> {
        let guest = Guest::new()?;
        let file = host_os::memfd::create("log", LOG_BYTES)?;
        let log = DirtyLog::new(file.as_fd(), 0, LOG_BYTES)?;
        let all = (0..queues).map(|index| guest.queue(index, terms.shape));
        let mut vm = Self {
            queues: all.collect::<Result<_>>()?,
            frontend: serving.connect()?,
            extra: Guest::with_region(0x1_0000_0000, 0x7e00_0000_0000, 4 << 20)?,
            serving,
            guest,
            terms,
            plugged: false,
            record: None,
            log: (log, file),
            logging: false,
            moved: 0,
            events: 0,
            unsettled: false,
        };
        vm.introduce()?;
        Ok(vm)
    }

    /// Everything that a front-end says to a device that does not know it.
    fn introduce(&mut self) -> Result<()> {
        self.frontend.negotiate(self.terms.shape.features)?;
        self.tell_memory()?;
        let base = LogBase {
            size: LOG_BYTES,
            offset: 0,
        };
        self.frontend
            .send(&M::SetLogBase(base), &[self.log.1.as_fd()])?;
        let (reply, _) = self.frontend.reply(Request::SetLogBase)?;
        anyhow::ensure!(reply == Reply::Log(base), "{reply:?}");
        self.give_record()?;
        if self.logging {
            // Before a ring runs, so that nothing is missed.
            self.switch_features()?;
        }
        for queue in &self.queues {
            let base = self.terms.shape.fresh_base();
            let addresses = addresses(queue, self.logging);
            self.frontend.describe_queue_at(queue, base, addresses)?;
            self.frontend.enable(queue, true)?;
        }
        Ok(())
    }

    fn tell_memory(&mut self) -> Result<()> {
        let mut regions = vec![self.guest.region()];
        let mut files = vec![self.guest.file.as_fd()];
        if self.plugged {
            regions.push(self.extra.region());
            files.push(self.extra.file.as_fd());
        }
        self.frontend.must(&M::SetMemTable(regions), &files)
    }

    fn give_record(&mut self) -> Result<()> {
        if !self.terms.record {
            return Ok(());
        }
        if self.record.is_none() {
            let wanted = Inflight {
                num_queues: u16::try_from(self.queues.len())?,
                queue_size: self.terms.shape.size,
                ..Inflight::default()
            };
            self.frontend
                .send(&M::GetInflightFd(wanted, size_of::<Inflight>()), &[])?;
            let (reply, mut fds) = self.frontend.reply(Request::GetInflightFd)?;
            let Reply::Inflight(made, _) = reply else {
                anyhow::bail!("{reply:?} is no record");
            };
            self.record = Some((made, fds.pop().context("a file")?));
        }
        let (made, file) = self.record.as_ref().context("a record")?;
        self.frontend
            .must(&M::SetInflightFd(*made), &[file.as_fd()])
    }

    /// As QEMU does it: features, then every ring's addresses.
    fn switch_log(&mut self, on: bool) -> Result<()> {
        self.logging = on;
        self.switch_features()?;
        self.tell_addresses()
    }

    fn switch_features(&mut self) -> Result<()> {
        let bit = if self.logging { feature::LOG_ALL } else { 0 };
        let features = self.terms.shape.features | feature::PROTOCOL_FEATURES | bit;
        self.frontend.must(&M::SetFeatures(features), &[])
    }

    fn tell_addresses(&mut self) -> Result<()> {
        for queue in &self.queues {
            let addresses = addresses(queue, self.logging);
            self.frontend.must(&M::SetVringAddr(addresses), &[])?;
        }
        Ok(())
    }

    /// Whether writes are logged.
    pub fn logging(&self) -> bool {
        self.logging
    }

    /// Forgets what was logged.
    pub fn clear_log(&self) -> Result<()> {
        let zeroes = vec![0; usize::try_from(LOG_BYTES)?];
        nix::sys::uio::pwrite(&self.log.1, &zeroes, 0)?;
        Ok(())
    }

    /// Whether the page of this guest address is logged.
    pub fn is_logged(&self, addr: u64) -> bool {
        self.log.0.is_marked(addr)
    }

    /// Whether the event makes sense now.
    pub fn allows(&self, event: Event) -> bool {
        // A connection without a record loses its place in a packed ring.
        event != Event::Reconnect || self.terms.record
    }

    /// What has to be so before the event.
    pub fn prepare(&mut self, event: Event) -> Result<()> {
        let wanted = match event {
            Event::AddRegion => false,
            Event::RemoveRegion => true,
            _ => return Ok(()),
        };
        if self.plugged != wanted {
            self.plug(wanted)?;
        }
        Ok(())
    }

    fn plug(&mut self, on: bool) -> Result<()> {
        self.plugged = on;
        let region = self.extra.region();
        if on {
            self.frontend
                .must(&M::AddMemReg(region), &[self.extra.file.as_fd()])
        } else {
            self.frontend.must(&M::RemMemReg(region), &[])
        }
    }

    /// Lets it happen.
    pub fn apply(&mut self, event: Event) -> Result<()> {
        self.events += 1;
        self.unsettled = matches!(event, Event::Call | Event::Kick);
        match event {
            Event::AddRegion => self.plug(true),
            Event::RemoveRegion => self.plug(false),
            Event::Table => self.tell_memory(),
            Event::LogOn => self.switch_log(true),
            Event::LogOff => self.switch_log(false),
            Event::DisableEnable => {
                for on in [false, true] {
                    for queue in &self.queues {
                        self.frontend.enable(queue, on)?;
                    }
                }
                Ok(())
            }
            Event::Stop => self.restart(0),
            Event::Moved => self.restart(1 << 36),
            Event::Reconnect => {
                self.frontend = self.serving.connect()?;
                self.introduce()
            }
            Event::Reset => self.frontend.must(&M::ResetDevice, &[]),
            Event::Call => self.descriptors(true, false),
            Event::Kick => self.descriptors(false, true),
        }
    }

    /// Stops all rings, and starts them with the front-end's addresses moved by so much.
    fn restart(&mut self, by: u64) -> Result<()> {
        let mut bases = Vec::new();
        for queue in &self.queues {
            bases.push(self.frontend.stop_queue(queue)?);
        }
        if by != 0 {
            self.move_by(by);
            for queue in &mut self.queues {
                queue.user_areas = queue.user_areas.map(|area| area ^ by);
            }
            self.tell_memory()?;
        }
        for (queue, base) in self.queues.iter().zip(bases) {
            let addresses = addresses(queue, self.logging);
            self.frontend.describe_queue_at(queue, base, addresses)?;
        }
        Ok(())
    }

    fn move_by(&mut self, by: u64) {
        self.guest.spec.user_addr ^= by;
        self.moved ^= by;
    }

    fn descriptors(&mut self, call: bool, kick: bool) -> Result<()> {
        for queue in &mut self.queues {
            let with_fd = VringFd::new(u8::try_from(queue.index)?, true);
            if call {
                queue.call = EventFd::new()?;
                self.frontend
                    .must(&M::SetVringCall(with_fd), &[queue.call.as_fd()])?;
            }
            if kick {
                queue.kick = EventFd::new()?;
                self.frontend
                    .must(&M::SetVringKick(with_fd), &[queue.kick.as_fd()])?;
            }
        }
        Ok(())
    }

    /// What a driver does after a reset of the device: new rings.
    pub fn begin_anew(&mut self) -> Result<()> {
        self.logging = false;
        self.switch_features()?;
        self.record = None;
        self.give_record()?;
        for index in 0..u16::try_from(self.queues.len())? {
            let moved = std::mem::take(&mut self.moved);
            self.guest.spec.user_addr ^= moved;
            let mut queue = self.guest.queue(index, self.terms.shape)?;
            self.move_by(moved);
            queue.user_areas = queue.user_areas.map(|area| area ^ moved);
            self.frontend
                .start_queue(&queue, self.terms.shape.fresh_base())?;
            let place = self.queues.get_mut(usize::from(index)).context("a queue")?;
            std::mem::swap(place, &mut queue);
        }
        Ok(())
    }
}
