//! Copies into the spans that a caller lends.
//!
//! Rule: an entry of an `IoVecs` is memory of a guest that the caller holds, so that only its length is checked here.
#![expect(unsafe_code, reason = "copies to and from guest memory")]

use guest_memory::IoVecs;
use guest_memory::volatile;

/// Copies `parts`, one after the other, to the front of `into`, and what has no room there to `behind`; false, with
/// nothing copied, when they do not fit.
pub(crate) fn write(into: &IoVecs, behind: &mut [u8], parts: &[&[u8]]) -> bool {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    if total > into.total_len() + behind.len() {
        return false;
    }
    let mut spans = into.as_slice().iter();
    let mut target: *mut u8 = std::ptr::null_mut();
    let (mut room, mut over) = (0, 0);
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            if room == 0 {
                let Some(span) = spans.next() else {
                    break;
                };
                (target, room) = (span.iov_base.cast(), span.iov_len);
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(room));
            // SAFETY: the span has `room` bytes left at `target`, and `now` is no longer; guest memory is not ours.
            unsafe { volatile::copy(now.as_ptr(), target, now.len()) };
            target = target.wrapping_add(now.len());
            room -= now.len();
            rest = later;
        }
        if let Some(now) = behind.get_mut(over..over + rest.len()) {
            now.copy_from_slice(rest);
            over += rest.len();
        }
    }
    true
}

/// Appends the bytes of a span to `out`.
pub(crate) fn append(span: &libc::iovec, out: &mut Vec<u8>) {
    if span.iov_len == 0 {
        return;
    }
    out.reserve(span.iov_len);
    let end = out.len();
    let target = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
    let source = span.iov_base.cast::<u8>();
    // SAFETY: the span is mapped, the target has room for as many bytes and is ours. The guest may write meanwhile; any
    // mixture of bytes is a valid u8 sequence.
    unsafe { volatile::copy(source, target, span.iov_len) };
    // SAFETY: that many bytes behind the old end were written just now.
    unsafe { out.set_len(end + span.iov_len) };
}
