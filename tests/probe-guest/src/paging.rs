//! Identity mapping of device memory above the 4 GiB that `boot.s` maps.
//!
//! Rule: entries are only added, never changed, so no TLB entry can be stale.
#![expect(unsafe_code, reason = "page tables")]
use alloc::boxed::Box;
use core::ptr::with_exposed_provenance;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

// SAFETY: `boot.s` and the linker script define these symbols as declared.
unsafe extern "C" {
    static page_map: Table;
}

const PRESENT_WRITABLE_USER: u64 = 7;
const LARGE: u64 = 0x80;
const LARGE_SIZE: u64 = 2 << 20;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Maps the range at its physical address.
pub(crate) fn map(base: u64, len: u64) {
    let mut page = base & !(LARGE_SIZE - 1);
    while page < base.saturating_add(len) {
        map_page(page);
        page += LARGE_SIZE;
    }
}

fn map_page(page: u64) {
    // SAFETY: the table is static and only ever accessed atomically.
    let top = unsafe { &page_map };
    let directory = below(below(top, page >> 39), page >> 30);
    if let Some(entry) = directory.0.get((page >> 21) as usize % 512)
        && entry.load(Ordering::Relaxed) == 0
    {
        entry.store(page | PRESENT_WRITABLE_USER | LARGE, Ordering::Relaxed);
    }
}

/// The table that an entry leads to; makes it when there is none.
fn below(table: &'static Table, index: u64) -> &'static Table {
    let Some(entry) = table.0.get(index as usize % 512) else {
        return table;
    };
    let value = entry.load(Ordering::Relaxed);
    if value == 0 {
        let new = Box::leak(Box::new(Table([const { AtomicU64::new(0) }; 512])));
        entry.store(
            (&raw const *new).expose_provenance() as u64 | PRESENT_WRITABLE_USER,
            Ordering::Relaxed,
        );
        return new;
    }
    let address = (value & ADDRESS) as usize;
    // SAFETY: entries of these levels lead to tables of `boot.s` or of this module, which live for ever.
    unsafe { &*with_exposed_provenance::<Table>(address) }
}
