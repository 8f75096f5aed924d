//! What a panic says before it unwinds, and whether the process outlives it.
//!
//! Rule: the words go out by write(2) and poll(2) alone, which every sandbox of ours allows; nothing is opened, no
//! symbol is looked up. The standard hook does both when RUST_BACKTRACE is set.

use std::panic::PanicHookInfo;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use crate::output;

/// The process may no longer open files.
static CONFINED: AtomicBool = AtomicBool::new(false);

/// Tells panics on standard error from now on. Then `then` is called with the thread's name; it may end the process, for
/// one that goes on without a thread that it needs is deaf, and no supervisor sees it. If it returns, the thread unwinds.
pub fn watch(then: fn(thread: &str)) {
    let program = std::env::args_os().next().unwrap_or_default();
    let program = Path::new(&program).file_name().unwrap_or_default();
    let program = program.to_string_lossy().into_owned();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("without a name");
        output::tell(&describe(&program, thread, panic));
        if !CONFINED.load(Ordering::Relaxed) {
            let trace = std::backtrace::Backtrace::capture();
            if trace.status() == std::backtrace::BacktraceStatus::Captured {
                output::tell(&trace.to_string());
            }
        }
        then(thread);
    }));
}

/// The process has confined itself: a backtrace, which needs files, is no longer taken.
pub fn confined() {
    CONFINED.store(true, Ordering::Relaxed);
}

fn describe(program: &str, thread: &str, panic: &PanicHookInfo<'_>) -> String {
    let said = panic.payload_as_str().unwrap_or("no words");
    match panic.location() {
        Some(place) => format!("{program}: panic in thread {thread} at {place}: {said}"),
        None => format!("{program}: panic in thread {thread}: {said}"),
    }
}
