//! A queue pair on a link: one worker moves frames both ways.
//!
//! Rule: turns are taken: a burst out, then as much in; the guest's empty receive queue takes the link out of what the
//! worker sleeps on, until buffers come.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use device_model::Error;
use device_model::Progress;
use device_model::Queue;
use device_model::QueueHandler;
use guest_memory::GuestMemory;
use guest_memory::IoVecs;
use net_link::Capabilities;
use net_link::Link;
use net_link::Offloads;
use net_link::Sent;
use nix::sys::epoll::Epoll;
use nix::sys::epoll::EpollCreateFlags;
use nix::sys::epoll::EpollEvent;
use nix::sys::epoll::EpollFlags;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::ClockId;
use nix::sys::timerfd::Expiration;
use nix::sys::timerfd::TimerFd;
use nix::sys::timerfd::TimerFlags;
use nix::sys::timerfd::TimerSetTimeFlags;
use virtio_spec::net::HEADER_SIZE;

use crate::path::from_link::Ended;
use crate::path::from_link::Landing;
use crate::path::header::Rules;
use crate::path::header::fits;
use crate::path::inlet::Inlet;
use crate::path::soften::soften;
use crate::path::streak::SendStreak;
use crate::path::tally::PairTally;
use crate::path::tally::TransmitTally;
use crate::path::transmit::BURST;
use crate::path::transmit::Burst;
use crate::path::transmit::Departing;
use crate::path::transmit::Frame;
use crate::port::Core;
use crate::port::Port;
use crate::port::PortState;
use crate::published::Follower;

/// Turns per call of `run`, so that a busy pair cannot keep its worker from its other duties.
const TURNS_PER_RUN: usize = 8;
/// How long a frame waits for buffers that the guest may not have at all.
pub(crate) const STARVATION: Duration = Duration::from_millis(50);
/// How long a burst waits for room in the link: some scheduling of the process behind it.
const PATIENCE: Duration = Duration::from_millis(2);

/// A queue pair on a link, served by its transmit queue's worker.
pub(crate) struct LinkPair {
    port: Arc<Port>,
    core: Arc<Core>,
    pair: u16,
    tally: Arc<PairTally>,
    inlet: Arc<Inlet>,
    state: Follower<PortState>,
    rules: Rules,
    burst: Burst,
    outlet: Outlet,
    events: Events,
    landing: Landing,
    streak: SendStreak,
    /// Since when a frame waits for buffers.
    starved: Option<Instant>,
}

/// The link, and what sending needs.
pub(crate) struct Outlet {
    /// `None` only while the pair is dropped.
    link: Option<Box<dyn Link>>,
    capabilities: Capabilities,
    spans: IoVecs,
    scratch: Vec<u8>,
    /// A wait for room was in vain, and no frame went out since.
    stalled: bool,
}

/// What the worker sleeps on.
struct Events {
    epoll: Epoll,
    /// The link is among it.
    link: bool,
    /// Ends the wait of a frame for buffers.
    timer: TimerFd,
}

impl Events {
    fn new(inlet: &Inlet) -> Result<Self, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC);
        let epoll = epoll.map_err(system("epoll_create1"))?;
        let wake = EpollEvent::new(EpollFlags::EPOLLIN, 0);
        epoll
            .add(inlet.wake_fd().as_fd(), wake)
            .map_err(system("epoll_ctl"))?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC);
        let timer = timer.map_err(system("timerfd_create"))?;
        let end = EpollEvent::new(EpollFlags::EPOLLIN, 2);
        epoll.add(&timer, end).map_err(system("epoll_ctl"))?;
        Ok(Self {
            epoll,
            link: false,
            timer,
        })
    }

    /// Wakes the worker after `time`, or no more.
    fn set_timer(&self, time: Option<Duration>) {
        let done = match time {
            Some(time) => self.timer.set(
                Expiration::OneShot(TimeSpec::from_duration(time)),
                TimerSetTimeFlags::empty(),
            ),
            None => self.timer.unset(),
        };
        if let Err(errno) = done {
            tracing::warn!(%errno, "A timer cannot be set");
        }
    }

    fn set_link(&mut self, link: &dyn Link, wanted: bool) {
        if self.link == wanted {
            return;
        }
        let done = if wanted {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, 1);
            self.epoll.add(link.ready_fd(), event)
        } else {
            self.epoll.delete(link.ready_fd())
        };
        if let Err(errno) = done {
            tracing::warn!(%errno, "A link cannot be waited for");
        }
        self.link = wanted;
    }
}

