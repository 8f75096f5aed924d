//! What a ring may not be asked to do, each thing asked of it as somebody would who has taken over the process.
#![expect(unsafe_code, reason = "entries that no engine would make")]

use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use io_uring::types::Fd;

use super::*;
use crate::BlockSpec;

fn rings(count: u16) -> Option<(Image, Rings)> {
    let image = Image::open(&BlockSpec::memory(1 << 20)).expect("an image");
    match Rings::make(&image, count, 8) {
        Ok(rings) => Some((image, rings)),
        Err(errno) => {
            println!("SKIPS ITSELF rings: no io_uring here ({errno})");
            None
        }
    }
}

/// What the kernel answers to `entry`.
fn ask(ring: &mut Ring, entry: &squeue::Entry) -> i32 {
    // SAFETY: the tests' entries point to what outlives the call.
    unsafe { ring.ring.submission().push(entry) }.expect("room");
    ring.ring.submit_and_wait(1).expect("the ring works");
    ring.ring.completion().next().expect("an answer").result()
}

#[test]
fn no_file_and_no_socket_comes_of_a_ring() {
    let Some((_image, rings)) = rings(1) else {
        return;
    };
    let mut ring = rings.take().expect("a ring");
    let path = c"/etc/passwd";
    let open = opcode::OpenAt::new(Fd(libc::AT_FDCWD), path.as_ptr()).build();
    let socket = opcode::Socket::new(libc::AF_INET, libc::SOCK_DGRAM, 0).build();
    let pair = std::os::unix::net::UnixStream::pair().expect("a pair");
    let mut message = [0u8; 8];
    let other = Fd(pair.0.as_raw_fd());
    let receive = opcode::Recv::new(other, message.as_mut_ptr(), 8).build();
    let close = opcode::Close::new(other).build();
    for (what, entry) in [
        ("open", open),
        ("socket", socket),
        ("receive", receive),
        ("close", close),
        ("no operation", opcode::Nop::new().build()),
    ] {
        assert_eq!(ask(&mut ring, &entry), -libc::EACCES, "{what}");
    }
}

#[test]
fn no_file_but_the_image_is_read_and_no_other_is_registered() {
    let Some((_image, rings)) = rings(1) else {
        return;
    };
    let mut ring = rings.take().expect("a ring");
    let other = std::fs::File::open("/etc/passwd").expect("a file");
    let mut bytes = [0u8; 16];
    let buffer = [libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }];
    let read = opcode::Readv::new(Fd(other.as_raw_fd()), buffer.as_ptr(), 1).build();
    assert_eq!(ask(&mut ring, &read), -libc::EACCES);
    assert_eq!(bytes, [0; 16]);
    let image = opcode::Readv::new(IMAGE, buffer.as_ptr(), 1).build();
    assert_eq!(ask(&mut ring, &image), 16);
    let linked = opcode::Readv::new(IMAGE, buffer.as_ptr(), 1).build();
    let linked = linked.flags(squeue::Flags::ASYNC);
    assert_eq!(ask(&mut ring, &linked), -libc::EACCES);
    let submitter = ring.ring.submitter();
    let changed = submitter.register_files_update(0, &[other.as_raw_fd()]);
    assert_eq!(
        changed.map_err(|error| error.raw_os_error()),
        Err(Some(libc::EACCES))
    );
    let freed = submitter.register_restrictions(&mut [Restriction::sqe_op(opcode::OpenAt::CODE)]);
    assert!(freed.is_err(), "restrictions are for good");
}

#[test]
fn a_ring_serves_one_thread_after_the_other() {
    let Some((_image, rings)) = rings(1) else {
        return;
    };
    let rings = std::sync::Arc::new(rings);
    for _ in 0..3 {
        let theirs = std::sync::Arc::clone(&rings);
        let thread = std::thread::spawn(move || {
            let mut ring = theirs.take().expect("the one before has given it back");
            let sync = opcode::Fsync::new(IMAGE).build();
            assert_eq!(ask(&mut ring, &sync), 0);
            theirs.give_back(ring);
        });
        thread.join().expect("its end");
    }
    let _ring = rings.take().expect("a ring");
    assert!(rings.take().is_none());
}

#[test]
fn unrestricted_rings_do_what_is_refused_above() {
    // What the tests above rest on: that the kernel would do it.
    let Ok(ring) = IoUring::new(2) else {
        println!("SKIPS ITSELF rings: no io_uring here");
        return;
    };
    let event = EventFd::new().expect("an eventfd");
    let mut ring = Ring { ring, event };
    let path = c"/etc/passwd";
    let open = opcode::OpenAt::new(Fd(libc::AT_FDCWD), path.as_ptr()).build();
    let fd = ask(&mut ring, &open);
    assert!(fd > 2, "{fd}");
    // SAFETY: a descriptor that was just opened for us.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}
