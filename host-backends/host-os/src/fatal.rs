//! Signals that end the process: what is put right and said before they do.
//!
//! Rule: handlers make system calls that signal-safety(7) lists, and nothing else; the process still ends by the signal, so
//! that whoever waits for it sees which one it was.
#![expect(
    unsafe_code,
    reason = "signal handlers are installed, and read what the kernel tells them"
)]

use std::ffi::c_int;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering;

/// What ends a process by default and comes unawaited. (SIGXFSZ is ignored by [`crate::output::start`]; SIGHUP, SIGINT and
/// SIGTERM are a program's own to wait for.)
const FATAL: [c_int; 12] = [
    libc::SIGQUIT,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGALRM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGXCPU,
];

/// `si_code` of a SIGSYS that comes from a seccomp filter (SYS_SECCOMP of asm-generic/siginfo.h).
const FROM_SECCOMP: c_int = 1;
/// Longest text that [`Words`] holds, in bytes.
const WORDS: usize = 160;

static PUT_RIGHT: OnceLock<fn()> = OnceLock::new();
/// The actions before ours, by signal number; never freed.
static BEFORE: [AtomicPtr<libc::sigaction>; 64] = [const { AtomicPtr::new(null_mut()) }; 64];

/// Calls `put_right` before a fatal signal ends the process, and says which system call a sandbox refused whose filter
/// answers with a trap. `put_right` may do only what a signal handler may. Once per process.
pub fn watch(put_right: fn()) {
    if PUT_RIGHT.set(put_right).is_err() {
        return;
    }
    for signal in FATAL {
        install(signal);
    }
}

/// A write beyond the limit of file sizes fails, as on a full disk, instead of ending the process.
pub(crate) fn ignore_file_size_signal() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

fn install(signal: c_int) {
    // SAFETY: an all-zero sigaction is a valid value of that C struct.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handle as *const () as libc::sighandler_t;
    // On the alternative stack, which the standard library gives every thread: the stack may be what is wrong.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: as above.
    let mut before: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: both are initialised; the handler keeps to what a handler may do.
    if unsafe { libc::sigaction(signal, &raw const action, &raw mut before) } != 0 {
        return;
    }
    if before.sa_sigaction == libc::SIG_IGN {
        // Whoever started us wants it ignored (nohup, `&` in a script).
        // SAFETY: what the kernel has just filled in.
        unsafe { libc::sigaction(signal, &raw const before, null_mut()) };
    } else if let Some(place) = place(signal) {
        place.store(Box::into_raw(Box::new(before)), Ordering::Release);
    }
}

fn place(signal: c_int) -> Option<&'static AtomicPtr<libc::sigaction>> {
    BEFORE.get(usize::try_from(signal).ok()?)
}

/// What the kernel says of a SIGSYS (siginfo_t, _sigsys), which the libc crate does not name.
#[repr(C)]
struct Refused {
    signal: c_int,
    errno: c_int,
    code: c_int,
    padding: c_int,
    address: *mut c_void,
    call: c_int,
    arch: u32,
}

extern "C" fn handle(signal: c_int, info: *const libc::siginfo_t, _context: *mut c_void) {
    if let Some(put_right) = PUT_RIGHT.get() {
        put_right();
    }
    // SAFETY: the kernel hands a valid siginfo to a handler with SA_SIGINFO; `si_code` is in all kinds of it.
    let code = unsafe { (*info).si_code };
    if signal == libc::SIGSYS && code == FROM_SECCOMP {
        // SAFETY: of this kind, the kernel fills in the fields of `Refused`, which is no longer than siginfo_t.
        let call = unsafe { (*info.cast::<Refused>()).call };
        tell_refused(call);
    }
    let before = place(signal).map_or(null_mut(), |place| place.load(Ordering::Acquire));
    if before.is_null() {
        // SAFETY: back to the default action.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    } else {
        // SAFETY: a sigaction that the kernel filled in and that is never freed.
        unsafe { libc::sigaction(signal, before, null_mut()) };
    }
    // A fault comes again by itself when the handler returns, with all that is to be known of it; so the earlier handler
    // (the standard library tells of a full stack) sees it as it was.
    let again = code > 0
        && matches!(
            signal,
            libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE
        );
    if !again {
        // SAFETY: to this thread; it is delivered when the handler returns.
        unsafe { libc::raise(signal) };
    }
}

fn tell_refused(call: c_int) {
    let mut words = Words::default();
    words.push(b"The sandbox refused system call ");
    words.number(call.unsigned_abs());
    words.push(b" (");
    words.push(std::env::consts::ARCH.as_bytes());
    words.push(
        b"): a fault of this program, or a C library newer than it; --sandbox off does without\r\n",
    );
    let mut ask = libc::pollfd {
        fd: libc::STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    };
    // Nobody may read it; then it is not said rather than waited for.
    // SAFETY: one entry of ours.
    if unsafe { libc::poll(&raw mut ask, 1, 0) } == 1 {
        // SAFETY: initialised bytes of ours.
        unsafe { libc::write(libc::STDERR_FILENO, words.text.as_ptr().cast(), words.len) };
    }
}

/// A text that is put together without allocation.
struct Words {
    text: [u8; WORDS],
    len: usize,
}

impl Default for Words {
    fn default() -> Self {
        Self {
            text: [0; WORDS],
            len: 0,
        }
    }
}

impl Words {
    fn push(&mut self, bytes: &[u8]) {
        for (place, byte) in self.text.iter_mut().skip(self.len).zip(bytes) {
            *place = *byte;
            self.len += 1;
        }
    }

    fn number(&mut self, number: u32) {
        let mut divisor = 1;
        while number / divisor >= 10 {
            divisor *= 10;
        }
        while divisor > 0 {
            self.push(&[b'0' + (number / divisor % 10) as u8]);
            divisor /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_allocation_and_text_is_cut_at_its_end() {
        for number in [0, 7, 10, 318, u32::MAX] {
            let mut words = Words::default();
            words.number(number);
            assert_eq!(&words.text[..words.len], number.to_string().as_bytes());
        }
        let mut words = Words::default();
        words.push(&[b'x'; 2 * WORDS]);
        assert_eq!(words.len, WORDS);
    }
}
