//! The thread that serves one running queue. One rule: the request path takes no lock; commands wait behind a flag that
//! is one load per round.
//!
//! The handler is moved into the thread and dropped there: by ownership no two threads ever run it.

mod parked;

use crate::Polling;
use crate::polling::Poller;
use device_model::Error;
use device_model::Moderator;
use device_model::Queue;
use device_model::QueueHandler;
use host_os::EventFd;
use host_os::sync::lock;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::sys::time::TimeSpec;
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

/// How often a ring without a kick descriptor is looked at while idle.
const KICKLESS_PERIOD: Duration = Duration::from_micros(200);

/// How a worker ended, or is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Finish what is in flight.
    Drain,
    /// What can be cancelled may stay in the in-flight record.
    Suspend,
}

/// What the session asks of a running worker.
#[derive(Debug)]
enum Command {
    SetCall(Option<Arc<EventFd>>),
    SetErr(Option<Arc<EventFd>>),
    SetKick(Option<Arc<EventFd>>),
    Stop(Stop),
}

/// Why a worker ended without being asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The ring is malformed, or the device gave up.
    Queue(Error),
    /// The handler panicked.
    Panic,
    /// It panicked again when it was to end: what it held is lost to this process.
    Lost,
    /// Guest memory was truncated under us.
    Poisoned,
}

/// What a worker leaves behind.
pub(crate) struct Remains {
    /// The vring base.
    pub(crate) base: u32,
    /// Chains left unfinished, recorded if there is a record.
    pub(crate) in_flight: usize,
    /// Set if the worker ended by itself.
    pub(crate) failure: Option<Failure>,
}

/// What a worker starts with.
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) queue: Queue,
    pub(crate) handler: Box<dyn QueueHandler>,
    pub(crate) kick: Option<Arc<EventFd>>,
    pub(crate) call: Option<Arc<EventFd>>,
    pub(crate) err: Option<Arc<EventFd>>,
    pub(crate) polling: Polling,
    /// Signalled when the worker ends by itself.
    pub(crate) ended: Arc<EventFd>,
}

/// The session's end of a worker.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    remains: Receiver<Remains>,
    thread: JoinHandle<()>,
}

struct Shared {
    pending: AtomicBool,
    /// The worker ended by itself; set before the session is woken.
    ended: AtomicBool,
    commands: Mutex<Vec<Command>>,
    control: EventFd,
}

impl Worker {
    /// Starts the thread.
    pub(crate) fn start(job: Job) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            pending: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            commands: Mutex::new(Vec::new()),
            control: EventFd::new()?,
        });
        let (sender, remains) = std::sync::mpsc::channel();
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name(job.name.clone())
            .spawn(move || run(job, &theirs, &sender))
            .map_err(|source| Error::Io {
                what: "starting a worker",
                source,
            })?;
        Ok(Self {
            shared,
            remains,
            thread,
        })
    }

    /// Replaces the interrupt.
    pub(crate) fn set_call(&self, call: Option<Arc<EventFd>>) {
        self.send(Command::SetCall(call));
    }

    /// Replaces the error descriptor.
    pub(crate) fn set_err(&self, err: Option<Arc<EventFd>>) {
        self.send(Command::SetErr(err));
    }

    /// Replaces the kick descriptor; the ring is looked at once.
    pub(crate) fn set_kick(&self, kick: Option<Arc<EventFd>>) {
        self.send(Command::SetKick(kick));
    }

    /// Whether the worker ended by itself.
    pub(crate) fn is_finished(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// Stops the worker and waits for it: as long as the I/O in flight takes. No peer can hold it longer.
    pub(crate) fn stop(self, how: Stop) -> Remains {
        self.send(Command::Stop(how));
        let remains = self.remains.recv().unwrap_or_else(|_| Remains::lost());
        let _ = self.thread.join();
        remains
    }

    fn send(&self, command: Command) {
        lock(&self.shared.commands).push(command);
        self.shared.pending.store(true, Ordering::Release);
        self.shared.control.notify();
    }
}

