//! A switch's way out of the process: a link as a further port, with a thread for what comes in.
//!
//! Rule: frames from outside are read into memory of our own and then go the way of a guest's; the link's lock is never
//! held together with a receive queue's.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use guest_memory::GuestMemory;
use guest_memory::IoVecs;
use guest_memory::RegionSpec;
use guest_memory::SharedMemory;
use host_os::EventFd;
use host_os::sync::lock;
use net_link::HEADER_BYTES;
use net_link::Link;
use net_link::Offloads;
use net_link::Received;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::ppoll;
use virtqueue::Segment;

use crate::Error;
use crate::path::header::Rules;
use crate::path::link::Outlet;
use crate::path::tally::PairTally;
use crate::path::transmit::Burst;
use crate::path::transmit::Frame;
use crate::port::MAX_FRAME;
use crate::switch::Sender;

/// Frames that are read at once.
const FRAMES: usize = 32;
/// Bytes of a place for one.
const PLACE: u64 = ((HEADER_BYTES + MAX_FRAME) as u64).next_multiple_of(4096);

/// The link and its counters.
pub(crate) struct Uplink {
    outlet: Mutex<Outlet>,
    /// `transmit` is written under the outlet's lock, `receive` is not used.
    outward: PairTally,
    /// `transmit` is what came in, written by the thread.
    inward: PairTally,
    ready: OwnedFd,
    wake: EventFd,
    stop: AtomicBool,
}

impl std::fmt::Debug for Uplink {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Uplink").finish_non_exhaustive()
    }
}

impl Uplink {
    pub fn new(mut link: Box<dyn Link>) -> Result<Self, Error> {
        // Receivers without them get finished frames.
        link.set_offloads(Offloads::ALL)?;
        let ready = link.ready_fd().try_clone_to_owned();
        let ready = ready.map_err(|source| host_os::Error::System {
            call: "dup",
            source,
        })?;
        Ok(Self {
            outlet: Mutex::new(Outlet::new(link)),
            outward: PairTally::default(),
            inward: PairTally::default(),
            ready,
            wake: EventFd::new()?,
            stop: AtomicBool::new(false),
        })
    }

    /// Sends the frames that `picks` picks.
    pub fn send(&self, burst: &mut Burst, memory: &GuestMemory, picks: impl Fn(&Frame) -> bool) {
        let mut outlet = lock(&self.outlet);
        if let Err(error) = outlet.send(burst, memory, &self.outward.transmit, picks) {
            tracing::debug!(%error, "an uplink does not take frames");
        }
    }

    /// Frames that went out and came in.
    pub fn frames(&self) -> (u64, u64) {
        let (mut out, mut inward) = Default::default();
        self.outward.add_to(&mut out);
        self.inward.add_to(&mut inward);
        (out.transmit.frames, inward.transmit.frames)
    }

    /// Frames that came in and were for nobody.
    #[cfg(test)]
    pub fn nowhere(&self) -> u64 {
        self.inward.transmit.nowhere.get()
    }

    /// Ends the thread soon.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.notify();
    }

    /// Starts the thread that carries what comes in.
    pub fn start(self: &Arc<Self>, name: &str, sender: Sender) -> Result<(), Error> {
        let mut inward = Inward::new(Arc::clone(self), sender)?;
        std::thread::Builder::new()
            .name(format!("switch/{name}"))
            .spawn(move || inward.serve())
            .map_err(|source| host_os::Error::System {
                call: "clone",
                source,
            })?;
        Ok(())
    }

    fn sleep(&self) {
        let watched = [self.wake.as_fd(), self.ready.as_fd()];
        let mut fds = watched.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let _ = ppoll(&mut fds, None, None);
    }
}

/// What the thread works with.
struct Inward {
    uplink: Arc<Uplink>,
    sender: Sender,
    memory: GuestMemory,
    spans: IoVecs,
    burst: Burst,
    arrived: Vec<Segment>,
}

impl Inward {
    fn new(uplink: Arc<Uplink>, sender: Sender) -> Result<Self, Error> {
        let size = PLACE * FRAMES as u64;
        let (_, fd) = SharedMemory::create("uplink", size)?;
        let spec = RegionSpec {
            guest_addr: 0,
            size,
            user_addr: 0,
            mmap_offset: 0,
        };
        Ok(Self {
            uplink,
            sender,
            memory: GuestMemory::new(vec![(spec, fd)])?,
            spans: IoVecs::with_capacity(1),
            burst: Burst::new(),
            arrived: Vec::with_capacity(FRAMES),
        })
    }

    fn serve(&mut self) {
        while !self.uplink.stop.load(Ordering::Acquire) {
            if let Err(error) = self.receive() {
                tracing::error!(%error, "an uplink's link cannot go on");
                return;
            }
            if self.arrived.is_empty() {
                self.uplink.sleep();
                continue;
            }
            let tally = &self.uplink.inward.transmit;
            let rules = Rules::of_link();
            self.burst
                .set_arrived(&self.memory, &self.arrived, &rules, tally);
            self.sender.forward(&mut self.burst, &self.memory, tally);
        }
    }

    /// Reads what waits, up to a burst.
    fn receive(&mut self) -> Result<(), net_link::Error> {
        self.arrived.clear();
        let mut outlet = lock(&self.uplink.outlet);
        let Some(link) = outlet.link() else {
            return Ok(());
        };
        for place in 0..FRAMES as u64 {
            let mut segment = Segment {
                addr: place * PLACE,
                len: PLACE as u32,
            };
            self.spans.clear();
            if self.memory.iovecs(&[segment], &mut self.spans).is_err() {
                break;
            }
            match link.receive(&self.spans, &mut [])? {
                Received::Empty => break,
                Received::Frame(bytes) => {
                    segment.len = u32::try_from(bytes).unwrap_or(0);
                    if segment.len != 0 {
                        self.arrived.push(segment);
                    }
                }
            }
        }
        Ok(())
    }
}
