//! A process that is run one instruction at a time. One rule: what it stores to shared memory is seen store by store,
//! where the stores really go, and nothing of the product knows about it.

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;

/// The thread that is stepped through. Only the thread that attached to it may use this.
pub struct Stepped {
    child: Child,
    thread: Pid,
    orders: UnixStream,
}

impl Stepped {
    /// Waits for the thread of `child` that connects to `listener`, and attaches to it; `None` when that is not
    /// permitted here.
    pub fn attach(mut child: Child, listener: &UnixListener) -> Result<Option<Self>> {
        let (orders, _) = listener.accept()?;
        let mut line = String::new();
        BufReader::new(orders.try_clone()?).read_line(&mut line)?;
        let thread = Pid::from_raw(line.trim().parse()?);
        if let Err(errno) = ptrace::attach(thread) {
            let _ = child.kill();
            let _ = child.wait();
            anyhow::ensure!(errno == nix::Error::EPERM, "attaching: {errno}");
            return Ok(None);
        }
        let this = Self {
            child,
            thread,
            orders,
        };
        this.stopped()?;
        ptrace::cont(thread, None)?;
        Ok(Some(this))
    }

    /// Sends one order and steps through what [`Orders::carry_out`] does for it; `look` is called before the first
    /// instruction and after each.
    pub fn order(&mut self, order: &str, mut look: impl FnMut()) -> Result<()> {
        self.orders.write_all(order.as_bytes())?;
        self.orders.write_all(b"\n")?;
        anyhow::ensure!(self.stopped()? == Signal::SIGSTOP, "not at the start");
        look();
        loop {
            ptrace::step(self.thread, None)?;
            match self.stopped()? {
                Signal::SIGTRAP => look(),
                Signal::SIGSTOP => break,
                other => bail!("stopped by {other}"),
            }
        }
        ptrace::cont(self.thread, None)?;
        let mut done = [0];
        self.orders.read_exact(&mut done).context("no word of it")
    }

    fn stopped(&self) -> Result<Signal> {
        match waitpid(self.thread, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Stopped(_, signal) => Ok(signal),
            other => bail!("it ended: {other:?}"),
        }
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        // The thread that is traced goes to its tracer first; the process ends after it.
        let _ = waitpid(self.thread, Some(WaitPidFlag::__WALL));
        let _ = self.child.wait();
    }
}

/// The stepped process's end.
pub struct Orders(UnixStream);

impl Orders {
    /// Connects to whoever will step through this thread.
    pub fn from(path: &Path) -> Result<Self> {
        let mut stream = UnixStream::connect(path)?;
        writeln!(stream, "{}", nix::unistd::gettid())?;
        Ok(Self(stream))
    }

    /// The next order; `None` when there will be none.
    pub fn receive(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        let got = BufReader::new(&self.0).read_line(&mut line)?;
        Ok((got != 0).then(|| line.trim().to_owned()))
    }

    /// Does `work` while being stepped through.
    pub fn carry_out<T>(&mut self, work: impl FnOnce() -> T) -> Result<T> {
        nix::sys::signal::raise(Signal::SIGSTOP)?;
        let outcome = work();
        nix::sys::signal::raise(Signal::SIGSTOP)?;
        self.0.write_all(b".")?;
        Ok(outcome)
    }
}
