//! The instructions that Rust has no words for, and the interrupt gates.
//!
//! Rule: nothing here needs CPL 0; the way there is the one gateway of `boot.s`.
#![expect(unsafe_code, reason = "ports, registers and the symbols of boot.s")]
use core::arch::asm;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

/// First vector that counts interrupts.
pub(crate) const FIRST_VECTOR: u8 = 0x40;
/// How many vectors count interrupts.
pub(crate) const VECTORS: u8 = 32;

const EXIT_PORT: u16 = 0xf4;
const CODE_SELECTOR: u64 = 0x10;
const INTERRUPT_GATE: u64 = 0x8e00;
const SPURIOUS: usize = 255;
const INVALID_OPCODE: usize = 6;
const STUB: u64 = 16;

// SAFETY: `boot.s` and the linker script define these symbols as declared.
unsafe extern "C" {
    static irq_stub: u8;
    static exception_stubs: u8;
    static gateway_stub: u8;
    static spurious_stub: u8;
    static interrupt_gates: [AtomicU64; 512];
    static irq_total: AtomicU64;
    static fault_vector: AtomicU64;
    static fault_error: AtomicU64;
    static fault_rip: AtomicU64;
    static fault_address: AtomicU64;
    fn sleep_until_interrupt(seen: u64);
}

/// What an exception left behind.
pub(crate) struct Fault {
    pub(crate) vector: u64,
    pub(crate) error: u64,
    pub(crate) rip: u64,
    pub(crate) address: u64,
}

/// The exception that `boot.s` recorded.
pub(crate) fn fault() -> Fault {
    Fault {
        // SAFETY: aligned and only ever accessed as a word.
        vector: unsafe { &fault_vector }.load(Ordering::Relaxed),
        // SAFETY: as above.
        error: unsafe { &fault_error }.load(Ordering::Relaxed),
        // SAFETY: as above.
        rip: unsafe { &fault_rip }.load(Ordering::Relaxed),
        // SAFETY: as above.
        address: unsafe { &fault_address }.load(Ordering::Relaxed),
    }
}

/// Fills the interrupt descriptor table, whose place the boot code has told the processor.
pub(crate) fn install_gates() {
    let address = |symbol: *const u8| symbol.addr() as u64;
    // SAFETY: only the address of the symbol is used.
    let exceptions = address(&raw const exception_stubs);
    let interrupt = address(&raw const irq_stub);
    for vector in 0..32 {
        set_gate(vector, exceptions + vector as u64 * STUB);
    }
    for index in 0..VECTORS {
        set_gate(usize::from(FIRST_VECTOR + index), interrupt);
    }
    set_gate(INVALID_OPCODE, address(&raw const gateway_stub));
    set_gate(SPURIOUS, address(&raw const spurious_stub));
}

fn set_gate(vector: usize, handler: u64) {
    // SAFETY: the table belongs to this module; the processor reads it only when an interrupt comes.
    let gates = unsafe { &interrupt_gates };
    let low = handler & 0xffff
        | CODE_SELECTOR << 16
        | INTERRUPT_GATE << 32
        | (handler >> 16 & 0xffff) << 48;
    if let Some([first, second]) = gates.get(vector * 2..vector * 2 + 2) {
        second.store(handler >> 32, Ordering::Relaxed);
        first.store(low, Ordering::Relaxed);
    }
}

/// Interrupts of all counting vectors so far.
pub(crate) fn interrupts() -> u64 {
    // SAFETY: aligned and only ever accessed as a word.
    unsafe { &irq_total }.load(Ordering::Acquire)
}

/// Sleeps until [`interrupts`] is no longer `seen`.
pub(crate) fn sleep(seen: u64) {
    // SAFETY: the gateway keeps all registers; the stack of CPL 3 is not touched.
    unsafe { sleep_until_interrupt(seen) };
}

/// The time-stamp counter.
#[inline]
pub(crate) fn tsc() -> u64 {
    // SAFETY: CR4.TSD is clear, and the instruction has no other effect.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// One CPUID leaf, as EAX, EBX, ECX, EDX.
pub(crate) fn cpuid(leaf: u32) -> [u32; 4] {
    let answer = core::arch::x86_64::__cpuid(leaf);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// Writes a byte to a port.
pub(crate) fn out_u8(port: u16, value: u8) {
    // SAFETY: the task state allows all ports; no memory is touched.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
    };
}

/// Writes two bytes to a port.
pub(crate) fn out_u16(port: u16, value: u16) {
    // SAFETY: as for `out_u8`.
    unsafe {
        asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags))
    };
}

/// Writes four bytes to a port.
pub(crate) fn out_u32(port: u16, value: u32) {
    // SAFETY: as for `out_u8`.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags))
    };
}

/// Reads a byte from a port.
pub(crate) fn in_u8(port: u16) -> u8 {
    let value: u8;
    // SAFETY: as for `out_u8`.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// Reads two bytes from a port.
pub(crate) fn in_u16(port: u16) -> u16 {
    let value: u16;
    // SAFETY: as for `out_u8`.
    unsafe {
        asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// Reads four bytes from a port.
pub(crate) fn in_u32(port: u16) -> u32 {
    let value: u32;
    // SAFETY: as for `out_u8`.
    unsafe {
        asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// Writes bytes to a port one after the other, with one string instruction: an exit per instruction, not per byte.
pub(crate) fn out_bytes(port: u16, bytes: &[u8]) {
    // SAFETY: reads exactly the slice; the direction flag is clear.
    unsafe {
        asm!("rep outsb", inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _, in("dx") port,
            options(readonly, nostack, preserves_flags));
    }
}

/// Ends the machine with a code, or sleeps for ever where there is no exit port.
pub(crate) fn exit(code: u8) -> ! {
    out_u8(EXIT_PORT, code);
    loop {
        sleep(interrupts());
    }
}
