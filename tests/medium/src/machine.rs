//! A machine with the disk: guest memory, request queues, a front-end that keeps the in-flight record. One rule: it says
//! what an unmodified front-end says, so what the disk has to remember it must remember itself.

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use protocol::DEADLINE;
use protocol::Frontend;
use protocol::Guest;
use protocol::GuestQueue;
use protocol::QueueShape;
use protocol::eventually;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use vhost_user_protocol::ConfigSpace;
use vhost_user_protocol::FrontendMessage as M;
use vhost_user_protocol::Inflight;
use vhost_user_protocol::Reply;
use vhost_user_protocol::Request as Message;
use virtio_spec::block::CONFIG_WRITEBACK_OFFSET;
use virtio_spec::block::DiscardWriteZeroes;
use virtio_spec::block::RANGE_FLAG_UNMAP;
use virtio_spec::block::RequestHeader;
use virtio_spec::block::request_type;
use virtqueue::Segment;
use zerocopy::IntoBytes;

/// Request queues of the disk.
pub(crate) const QUEUES: u16 = 2;
const QUEUE_SIZE: u16 = 128;
/// Requests that the machine has room for at a time.
pub(crate) const ROOM: usize = 32;
/// Buffers of 4 KiB that one request has: head and status, then data.
const BUFFERS: u64 = 5;
const STATUS: u64 = 2048;
/// Most bytes of data in a request.
const DATA: usize = 16 << 10;
/// Where a region comes and goes.
const SPARE: (u64, u64) = (1 << 32, 0x7e00_0000_0000);

/// What the guest asks of the disk; sectors have 512 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Read.
    Read {
        /// From this sector on.
        first: u32,
        /// So many.
        count: u32,
    },
    /// Write.
    Write {
        /// From this sector on.
        first: u32,
        /// This.
        data: Vec<u8>,
    },
    /// Write zeroes.
    Zero {
        /// From this sector on.
        first: u32,
        /// So many.
        count: u32,
        /// The disk may give their space back.
        unmap: bool,
    },
    /// Make durable what was acknowledged.
    Flush,
}

/// A request that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// What [`Machine::submit`] was given.
    pub tag: u64,
    /// The status byte.
    pub status: u8,
    /// What was read.
    pub data: Vec<u8>,
}

struct Lent {
    tag: u64,
    slot: u64,
    read: usize,
}

/// The machine.
pub struct Machine {
    guest: Guest,
    features: u64,
    queues: Vec<GuestQueue>,
    lent: Vec<HashMap<u16, Lent>>,
    free: Vec<u64>,
    keeps_record: bool,
    record: Option<(Inflight, OwnedFd)>,
    spare: Option<Guest>,
    frontend: Option<Frontend>,
}

impl Machine {
    /// A machine whose driver accepts `features` of the disk.
    ///
    /// # Errors
    /// Memory cannot be had.
    pub fn new(features: u64) -> Result<Self> {
        let guest = Guest::new()?;
        let features = features | QueueShape::SPLIT.features;
        let shape = QueueShape {
            size: QUEUE_SIZE,
            features,
        };
        let queues = (0..QUEUES).map(|index| guest.queue(index, shape));
        Ok(Self {
            queues: queues.collect::<Result<_>>()?,
            guest,
            features,
            lent: (0..QUEUES).map(|_| HashMap::new()).collect(),
            free: (0..ROOM as u64).collect(),
            keeps_record: true,
            record: None,
            spare: None,
            frontend: None,
        })
    }