impl Remains {
    fn lost() -> Self {
        Self {
            base: 0,
            in_flight: 0,
            failure: Some(Failure::Lost),
        }
    }
}

impl Shared {
    fn take_commands(&self) -> Vec<Command> {
        self.control.drain();
        self.pending.store(false, Ordering::Release);
        std::mem::take(&mut *lock(&self.commands))
    }
}

/// The thread's body: serves until the end, then reports.
fn run(mut job: Job, shared: &Shared, sender: &Sender<Remains>) {
    let ended = job.ended.clone();
    let served = catch_unwind(AssertUnwindSafe(|| {
        job.queue.set_moderator(job.handler.moderator());
        match job.handler.shelf() {
            Some(shelf) => parked::run(job, shelf, shared),
            None => attend(job, shared),
        }
    }));
    let (remains, asked) = served.unwrap_or_else(|_| (Remains::lost(), false));
    let _ = sender.send(remains);
    if !asked {
        shared.ended.store(true, Ordering::Release);
        ended.notify();
    }
}

/// Serves the queue from this thread; returns what is left, and whether the end was asked for.
fn attend(job: Job, shared: &Shared) -> (Remains, bool) {
    let Job {
        queue,
        handler,
        kick,
        err,
        polling,
        ..
    } = job;
    let mut state = State {
        queue,
        handler,
        kick,
        err,
        poller: Poller::new(polling),
        shared,
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| state.serve()));
    let State {
        queue,
        handler,
        err,
        ..
    } = state;
    conclude(outcome.ok(), queue, handler, err.as_deref())
}

/// Ends the handler and puts together what is left; no `outcome` means that the handler panicked.
fn conclude(
    outcome: Option<Result<(), Failure>>,
    queue: Queue,
    handler: Box<dyn QueueHandler>,
    err: Option<&EventFd>,
) -> (Remains, bool) {
    let counters = queue.counters().clone();
    let mut failure = match outcome {
        Some(result) => result.err(),
        None => {
            counters.panics.add(1);
            Some(Failure::Panic)
        }
    };
    // After a panic too: what the handler borrowed (a link, say) goes back only so. A handler waits here for what the
    // kernel still does for it.
    if catch_unwind(AssertUnwindSafe(|| drop(handler))).is_err() {
        // Nobody knows what the kernel still writes to: the memory is leaked.
        std::mem::forget(queue.memory().clone());
        counters.panics.add(1);
        failure = Some(Failure::Lost);
    }
    match &failure {
        Some(Failure::Queue(Error::Ring(_) | Error::Record(_))) => counters.ring_errors.add(1),
        Some(Failure::Queue(_)) => counters.device_errors.add(1),
        _ => {}
    }
    if failure.is_some()
        && let Some(err) = err
    {
        err.notify();
    }
    queue.interrupt_if_held();
    let asked = failure.is_none();
    let remains = Remains {
        base: queue.base(),
        in_flight: queue.in_flight(),
        failure,
    };
    (remains, asked)
}

struct State<'a> {
    queue: Queue,
    handler: Box<dyn QueueHandler>,
    kick: Option<Arc<EventFd>>,
    err: Option<Arc<EventFd>>,
    poller: Poller,
    shared: &'a Shared,
}