fn system(what: &'static str) -> impl FnOnce(nix::errno::Errno) -> Error {
    move |errno| Error::Io {
        what,
        source: errno.into(),
    }
}

fn link_failed(error: net_link::Error) -> Error {
    Error::Io {
        what: "the link",
        source: std::io::Error::other(error),
    }
}

impl LinkPair {
    pub fn new(port: &Arc<Port>, pair: u16) -> Result<Self, Error> {
        let core = port.core();
        let at = usize::from(pair);
        let (Some(inlet), Some(tally)) = (core.inlets.get(at), core.tallies.get(at)) else {
            return Err(Error::Unsupported);
        };
        let events = Events::new(inlet)?;
        let link = port.take_link(pair).ok_or(Error::Unsupported)?;
        let state = core.state.follow();
        let mut pair = Self {
            port: Arc::clone(port),
            core: Arc::clone(core),
            pair,
            tally: Arc::clone(tally),
            inlet: Arc::clone(inlet),
            rules: Rules::new(&state),
            state,
            burst: Burst::new(),
            outlet: Outlet::new(link),
            events,
            landing: Landing::new(),
            streak: SendStreak::new(&tally.transmit),
            starved: None,
        };
        // The rest of a frame that waited for buffers was with the former worker.
        pair.inlet.forget_pending();
        pair.apply()?;
        Ok(pair)
    }

    /// Takes on the port's state.
    fn apply(&mut self) -> Result<(), Error> {
        self.rules = Rules::new(&self.state);
        let used = self.state.link_up && self.pair < self.state.active_pairs;
        let wanted = self.state.offloads;
        let Some(link) = &mut self.outlet.link else {
            return Ok(());
        };
        if used {
            link.attach().map_err(link_failed)?;
            link.set_offloads(wanted).map_err(link_failed)
        } else {
            self.inlet.forget_pending();
            link.detach().map_err(link_failed)
        }
    }

    /// Takes a burst and sends it; returns how many chains it had.
    fn send(&mut self, queue: &mut Queue, memory: &GuestMemory) -> Result<usize, Error> {
        let tally = &self.tally.transmit;
        let before = tally.frames.get();
        let size = self.state.header_size();
        let taken = self.burst.take(queue, memory, &self.rules, size, tally)?;
        if taken == 0 {
            // What a full link kept back goes out when there is room, though the guest sends nothing more.
            self.outlet.flush()?;
            return Ok(0);
        }
        let conditions = &*self.core.conditions;
        let policy = &self.core.policy;
        policy.screen(&mut self.burst, memory, tally, conditions);
        if self.state.link_up {
            self.outlet.send(&mut self.burst, memory, tally, |_| true)?;
        } else {
            tally.link_down.add(self.burst.frames.len() as u64);
        }
        self.streak.settle(before, tally, &self.state, conditions);
        self.burst.complete(queue)?;
        queue.publish();
        Ok(taken)
    }

    /// Moves frames to the guest; returns how many.
    fn receive(&mut self) -> Result<usize, Error> {
        let Some(link) = &mut self.outlet.link else {
            return Ok(0);
        };
        if !self.state.link_up {
            return Ok(0);
        }
        let mut queue = self.inlet.open();
        let found = queue.receive_from(&mut **link, &mut self.landing, BURST);
        let (frames, ended) = found.map_err(link_failed)?;
        if ended != Ended::Starved || queue.pending().is_none() {
            self.starved = None;
            return Ok(frames);
        }
        if self.starved.get_or_insert_with(Instant::now).elapsed() >= STARVATION {
            queue.give_up();
            self.starved = None;
        }
        Ok(frames)
    }

    /// Sends what the host itself wants sent.
    #[cold]
    fn send_own(&mut self) -> Result<(), Error> {
        let memory = GuestMemory::default();
        for frame in self.core.take_own() {
            if self.burst.set_own(&frame) {
                let tally = &self.tally.transmit;
                self.outlet
                    .send(&mut self.burst, &memory, tally, |_| true)?;
            }
        }
        Ok(())
    }
}

impl Outlet {
    pub fn new(link: Box<dyn Link>) -> Self {
        Self {
            capabilities: link.capabilities(),
            link: Some(link),
            spans: IoVecs::with_capacity(64),
            scratch: Vec::new(),
            stalled: false,
        }
    }

    /// The link itself.
    pub fn link(&mut self) -> Option<&mut (dyn Link + 'static)> {
        self.link.as_deref_mut()
    }

