//! Where `boot.s` arrives, and what a freestanding program must bring along.
//!
//! Rule: every way out of here ends with a line of JSON and a byte on the exit port.
#![expect(
    unsafe_code,
    reason = "symbols that the boot code and the compiler look for"
)]
use core::panic::PanicInfo;

use crate::cpu;
use crate::heap::HEAP;
use crate::json::Line;
use crate::machine;
use crate::start_info::StartInfo;

core::arch::global_asm!(include_str!("boot.s"));

/// Exit code of a guest that met an exception.
const EXIT_FAULT: u8 = 70;
/// Exit code of a guest that panicked.
const EXIT_PANIC: u8 = 71;

// SAFETY: `boot.s` is the only one that defines or calls this name.
#[unsafe(no_mangle)]
extern "C" fn probe_main(start_info: u64) -> ! {
    let info = StartInfo::read(start_info);
    HEAP.give(info.heap());
    cpu::install_gates();
    cpu::exit(machine::run(info.command_line()))
}

// SAFETY: `boot.s` is the only one that defines or calls this name.
#[unsafe(no_mangle)]
extern "C" fn fault_report() -> ! {
    let fault = cpu::fault();
    let mut line = Line::new("fault");
    line.number("vector", fault.vector)
        .hex("error", fault.error);
    line.hex("rip", fault.rip).hex("address", fault.address);
    line.print();
    cpu::exit(EXIT_FAULT)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut line = Line::new("panic");
    line.display("message", &info.message());
    if let Some(location) = info.location() {
        line.text("file", location.file())
            .number("line", u64::from(location.line()));
    }
    line.print();
    cpu::exit(EXIT_PANIC)
}