impl State<'_> {
    fn serve(&mut self) -> Result<(), Failure> {
        let memory = self.queue.memory().clone();
        self.queue.disarm();
        loop {
            if self.shared.pending.load(Ordering::Acquire)
                && let Some(how) = self.obey()
            {
                return self.finish(how);
            }
            let progress = match self.handler.run(&mut self.queue, &memory) {
                Ok(progress) => progress,
                Err(error) => return Err(self.fail(error)),
            };
            if self.queue.ground().poisoned() {
                return Err(Failure::Poisoned);
            }
            if progress.any() {
                self.poller.activity();
            } else if self.poller.poll_on(self.handler.in_flight()) {
                self.queue.counters().empty_polls.add(1);
                self.queue.interrupt_if_late();
                std::hint::spin_loop();
            } else {
                self.sleep();
            }
        }
    }

    /// Carries out the waiting commands; returns the stop if there is one.
    #[cold]
    fn obey(&mut self) -> Option<Stop> {
        let mut stop = None;
        for command in self.shared.take_commands() {
            match command {
                Command::SetCall(call) => self.queue.set_call(call),
                Command::SetErr(err) => self.err = err,
                Command::SetKick(kick) => self.kick = kick,
                Command::Stop(how) => stop = Some(how),
            }
        }
        stop
    }

    fn finish(&mut self, how: Stop) -> Result<(), Failure> {
        let memory = self.queue.memory().clone();
        let drained = match how {
            Stop::Drain => self.handler.drain(&mut self.queue, &memory),
            Stop::Suspend => self.handler.suspend(&mut self.queue, &memory),
        };
        self.queue.publish();
        if self.queue.ground().poisoned() {
            Err(Failure::Poisoned)
        } else {
            drained.map_err(Failure::Queue)
        }
    }

    /// Drains what was good before the queue stops for `error`.
    #[cold]
    fn fail(&mut self, error: Error) -> Failure {
        let memory = self.queue.memory().clone();
        let _ = self.handler.drain(&mut self.queue, &memory);
        self.queue.publish();
        if self.queue.ground().poisoned() {
            Failure::Poisoned
        } else {
            Failure::Queue(error)
        }
    }

    fn sleep(&mut self) {
        if self.queue.arm() {
            self.queue.disarm();
            self.poller.activity();
            return;
        }
        self.handler.before_sleep();
        let start = Instant::now();
        let woken = self.wait();
        self.handler.after_sleep(woken.completed);
        if woken.rang {
            self.queue.interrupt_if_late();
        }
        self.poller.slept(start.elapsed());
        self.queue.counters().wakeups.add(1);
        self.queue.disarm();
    }

    /// Waits for a kick, a command, a completion or the time of an interrupt.
    fn wait(&self) -> Woken {
        let sources = Sources {
            shared: self.shared,
            kick: self.kick.as_deref(),
            handler: &*self.handler,
            moderator: self.queue.moderator(),
        };
        sources.wait()
    }
}

/// What ends a sleep.
struct Sources<'a> {
    shared: &'a Shared,
    kick: Option<&'a EventFd>,
    handler: &'a dyn QueueHandler,
    moderator: Option<&'a Moderator>,
}

/// What a sleep ended with.
struct Woken {
    /// The driver notified, or there is no descriptor by which it could.
    kicked: bool,
    /// The handler's descriptor is readable.
    completed: bool,
    /// An interrupt that was held back may be due.
    rang: bool,
}

impl Sources<'_> {
    /// Sleeps until a kick, a command, a completion or the time of an interrupt.
    fn wait(&self) -> Woken {
        let control = self.shared.control.as_fd();
        let completion = self.handler.completion_fd();
        // A descriptor that is absent repeats the control descriptor, which keeps the array on the stack.
        let watched = [
            control,
            self.kick.map_or(control, |kick| kick.as_fd()),
            completion.unwrap_or(control),
            self.moderator.map_or(control, |timer| timer.as_fd()),
        ];
        let mut fds = watched.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let timeout = self
            .kick
            .is_none()
            .then(|| TimeSpec::from_duration(KICKLESS_PERIOD));
        // Few queues have the last.
        let (fewer, all) = (fds.len() - 1, fds.len());
        let used = if self.moderator.is_some() { all } else { fewer };
        let (used, _) = fds.split_at_mut(used);
        let _ = nix::poll::ppoll(used, timeout, None);
        let [_, kicked, completed, rang] = fds.map(|fd| fd.any().unwrap_or(false));
        if let Some(kick) = self.kick.filter(|_| kicked) {
            kick.drain();
        }
        if let Some(moderator) = self.moderator.filter(|_| rang) {
            moderator.rang();
        }
        Woken {
            kicked: kicked || self.kick.is_none(),
            completed: completed && completion.is_some(),
            rang: rang && self.moderator.is_some(),
        }
    }
}
