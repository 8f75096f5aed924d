//! Device state over a descriptor (`SET_DEVICE_STATE_FD`). One rule: the peer's pipe is never allowed to hold the
//! session: a helper thread moves the bytes, with a deadline and a size limit.

use device_model::Error;
use host_os::sync::lock;
use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use std::time::Instant;

/// Most bytes of a state; ours are a few dozen.
const MAX_STATE: usize = 1 << 20;
/// How long a transfer may take in all.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long it may go on once the front-end asks how it went, which it does after closing its end.
const GRACE: Duration = Duration::from_millis(500);
/// How often the helper looks whether it is still wanted.
const STEP: Duration = Duration::from_millis(50);

/// Most helpers of one server that hang at a time: a peer that makes its descriptor a blocking one again can hold its
/// helper, and nobody else.
const MAX_HELPERS: usize = 4;

type Outcome = Result<Option<Vec<u8>>, Error>;

/// The helpers of one server.
#[derive(Debug, Default)]
pub(crate) struct Helpers(Arc<()>);

/// A transfer under way.
pub(crate) struct StateTransfer {
    outcome: Receiver<Outcome>,
    limit: Arc<Limit>,
}

/// When the helper has to give up.
struct Limit {
    deadline: Mutex<Instant>,
}

impl Limit {
    fn left(&self) -> Duration {
        let deadline = *lock(&self.deadline);
        deadline.saturating_duration_since(Instant::now())
    }

    fn shorten(&self, time: Duration) {
        let mut deadline = lock(&self.deadline);
        *deadline = (*deadline).min(Instant::now() + time);
    }
}

impl StateTransfer {
    /// Writes `state` into `fd` and closes it.
    pub(crate) fn save(fd: OwnedFd, state: Vec<u8>, helpers: &Helpers) -> Result<Self, Error> {
        let file = nonblocking(fd)?;
        Self::spawn(helpers, move |limit| {
            write_all(file, &state, limit).map(|()| None)
        })
    }

    /// Reads a state from `fd` until its end.
    pub(crate) fn load(fd: OwnedFd, helpers: &Helpers) -> Result<Self, Error> {
        let file = nonblocking(fd)?;
        Self::spawn(helpers, move |limit| read_all(file, limit).map(Some))
    }

    fn spawn(
        helpers: &Helpers,
        body: impl FnOnce(&Limit) -> Outcome + Send + 'static,
    ) -> Result<Self, Error> {
        if Arc::strong_count(&helpers.0) > MAX_HELPERS {
            return Err(Error::State("earlier transfers hang"));
        }
        let counted = helpers.0.clone();
        let (sender, outcome) = std::sync::mpsc::channel();
        let limit = Arc::new(Limit {
            deadline: Mutex::new(Instant::now() + DEADLINE),
        });
        let theirs = limit.clone();
        std::thread::Builder::new()
            .name("device-state".to_owned())
            .spawn(move || {
                let _counted = counted;
                let _ = sender.send(body(&theirs));
            })
            .map_err(|source| Error::Io {
                what: "starting a thread",
                source,
            })?;
        Ok(Self { outcome, limit })
    }

    /// Waits for the end, which is near. `Some` holds a state to load.
    pub(crate) fn finish(self) -> Outcome {
        self.limit.shorten(GRACE);
        let outcome = self.outcome.recv_timeout(GRACE + 10 * STEP);
        outcome.unwrap_or(Err(Error::State("the transfer failed")))
    }
}

impl Drop for StateTransfer {
    /// A transfer that nobody asks about any more ends soon, by itself.
    fn drop(&mut self) {
        self.limit.shorten(Duration::ZERO);
    }
}

fn nonblocking(fd: OwnedFd) -> Result<File, Error> {
    // The open file description is this end of the pipe, which the front-end gave away.
    nix::fcntl::fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| Error::Io {
        what: "fcntl",
        source: errno.into(),
    })?;
    Ok(File::from(fd))
}

fn write_all(mut file: File, state: &[u8], limit: &Limit) -> Result<(), Error> {
    let mut rest = state;
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(Error::State("the descriptor takes no bytes")),
            Ok(n) => rest = rest.get(n..).unwrap_or(&[]),
            Err(error) => wait_or_fail(&file, error, PollFlags::POLLOUT, limit)?,
        }
    }
    Ok(())
}

fn read_all(mut file: File, limit: &Limit) -> Result<Vec<u8>, Error> {
    let mut state = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(state),
            Ok(n) => state.extend_from_slice(chunk.get(..n).unwrap_or(&[])),
            Err(error) => wait_or_fail(&file, error, PollFlags::POLLIN, limit)?,
        }
        if state.len() > MAX_STATE {
            return Err(Error::State("it is too long"));
        }
    }
}

fn wait_or_fail(
    file: &File,
    error: io::Error,
    flags: PollFlags,
    limit: &Limit,
) -> Result<(), Error> {
    match error.kind() {
        io::ErrorKind::Interrupted => return Ok(()),
        io::ErrorKind::WouldBlock => {}
        _ => {
            return Err(Error::Io {
                what: "moving device state",
                source: error,
            });
        }
    }
    let left = limit.left();
    if left.is_zero() {
        return Err(Error::State("the transfer took too long"));
    }
    let timeout = PollTimeout::try_from(left.min(STEP)).unwrap_or(PollTimeout::MAX);
    let _ = nix::poll::poll(&mut [PollFd::new(file.as_fd(), flags)], timeout);
    Ok(())
}
