//! Adding to a peer's eventfd without ever waiting. One rule: how the peer opened or filled it does not matter.
//!
//! A write to an eventfd waits while the counter is full, unless `O_NONBLOCK` is set on the open file description, which
//! the peer shares with us and may change at any time. Asking first whether there is room leaves a moment in which it fills
//! the counter; `RWF_NOWAIT` is refused for such writes. What never waits is the kernel's own signal: it saturates. Linux
//! AIO sends one when an operation is over (`IOCB_FLAG_RESFD` of `io_submit`), so we submit one that does nothing.
#![expect(unsafe_code, reason = "Linux AIO has no safe wrapper")]

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::sys::time::TimeSpec;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::time::Duration;

/// Operations whose ends may wait to be collected, of all threads together.
const DEPTH: libc::c_long = 256;
/// Ends that are collected at once.
const COLLECT: usize = 64;
/// How often a signal is tried again for which there was no room.
const RETRIES: usize = 8;
/// `IOCB_CMD_PREAD`.
const PREAD: u16 = 0;
/// `IOCB_FLAG_RESFD`.
const RESFD: u32 = 1;

/// `struct iocb` of `linux/aio_abi.h`.
#[repr(C)]
#[derive(Default)]
struct Operation {
    data: u64,
    key_and_flags: [u32; 2],
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    signals: u32,
}

/// `struct io_event` of the same.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    _fields: [u64; 4],
}

/// The kernel's handle of our AIO context.
struct Context(libc::c_ulong);

/// The process's context; `None` where the kernel has no AIO, or has none left (`fs.aio-max-nr`).
fn context() -> Option<&'static Context> {
    static CONTEXT: OnceLock<Option<Context>> = OnceLock::new();
    let make = || {
        let mut handle: libc::c_ulong = 0;
        // SAFETY: the kernel writes one handle to a live place that holds zero.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, DEPTH, &raw mut handle) };
        (made == 0).then_some(Context(handle))
    };
    CONTEXT.get_or_init(make).as_ref()
}

impl Context {
    fn submit(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let fd = fd.as_raw_fd().unsigned_abs();
        // A read of no bytes of the eventfd itself: over at once, and in vain.
        let mut operation = Operation {
            opcode: PREAD,
            fd,
            flags: RESFD,
            signals: fd,
            ..Operation::default()
        };
        let mut list = [&raw mut operation];
        let one: libc::c_long = 1;
        // SAFETY: a list of one operation, which the kernel copies; it has no buffer. The descriptor is borrowed.
        let submitted =
            unsafe { libc::syscall(libc::SYS_io_submit, self.0, one, list.as_mut_ptr()) };
        Errno::result(submitted).map(drop)
    }

    /// Makes room; nobody wants to know how the operations ended.
    fn collect(&self) {
        let mut events = [Event::default(); COLLECT];
        let most = libc::c_long::try_from(COLLECT).unwrap_or(1);
        let least: libc::c_long = 0;
        let mut now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let (events, now) = (events.as_mut_ptr(), &raw mut now);
        // SAFETY: room for as many events as are asked for, and a time; the call does not wait.
        let _ = unsafe { libc::syscall(libc::SYS_io_getevents, self.0, least, most, events, now) };
    }
}

/// Adds one to the counter of `fd`, an eventfd; whether it was one.
///
/// Without AIO in the kernel there is a moment in which a peer that fills its counter on purpose holds us.
pub(crate) fn signal(fd: BorrowedFd<'_>) -> bool {
    let Some(context) = context() else {
        return write_if_room(fd);
    };
    for _ in 0..RETRIES {
        match context.submit(fd) {
            Ok(()) => return true,
            Err(Errno::EAGAIN) => context.collect(),
            // Before Linux 5.8 eventfds know no such read; after it this is no eventfd.
            Err(_) => break,
        }
    }
    write_if_room(fd)
}

/// Adds one unless the counter is full: then whoever waits was told already.
fn write_if_room(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    let now = TimeSpec::from_duration(Duration::ZERO);
    let ready = nix::poll::ppoll(&mut fds, Some(now), None);
    ready == Ok(1) && nix::unistd::write(fd, &1_u64.to_ne_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EventFd;
    use nix::sys::eventfd::EfdFlags;
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering;

    fn blocking() -> nix::sys::eventfd::EventFd {
        nix::sys::eventfd::EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC).unwrap()
    }

    #[test]
    fn every_signal_counts() {
        for signal in [signal, write_if_room] {
            let event = blocking();
            for _ in 0..1000 {
                assert!(signal(event.as_fd()));
            }
            assert_eq!(event.read(), Ok(1000));
        }
    }

    #[test]
    fn signals_of_many_threads_count() {
        let event = blocking();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!((0..5000).all(|_| signal(event.as_fd()))));
            }
        });
        assert_eq!(event.read(), Ok(20_000));
    }

    #[test]
    fn a_full_counter_holds_nobody() {
        let event = blocking();
        event.write(u64::MAX - 1).unwrap();
        let theirs = EventFd::from_peer(event.as_fd().try_clone_to_owned().unwrap()).unwrap();
        for _ in 0..10 {
            theirs.notify();
        }
        assert!(theirs.drain() && !theirs.drain());
        assert!(theirs.notify());
        assert_eq!(event.read(), Ok(1));
    }

    #[test]
    fn a_peer_that_fills_its_counter_at_the_worst_moment_holds_nobody() {
        const ROUNDS: u32 = 3000;
        let event = Arc::new(blocking());
        let theirs = || EventFd::from_peer(event.as_fd().try_clone_to_owned().unwrap()).unwrap();
        event.write(u64::MAX - 1).unwrap();
        let (begun, filled) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (wanted, ended) = (begun.clone(), filled.clone());
        let (hostile, fill) = (theirs(), event.clone());
        std::thread::spawn(move || {
            for round in 1..=ROUNDS {
                while wanted.load(Ordering::Acquire) < round {
                    std::thread::yield_now();
                }
                // Room for a moment, so that a look at it says yes; then none until the next round.
                hostile.drain();
                let _ = fill.write(u64::MAX - 1);
                ended.store(round, Ordering::Release);
            }
        });
        let (done, over) = std::sync::mpsc::channel();
        let ours = theirs();
        std::thread::spawn(move || {
            for round in 1..=ROUNDS {
                begun.store(round, Ordering::Release);
                ours.notify();
                while filled.load(Ordering::Acquire) < round {
                    // What came between the two lets the peer's own write wait.
                    ours.drain();
                    std::thread::yield_now();
                }
            }
            done.send(()).unwrap();
        });
        assert_eq!(over.recv_timeout(Duration::from_secs(60)), Ok(()));
    }

    #[test]
    fn what_is_no_eventfd_is_not_signalled() {
        let epoll = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::EPOLL_CLOEXEC);
        let other = EventFd::from_peer(epoll.unwrap().0.try_clone().unwrap());
        assert!(!other.unwrap().notify());
    }
}
