//! Standard output and standard error: the only place that writes to them.
//!
//! Rule: no write fails its caller. What standard error does not take (its reader is gone or asleep, the disk is full, the
//! terminal is closed) is dropped and counted, and the next line that gets through says how many were lost. The macros of
//! the standard library panic instead, so clippy denies them everywhere.

use std::fs::File;
use std::io;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::socket::MsgFlags;

use crate::fatal;
use crate::sync::lock;

/// How long a line waits for a reader that is slow. One that kept a line waiting in vain is not waited for again until it
/// has read.
const PATIENCE: Duration = Duration::from_millis(100);
/// What a pipe that is ready takes without waiting, in bytes (PIPE_BUF).
const PIECE: usize = 4096;
/// Where a descriptor can be opened once more, as an open file of its own.
const ERROR_AGAIN: &str = "/proc/self/fd/2";

static ERROR: Mutex<Sink> = Mutex::new(Sink::new());
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Writes a line to standard output; one that cannot be written is lost. For tools: programs that live on have logs.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {
        // Whoever closed our output has heard enough.
        drop($crate::output::print(&format!("{}\n", format_args!($($words)*))))
    };
}

/// Writes a line to standard error, or counts it as lost.
#[macro_export]
macro_rules! tell {
    ($($words:tt)*) => {
        $crate::output::tell(&format!($($words)*))
    };
}

/// Looks at what standard error is, and lets a file that has reached the limit of its size be as good as a full disk. Call it before the process confines itself; without it a pipe may make a line wait
/// that another process fills at the same moment.
pub fn start() {
    fatal::ignore_file_size_signal();
    let mut sink = lock(&ERROR);
    let Ok(meta) = std::fs::metadata(ERROR_AGAIN) else {
        return;
    };
    if meta.file_type().is_socket() {
        sink.way = Way::Socket;
    } else if meta.file_type().is_fifo() {
        // O_NONBLOCK belongs to the open file, which others share: not theirs, but one of our own is changed.
        let own = File::options()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(ERROR_AGAIN);
        if let Ok(own) = own {
            sink.way = Way::Pipe(own);
        }
    }
}

/// Writes `line`, which need not end in a newline, to standard error, or counts it as lost.
pub fn tell(line: &str) {
    let mut text = Vec::with_capacity(line.len() + 1);
    text.extend_from_slice(line.as_bytes());
    if !line.ends_with('\n') {
        text.push(b'\n');
    }
    write_error(&text);
}

/// Writes to standard output, at once.
///
/// # Errors
/// As write(2) has it; [`io::ErrorKind::BrokenPipe`] when the reader has read enough.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Lines that standard error did not take since the process began.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Standard error as a writer that never fails; each write is one line or several, whole or not at all where possible.
#[derive(Clone, Copy, Debug, Default)]
pub struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_error(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_error(text: &[u8]) {
    let mut sink = lock(&ERROR);
    sink.deliver(io::stderr().as_fd(), text);
}

/// How bytes get to where they go without waiting.
#[derive(Debug)]
enum Way {
    /// Asked with poll(2) before each piece.
    Ask,
    /// A socket, as systemd's journal has: with MSG_DONTWAIT.
    Socket,
    /// Our own non-blocking end of a pipe.
    Pipe(File),
}

/// A descriptor that may take nothing.
#[derive(Debug)]
struct Sink {
    way: Way,
    /// Lines lost since one got through.
    lost: u64,
    /// The last line was lost in its middle.
    torn: bool,
}

impl Sink {
    const fn new() -> Self {
        Self {
            way: Way::Ask,
            lost: 0,
            torn: false,
        }
    }

    fn deliver(&mut self, fd: BorrowedFd<'_>, text: &[u8]) {
        let until = (self.lost == 0).then(|| Instant::now() + PATIENCE);
        let mut whole = Vec::new();
        let text = if self.lost == 0 {
            text
        } else {
            let newline = if self.torn { "\n" } else { "" };
            let note = format!(
                "{newline}({} lines before this one were lost: standard error did not take them)\n",
                self.lost
            );
            whole.extend_from_slice(note.as_bytes());
            whole.extend_from_slice(text);
            &whole
        };
        let written = self.write_all(fd, text, until);
        if written == text.len() {
            self.lost = 0;
            self.torn = false;
            return;
        }
        self.torn |= written != 0;
        self.lost += 1;
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many bytes got through.
    fn write_all(&self, fd: BorrowedFd<'_>, text: &[u8], until: Option<Instant>) -> usize {
        let mut done = 0;
        while let Some(left) = text.get(done..).filter(|left| !left.is_empty()) {
            let piece = left.get(..PIECE).unwrap_or(left);
            match self.write_some(fd, piece) {
                Ok(0) => return done,
                Ok(count) => done += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if wait(fd, until) => {}
                Err(_) => return done,
            }
        }
        done
    }

    fn write_some(&self, fd: BorrowedFd<'_>, piece: &[u8]) -> Result<usize, Errno> {
        match &self.way {
            Way::Pipe(own) => nix::unistd::write(own, piece),
            Way::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                nix::sys::socket::send(fd.as_raw_fd(), piece, flags)
            }
            Way::Ask if !ready(fd, PollTimeout::ZERO) => Err(Errno::EAGAIN),
            Way::Ask => nix::unistd::write(fd, piece),
        }
    }
}

/// Waits until `fd` takes something, until that time at most.
fn wait(fd: BorrowedFd<'_>, until: Option<Instant>) -> bool {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    match left.filter(|left| !left.is_zero()) {
        // Rounded up, or the last fraction of a millisecond would be spent spinning.
        Some(left) => {
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
            ready(fd, timeout.unwrap_or(PollTimeout::ZERO))
        }
        None => false,
    }
}

/// Whether a write would end at once, be it with an error.
fn ready(fd: BorrowedFd<'_>, timeout: PollTimeout) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    match poll(&mut fds, timeout) {
        Ok(0) => false,
        // Interrupted: the caller looks at its time again.
        Err(errno) => errno == Errno::EINTR && timeout != PollTimeout::ZERO,
        Ok(_) => true,
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
