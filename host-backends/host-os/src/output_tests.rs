//! A sink whose reader reads, sleeps, is gone, or is a full disk.

use super::*;
use std::io::Read;
use std::os::fd::OwnedFd;

fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    (File::from(reader), writer)
}

fn read_some(reader: &mut File, least: usize) -> String {
    let mut all = Vec::new();
    while all.len() < least {
        let mut some = vec![0; 64 << 10];
        let count = reader.read(&mut some).expect("bytes");
        all.extend_from_slice(&some[..count]);
    }
    String::from_utf8(all).expect("text")
}

#[test]
fn a_line_is_written_whole_and_nothing_is_counted() {
    let (mut reader, writer) = pipe();
    let mut sink = Sink::new();
    sink.deliver(writer.as_fd(), b"one\n");
    assert_eq!(read_some(&mut reader, 4), "one\n");
    assert_eq!(sink.lost, 0);
}

#[test]
fn a_reader_that_is_gone_costs_the_lines_and_nothing_else() {
    let (reader, writer) = pipe();
    drop(reader);
    let mut sink = Sink::new();
    for _ in 0..3 {
        sink.deliver(writer.as_fd(), b"unheard\n");
    }
    assert_eq!(sink.lost, 3);
}

#[test]
fn a_full_disk_costs_the_lines_and_nothing_else() {
    let full = File::options()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let mut sink = Sink::new();
    sink.deliver(full.as_fd(), b"unheard\n");
    assert_eq!(sink.lost, 1);
}

#[test]
fn a_reader_that_sleeps_holds_nobody_up_and_hears_later_what_it_missed() {
    let (mut reader, writer) = pipe();
    let mut sink = Sink::new();
    let line = [b'x'; 1000];
    let mut sent = 0;
    while sink.lost < 5 {
        sink.deliver(writer.as_fd(), &line);
        sent += 1;
        assert!(sent < 10_000, "a pipe has an end");
    }
    let before = (sent - 5) * line.len();
    assert!(!read_some(&mut reader, before).contains('('));
    sink.deliver(writer.as_fd(), b"after\n");
    let heard = read_some(&mut reader, 1);
    assert!(
        heard.contains("(5 lines before this one were lost") && heard.ends_with("after\n"),
        "{heard}"
    );
    assert_eq!(sink.lost, 0);
}

#[test]
fn a_closed_descriptor_costs_the_lines_and_nothing_else() {
    // Nothing but an error comes of a descriptor that is open for reading only.
    let (reader, _writer) = pipe();
    let mut sink = Sink::new();
    sink.deliver(reader.as_fd(), b"unheard\n");
    assert_eq!(sink.lost, 1);
}

#[test]
fn a_socket_that_nobody_reads_holds_nobody_up() {
    let (one, _two) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let mut sink = Sink {
        way: Way::Socket,
        ..Sink::new()
    };
    while sink.lost < 2 {
        sink.deliver(one.as_fd(), &[b'x'; 1000]);
    }
}
