//! Copies from and to memory that somebody else changes meanwhile: a guest, or a process that shares a file.
//!
//! Rule: no plain load or store of Rust's touches such a byte. The compiler believes that nobody else changes what those
//! touch: it may read twice what is written once in the source, and such a race has no meaning in the language. A few bytes
//! go by single instructions that it does not look into, each byte once. More go by the C library's memmove, called by an
//! address that it cannot see through, so that it makes nothing of what it knows about that function. To the language both
//! are foreign code, as the kernel and the guest are; to the machine they cost what a plain copy costs.
#![expect(unsafe_code, reason = "moves bytes by address")]

use std::ffi::c_void;

type Move = unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> *mut c_void;
type Fill = unsafe extern "C" fn(*mut c_void, i32, usize) -> *mut c_void;

static MOVE: Move = libc::memmove;
static FILL: Fill = libc::memset;

/// Most bytes that go without a call.
#[cfg(target_arch = "x86_64")]
const FEW: usize = 16;

/// Copies `len` bytes from `from` to `to`. Of what is written meanwhile any mixture may be seen; so it is where the two overlap.
///
/// # Safety
/// `len` bytes at `from` can be read, `len` bytes at `to` written, until the call returns. Memory that only this process
/// has may be among them if it is borrowed for that.
#[inline]
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if len <= FEW {
        // SAFETY: the caller's promise, passed on.
        return unsafe { few(from, to, len) };
    }
    // SAFETY: a static of this module. Volatile, so that the compiler does not know what is called.
    let call = unsafe { (&raw const MOVE).read_volatile() };
    // SAFETY: the caller's promise is what memmove(3) asks.
    unsafe { call(to.cast(), from.cast(), len) };
}

/// Writes `len` zeroes to `to`.
///
/// # Safety
/// `len` bytes at `to` can be written until the call returns.
#[inline]
pub unsafe fn zero(to: *mut u8, len: usize) {
    // SAFETY: as in `copy`.
    let call = unsafe { (&raw const FILL).read_volatile() };
    // SAFETY: the caller's promise is what memset(3) asks.
    unsafe { call(to.cast(), 0, len) };
}

/// Defines a function that copies one word of that many bytes, at any alignment, by two instructions.
macro_rules! word {
    ($name:ident, $register:ident, $width:literal, $size:literal) => {
        /// # Safety
        /// A word at `from` can be read, one at `to` written.
        #[cfg(target_arch = "x86_64")]
        #[inline]
        unsafe fn $name(from: *const u8, to: *mut u8) {
            // SAFETY: the caller's promise; nothing but the word at `to` and a register changes.
            unsafe {
                std::arch::asm!(
                    concat!("mov {word", $width, "}, ", $size, " ptr [{from}]"),
                    concat!("mov ", $size, " ptr [{to}], {word", $width, "}"),
                    word = out($register) _,
                    from = in(reg) from,
                    to = in(reg) to,
                    options(nostack, preserves_flags),
                );
            }
        }
    };
}

word!(move_8, reg, "", "qword");
word!(move_4, reg, ":e", "dword");
word!(move_2, reg, ":x", "word");
word!(move_1, reg_byte, "", "byte");

/// Copies up to 16 bytes, each once.
///
/// # Safety
/// As for [`copy`].
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn few(from: *const u8, to: *mut u8, len: usize) {
    let mut done = 0;
    while len - done >= 8 {
        // SAFETY: 8 bytes are left, which the caller promises.
        unsafe { move_8(from.wrapping_add(done), to.wrapping_add(done)) };
        done += 8;
    }
    if len & 4 != 0 {
        // SAFETY: the lower bits of the length say what is left: here at least 4 bytes.
        unsafe { move_4(from.wrapping_add(done), to.wrapping_add(done)) };
        done += 4;
    }
    if len & 2 != 0 {
        // SAFETY: as above, at least 2.
        unsafe { move_2(from.wrapping_add(done), to.wrapping_add(done)) };
        done += 2;
    }
    if len & 1 != 0 {
        // SAFETY: as above, the last one.
        unsafe { move_1(from.wrapping_add(done), to.wrapping_add(done)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_at_every_alignment_is_copied_whole_and_no_more() {
        let source: Vec<u8> = (1..=96).collect();
        for len in 0..=40 {
            for (skew, shift) in [(0, 0), (1, 0), (0, 1), (3, 5), (7, 2)] {
                let mut target = vec![0; 64];
                // SAFETY: both vectors hold the range.
                unsafe {
                    copy(
                        source.as_ptr().wrapping_add(skew),
                        target.as_mut_ptr().wrapping_add(shift),
                        len,
                    );
                }
                assert_eq!(target[shift..shift + len], source[skew..skew + len]);
                assert!(target[..shift].iter().all(|byte| *byte == 0));
                assert!(target[shift + len..].iter().all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn zeroes_go_where_they_should_and_no_further() {
        let mut target = vec![9; 64];
        // SAFETY: inside the vector.
        unsafe { zero(target.as_mut_ptr().wrapping_add(3), 50) };
        let expected = [vec![9; 3], vec![0; 50], vec![9; 11]].concat();
        assert_eq!(target, expected);
    }
}
