//! SIGBUS guard: a peer that truncates a file we have mapped gets zero pages and a poisoned mapping, not our death.
//!
//! One rule: the handler touches only atomics in a static table and the `mmap` system call, in this order: poison
//! flag first, then the anonymous page, so that whoever goes on after the fault can see that its bytes are void.
//! An address that no guarded mapping covers gets the default action (the process ends, as it should).
#![expect(unsafe_code, reason = "signal handler and its registration")]

use crate::Error;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// Most mappings guarded at once in this process.
const SLOTS: usize = 8192;

const FREE: u8 = 0;
const CLAIMED: u8 = 1;
const LIVE: u8 = 2;

struct Slot {
    state: AtomicU8,
    poisoned: AtomicBool,
    start: AtomicUsize,
    end: AtomicUsize,
    page: AtomicUsize,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        state: AtomicU8::new(FREE),
        poisoned: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        page: AtomicUsize::new(0),
    }
}; SLOTS];

/// One past the highest slot ever used; bounds the handler's search.
static HIGH_WATER: AtomicUsize = AtomicUsize::new(0);
/// How many faults were caught; zero lets [`any_poisoned`] answer with one load.
static FAULTS: AtomicUsize = AtomicUsize::new(0);

/// Installs the handler, once per process. Called by every guarded mapping; a daemon may call it early.
pub fn install() -> Result<(), Error> {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    if *INSTALLED.get_or_init(set_handler) {
        Ok(())
    } else {
        Err(Error::last("sigaction(SIGBUS)"))
    }
}

/// Whether any guarded mapping of this process was ever poisoned. One relaxed load.
pub fn any_poisoned() -> bool {
    FAULTS.load(Ordering::Acquire) != 0
}

/// An address range under guard; ends when dropped, which must be before the range is unmapped.
#[derive(Debug)]
pub struct Guard {
    slot: &'static Slot,
}

impl core::fmt::Debug for Slot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#x}", self.start.load(Ordering::Relaxed))
    }
}

impl Guard {
    /// Guards `len` bytes from `start`, which the caller has mapped, in pages of `page` bytes (a power of two).
    ///
    /// # Safety
    /// The caller owns the mapping: within it the handler may replace any page by a zero page.
    pub unsafe fn new(start: usize, len: usize, page: usize) -> Result<Self, Error> {
        install()?;
        for (index, slot) in TABLE.iter().enumerate() {
            let claim =
                slot.state
                    .compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed);
            if claim.is_err() {
                continue;
            }
            slot.poisoned.store(false, Ordering::Relaxed);
            slot.start.store(start, Ordering::Relaxed);
            slot.end.store(start.saturating_add(len), Ordering::Relaxed);
            slot.page.store(page, Ordering::Relaxed);
            HIGH_WATER.fetch_max(index + 1, Ordering::Relaxed);
            slot.state.store(LIVE, Ordering::Release);
            return Ok(Self { slot });
        }
        Err(Error::TooManyMappings)
    }

    /// Whether a page of the range was lost. Cheap enough for every batch.
    pub fn poisoned(&self) -> bool {
        any_poisoned() && self.slot.poisoned.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.slot.state.store(FREE, Ordering::Release);
    }
}

fn set_handler() -> bool {
    // SAFETY: an all-zero sigaction is a valid value of that C struct.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = handle as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is a fully initialised sigaction whose handler is async-signal-safe.
    unsafe { libc::sigaction(libc::SIGBUS, &raw const action, core::ptr::null_mut()) == 0 }
}

extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let info = unsafe { &*info };
    // SAFETY: si_addr is defined for SIGBUS.
    let addr = unsafe { info.si_addr() } as usize;
    if !replace_page(addr) {
        // SAFETY: signal() is async-signal-safe; returning repeats the access, which then ends the process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Poisons the guarded mapping at `addr` and puts a zero page there.
fn replace_page(addr: usize) -> bool {
    let high = HIGH_WATER.load(Ordering::Acquire).min(SLOTS);
    for slot in TABLE.iter().take(high) {
        if slot.state.load(Ordering::Acquire) != LIVE {
            continue;
        }
        let start = slot.start.load(Ordering::Relaxed);
        let end = slot.end.load(Ordering::Relaxed);
        if !(start..end).contains(&addr) {
            continue;
        }
        slot.poisoned.store(true, Ordering::Release);
        FAULTS.fetch_add(1, Ordering::Release);
        let page = slot.page.load(Ordering::Relaxed).max(1);
        return map_zero_page(addr & !(page - 1), page);
    }
    false
}

fn map_zero_page(start: usize, len: usize) -> bool {
    // SAFETY: errno's location is valid for the life of the thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; saved because the interrupted code may be about to read it.
    let saved = unsafe { *errno };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the page lies in a mapping whose owner allowed its replacement (`Guard::new`).
    let page = unsafe { libc::mmap(start as *mut libc::c_void, len, prot, flags, -1, 0) };
    // SAFETY: as above.
    unsafe { *errno = saved };
    page != libc::MAP_FAILED
}