    /// Connects to the disk at `socket`, for the first time or again.
    ///
    /// # Errors
    /// The daemon is not there or refuses.
    pub fn attach(&mut self, socket: &Path) -> Result<()> {
        self.frontend = None;
        self.spare = None;
        let mut stream = None;
        eventually(|| {
            stream = UnixStream::connect(socket).ok();
            stream.is_some()
        });
        let mut frontend = Frontend::new(stream.context("the disk's daemon does not listen")?)?;
        frontend.negotiate(self.features)?;
        if self.keeps_record && self.record.is_none() {
            let wanted = Inflight {
                num_queues: QUEUES,
                queue_size: QUEUE_SIZE,
                ..Inflight::default()
            };
            frontend.send(&M::GetInflightFd(wanted, 24), &[])?;
            let (reply, mut fds) = frontend.reply(Message::GetInflightFd)?;
            let Reply::Inflight(area, _) = reply else {
                bail!("{reply:?} is no in-flight area");
            };
            self.record = Some((area, fds.pop().context("no descriptor")?));
        }
        if let Some((area, fd)) = &self.record {
            frontend.must(&M::SetInflightFd(*area), &[fd.as_fd()])?;
        }
        frontend.set_memory(&self.guest)?;
        for queue in &self.queues {
            // What the front-end learnt at the very first start; where the rings stand is in the record.
            frontend.start_queue(queue, 0)?;
        }
        self.frontend = Some(frontend);
        Ok(())
    }

    /// The connection.
    ///
    /// # Errors
    /// There is none.
    pub fn frontend(&mut self) -> Result<&mut Frontend> {
        self.frontend.as_mut().context("not attached")
    }

    /// The front-end goes away.
    pub fn detach(&mut self) {
        self.frontend = None;
    }

    /// The same with a front-end that keeps no record of what is in flight.
    pub fn without_record(mut self) -> Self {
        self.keeps_record = false;
        self
    }

    /// The driver switches the disk's write cache; whether the disk says that it did.
    ///
    /// # Errors
    /// No answer.
    pub fn set_writeback(&mut self, on: bool) -> Result<bool> {
        let config = ConfigSpace {
            offset: CONFIG_WRITEBACK_OFFSET as u32,
            size: 1,
            flags: 0,
            data: vec![on.into()],
        };
        Ok(self.frontend()?.ask(&M::SetConfig(config), &[])? == 0)
    }

    /// The field `writeback`.
    ///
    /// # Errors
    /// No answer.
    pub fn writeback(&mut self) -> Result<u8> {
        let config = ConfigSpace {
            offset: CONFIG_WRITEBACK_OFFSET as u32,
            size: 1,
            flags: 0,
            data: vec![0],
        };
        match self.frontend()?.get(&M::GetConfig(config))? {
            Reply::Config(config) => config.data.first().copied().context("no bytes"),
            other => bail!("{other:?} is no configuration"),
        }
    }

    /// Memory comes or goes, which pauses the queues.
    ///
    /// # Errors
    /// The daemon refuses.
    pub fn pause(&mut self) -> Result<()> {
        match self.spare.take() {
            Some(spare) => self.frontend()?.must(&M::RemMemReg(spare.region()), &[]),
            None => {
                let (guest_addr, user_addr) = SPARE;
                let spare = Guest::with_region(guest_addr, user_addr, 1 << 20)?;
                let (region, file) = (spare.region(), spare.file.as_fd());
                self.frontend()?.must(&M::AddMemReg(region), &[file])?;
                self.spare = Some(spare);
                Ok(())
            }
        }
    }

    /// Requests that may be submitted now.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Requests that have not come back.
    pub fn in_flight(&self) -> usize {
        ROOM - self.free.len()
    }

    /// Puts a request into a ring; [`Self::kick`] shows it to the disk.
    ///
    /// # Errors
    /// No room.
    pub fn submit(&mut self, queue: usize, tag: u64, request: &Request) -> Result<()> {
        let slot = self.free.pop().context("no room")?;
        let head_at = self.guest.buffer(slot * BUFFERS);
        let data_at = self.guest.buffer(slot * BUFFERS + 1);
        let (kind, first, out, read) = describe(request);
        ensure!(out.len() <= DATA && read <= DATA, "a request is too large");
        let head = RequestHeader {
            request_type: kind.into(),
            reserved: 0.into(),
            sector: u64::from(first).into(),
        };
        let memory = &self.guest.memory;
        memory.write(head_at, head.as_bytes())?;
        memory.write(head_at + STATUS, &[0xff])?;
        memory.write(data_at, &out)?;
        let segment = |addr, len: usize| Segment {
            addr,
            len: len as u32,
        };
        let mut readable = vec![segment(head_at, head.as_bytes().len())];
        let mut writable = Vec::new();
        if !out.is_empty() {
            readable.push(segment(data_at, out.len()));
        }
        if read != 0 {
            writable.push(segment(data_at, read));
        }
        writable.push(segment(head_at + STATUS, 1));
        let ring = self.queues.get_mut(queue).context("no queue")?;
        let id = ring.driver.add(&readable, &writable, None);
        let id = id.map_err(|error| anyhow::anyhow!("{error}"))?;
        let lent = self.lent.get_mut(queue).context("no queue")?;
        let before = lent.insert(id, Lent { tag, slot, read });
        ensure!(before.is_none(), "a chain was lent twice");
        Ok(())
    }

