//! The local APIC: switched on, and its timer as an alarm clock.
//!
//! Rule: xAPIC registers through memory, which works at CPL 3.
#![expect(unsafe_code, reason = "device registers")]
use core::ptr::read_volatile;
use core::ptr::with_exposed_provenance;
use core::ptr::with_exposed_provenance_mut;
use core::ptr::write_volatile;

const BASE: usize = 0xfee0_0000;
const ID: usize = 0x20;
const TASK_PRIORITY: usize = 0x80;
const SPURIOUS: usize = 0xf0;
const ENABLED: u32 = 0x1ff;
const TIMER: usize = 0x320;
const TIMER_PERIODIC: u32 = 1 << 17;
const TIMER_MASKED: u32 = 1 << 16;
const TIMER_COUNT: usize = 0x380;
const TIMER_DIVIDE: usize = 0x3e0;
const DIVIDE_BY_1: u32 = 0xb;
/// About 20 ms where the APIC counts nanoseconds, as KVM's and QEMU's do.
const ALARM_TICKS: u32 = 20_000_000;

/// Where messages for this processor go.
pub(crate) fn message_address() -> u64 {
    BASE as u64 | u64::from(read(ID) >> 24) << 12
}

/// Switches the APIC on.
pub(crate) fn enable() {
    write(TASK_PRIORITY, 0);
    write(SPURIOUS, ENABLED);
}

/// Raises `vector` every 20 ms or so, or no more: a lost interrupt then costs time and not the guest.
pub(crate) fn alarm(vector: Option<u8>) {
    match vector {
        Some(vector) => {
            write(TIMER_DIVIDE, DIVIDE_BY_1);
            write(TIMER, TIMER_PERIODIC | u32::from(vector));
            write(TIMER_COUNT, ALARM_TICKS);
        }
        None => {
            write(TIMER, TIMER_MASKED);
            write(TIMER_COUNT, 0);
        }
    }
}

fn read(register: usize) -> u32 {
    // SAFETY: the APIC's registers are at this address on every machine, and identity-mapped.
    unsafe { read_volatile(with_exposed_provenance(BASE + register)) }
}

fn write(register: usize, value: u32) {
    // SAFETY: as in `read`; the registers written here touch no memory.
    unsafe { write_volatile(with_exposed_provenance_mut(BASE + register), value) };
}