    /// Sends the frames of the burst that `picks` picks, which were read from `memory`; afterwards the link holds none of
    /// their memory.
    pub fn send(
        &mut self,
        burst: &mut Burst,
        memory: &GuestMemory,
        tally: &TransmitTally,
        picks: impl Fn(&Frame) -> bool,
    ) -> Result<(), Error> {
        let accepts = if self.capabilities.vnet_header {
            self.capabilities.offloads
        } else {
            Offloads::NONE
        };
        for position in 0..burst.frames.len() {
            if !burst.frames.get(position).is_some_and(&picks) {
                continue;
            }
            let Some(mut frame) = burst.depart(memory, position) else {
                continue;
            };
            if fits(accepts, &frame.header) {
                self.send_one(&mut frame, tally)?;
                continue;
            }
            let mut scratch = std::mem::take(&mut self.scratch);
            let mut result = Ok(());
            let softened = soften(&frame, accepts, &mut scratch, |mut piece| {
                // The piece's bytes are gone after this call.
                result = self.send_one(&mut piece, tally);
                result.is_ok()
            });
            self.scratch = scratch;
            result?;
            if softened.is_err() {
                tally.unsupported.add(1);
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Error> {
        match &mut self.link {
            Some(link) => link.flush().map_err(link_failed),
            None => Ok(()),
        }
    }

    fn send_one(&mut self, frame: &mut Departing<'_>, tally: &TransmitTally) -> Result<(), Error> {
        if frame.len > self.capabilities.max_frame {
            tally.link_dropped.add(1);
            return Ok(());
        }
        self.spans.clear();
        let behind = frame.behind();
        if let Some(mut rest) = frame.rest.take()
            && rest.spans(behind, &mut self.spans).ok() != Some(behind)
        {
            tally.bad_chains.add(1);
            return Ok(());
        }
        let head = frame.with_header(HEADER_SIZE, 0, (0, 0));
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        let mut until = None;
        loop {
            match link.send(head, &self.spans).map_err(link_failed)? {
                Sent::Sent => {
                    self.stalled = false;
                    tally.frames.add(1);
                    tally.bytes.add(frame.len as u64);
                    return Ok(());
                }
                Sent::Dropped => {
                    tally.link_dropped.add(1);
                    return Ok(());
                }
                Sent::Full => {}
            }
            link.flush().map_err(link_failed)?;
            let now = Instant::now();
            let until = *until.get_or_insert(now + PATIENCE);
            if self.stalled || now >= until {
                self.stalled = true;
                tally.link_dropped.add(1);
                return Ok(());
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for LinkPair {
    fn drop(&mut self) {
        if let Some(link) = self.outlet.link.take() {
            self.events.set_link(&*link, false);
            self.port.return_link(self.pair, link);
        }
    }
}

impl QueueHandler for LinkPair {
    fn run(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<Progress, Error> {
        if self.state.refresh(&self.core.state) {
            self.apply()?;
        }
        if self.pair == 0 && self.core.has_own() {
            self.send_own()?;
        }
        let (mut out, mut inward) = (0, 0);
        for _ in 0..TURNS_PER_RUN {
            let sent = self.send(queue, memory)?;
            let received = self.receive()?;
            out += sent;
            inward += received;
            if sent == 0 && received == 0 {
                break;
            }
        }
        let count = |frames| u32::try_from(frames).unwrap_or(u32::MAX);
        Ok(Progress {
            taken: count(out),
            completed: count(out + inward),
        })
    }

    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.events.epoll.0.as_fd())
    }

    fn before_sleep(&mut self) {
        self.core.policy.flush();
        if self.starved.is_some() {
            self.events.set_timer(Some(STARVATION));
        }
        let wanted = self.state.link_up && self.inlet.has_room_or_arms();
        if let Some(link) = &self.outlet.link {
            self.events.set_link(&**link, wanted);
        }
    }

    fn after_sleep(&mut self, _completed: bool) {
        self.inlet.wake_fd().drain();
        self.inlet.disarm();
        if self.starved.is_some() {
            self.events.set_timer(None);
        }
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn drain(&mut self, _queue: &mut Queue, _memory: &Arc<GuestMemory>) -> Result<(), Error> {
        // While nobody reads here the host must steer frames elsewhere.
        if let Some(link) = &mut self.outlet.link
            && let Err(error) = link.detach()
        {
            tracing::debug!(%error, "a link that is gone cannot rest");
        }
        Ok(())
    }
}