    /// Shows the disk what was submitted.
    pub fn kick(&mut self) {
        self.queues.iter_mut().for_each(GuestQueue::publish);
    }

    /// What came back so far.
    ///
    /// # Errors
    /// Something came back that was not lent.
    pub fn collect(&mut self) -> Result<Vec<Done>> {
        let mut done = Vec::new();
        for (queue, lent) in self.queues.iter_mut().zip(&mut self.lent) {
            loop {
                let used = queue
                    .driver
                    .pop()
                    .map_err(|error| anyhow::anyhow!("{error}"))?;
                let Some(used) = used else { break };
                let Lent { tag, slot, read } = lent.remove(&used.id).context("completed twice")?;
                let mut status = [0];
                let mut data = vec![0; read];
                let memory = &self.guest.memory;
                memory.read(self.guest.buffer(slot * BUFFERS) + STATUS, &mut status)?;
                memory.read(self.guest.buffer(slot * BUFFERS + 1), &mut data)?;
                self.free.push(slot);
                done.push(Done {
                    tag,
                    status: status[0],
                    data,
                });
            }
        }
        Ok(done)
    }

    /// What came back, at least one; by interrupt.
    ///
    /// # Errors
    /// Nothing came in time.
    pub fn wait(&mut self) -> Result<Vec<Done>> {
        let start = std::time::Instant::now();
        loop {
            let done = self.collect()?;
            if !done.is_empty() {
                return Ok(done);
            }
            ensure!(
                start.elapsed() < DEADLINE,
                "{} requests hang",
                self.in_flight()
            );
            let mut ready = false;
            for queue in &mut self.queues {
                ready |= queue.driver.arm();
            }
            if ready {
                continue;
            }
            let calls = self.queues.iter();
            let mut fds: Vec<_> = calls
                .map(|queue| PollFd::new(queue.call.as_fd(), PollFlags::POLLIN))
                .collect();
            nix::poll::poll(&mut fds, PollTimeout::from(1000_u16))?;
            for queue in &self.queues {
                queue.call.drain();
            }
        }
    }

    /// One request, alone; what came of it.
    ///
    /// # Errors
    /// It does not come back.
    pub fn ask(&mut self, queue: usize, request: &Request) -> Result<Done> {
        ensure!(self.in_flight() == 0, "not alone");
        self.submit(queue, 0, request)?;
        self.kick();
        self.wait()?.pop().context("nothing came back")
    }
}

fn describe(request: &Request) -> (u32, u32, Vec<u8>, usize) {
    match request {
        Request::Read { first, count } => {
            (request_type::IN, *first, Vec::new(), *count as usize * 512)
        }
        Request::Write { first, data } => (request_type::OUT, *first, data.clone(), 0),
        Request::Flush => (request_type::FLUSH, 0, Vec::new(), 0),
        Request::Zero {
            first,
            count,
            unmap,
        } => {
            let range = DiscardWriteZeroes {
                sector: u64::from(*first).into(),
                num_sectors: (*count).into(),
                flags: if *unmap { RANGE_FLAG_UNMAP } else { 0 }.into(),
            };
            (request_type::WRITE_ZEROES, 0, range.as_bytes().to_vec(), 0)
        }
    }
}
