//! Recordings, read back by code of our own and, where there is one, by tcpdump.
//!
//! Rule: the reader checks every length that the writer wrote.

use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::process::Command;
use std::time::Duration;

use super::Capture;
use super::Captured;
use super::Direction;

const TIME: Duration = Duration::new(1_700_000_000, 123_456_789);
const NONE: &[u8] = &[];

/// A record as the reader sees it: direction, nanoseconds, bytes, length on the wire.
type Record = (u32, u64, Vec<u8>, usize);

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn read(mut file: &File) -> Vec<Record> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    let mut records = Vec::new();
    let (mut at, mut kinds) = (0, Vec::new());
    while at < bytes.len() {
        let (kind, length) = (word(&bytes, at), word(&bytes, at + 4) as usize);
        assert_eq!(length % 4, 0);
        assert_eq!(
            word(&bytes, at + length - 4) as usize,
            length,
            "both lengths"
        );
        kinds.push(kind);
        if kind == 6 {
            let block = &bytes[at..at + length];
            let time = u64::from(word(block, 12)) << 32 | u64::from(word(block, 16));
            let (kept, whole) = (word(block, 20) as usize, word(block, 24) as usize);
            let options = 28 + kept.next_multiple_of(4);
            assert_eq!(&block[options..options + 4], &[2, 0, 4, 0]);
            let way = word(block, options + 4);
            records.push((way, time, block[28..28 + kept].to_vec(), whole));
        }
        at += length;
    }
    assert_eq!(at, bytes.len());
    assert_eq!(kinds[..2], [0x0a0d_0d0a, 1]);
    records
}

fn capture(snap_length: usize, limit: u64) -> (Capture, File) {
    let file = tempfile::tempfile().unwrap();
    let own = file.try_clone().unwrap();
    (
        Capture::to_file(own, snap_length, limit, false).unwrap(),
        file,
    )
}

#[test]
fn frames_are_recorded_with_time_and_direction() {
    let (capture, file) = capture(1000, 1 << 20);
    capture.record(Direction::Sent, TIME, &[1; 60], NONE);
    capture.record(Direction::Received, TIME * 2, &[2; 14], &[3u8; 7][..]);
    assert!(read(&file).is_empty(), "gathered");
    capture.flush();
    let second = [vec![2; 14], vec![3; 7]].concat();
    let nanoseconds = u64::try_from(TIME.as_nanos()).unwrap();
    assert_eq!(
        read(&file),
        [
            (2, nanoseconds, vec![1; 60], 60),
            (1, nanoseconds * 2, second, 21)
        ]
    );
    assert_eq!(capture.captured(), Captured { frames: 2, lost: 0 });
}

#[test]
fn the_snap_length_cuts_head_and_tail() {
    for snap in [1, 13, 14, 15, 16, 40] {
        let (capture, file) = capture(snap, 1 << 20);
        capture.record(Direction::Sent, TIME, &[7; 14], &[8u8; 100][..]);
        drop(capture);
        let records = read(&file);
        let whole = [vec![7; 14], vec![8; 100]].concat();
        assert_eq!((&records[0].2[..], records[0].3), (&whole[..snap], 114));
    }
}

#[test]
fn recording_is_turned_on_and_off_while_frames_pass() {
    let (capture, file) = capture(100, 1 << 20);
    capture.set(false);
    capture.record(Direction::Sent, TIME, &[1; 20], NONE);
    capture.set(true);
    capture.record(Direction::Sent, TIME, &[2; 20], NONE);
    capture.set(false);
    capture.record(Direction::Sent, TIME, &[3; 20], NONE);
    let frames: Vec<_> = read(&file).into_iter().map(|record| record.2[0]).collect();
    assert_eq!(frames, [2], "written when it is turned off");
}

#[test]
fn a_full_file_stays_whole_and_what_is_lost_is_counted() {
    let (capture, file) = capture(100, 2000);
    for _ in 0..100 {
        capture.record(Direction::Sent, TIME, &[1; 100], NONE);
    }
    let captured = capture.captured();
    drop(capture);
    assert_eq!(read(&file).len() as u64, captured.frames);
    assert_eq!(captured.frames + captured.lost, 100);
    assert!(captured.frames >= 10 && file.metadata().unwrap().len() <= 2000);
}

#[test]
fn a_file_that_cannot_be_written_ends_the_recording_only() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    assert!(Capture::to_file(full, 100, 1 << 20, false).is_err());
    let (capture, file) = capture(65_535, 1 << 30);
    // Nothing more can be written through this descriptor than a closed pipe takes.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    {
        let mut output = capture.file.lock().unwrap();
        output.file = std::os::fd::OwnedFd::from(writer).into();
    }
    for _ in 0..20 {
        capture.record(Direction::Sent, TIME, &[1; 30_000], NONE);
    }
    let captured = capture.captured();
    assert!(captured.lost >= 10, "{captured:?}");
    assert!(read(&file).is_empty());
}

#[test]
fn workers_record_into_one_file() {
    let (capture, file) = capture(200, 1 << 26);
    std::thread::scope(|scope| {
        for worker in 0..4u8 {
            let capture = &capture;
            scope.spawn(move || {
                for _ in 0..2000 {
                    capture.record(Direction::Sent, TIME, &[worker; 20], &[worker; 100][..]);
                }
            });
        }
    });
    drop(capture);
    let records = read(&file);
    assert_eq!(records.len(), 8000);
    assert!(
        records
            .iter()
            .all(|record| record.2 == vec![record.2[0]; 120])
    );
}

#[test]
fn tcpdump_reads_a_recording() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames.pcapng");
    let capture = Capture::create(&path, false).unwrap();
    let arp = [
        &[0xff; 6][..],
        &[2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &[2, 0, 0, 0, 0, 1],
        &[10, 0, 0, 1],
        &[0; 6],
        &[10, 0, 0, 2],
    ]
    .concat();
    capture.record(Direction::Sent, TIME, &arp, NONE);
    drop(capture);
    let output = Command::new("tcpdump")
        .args(["-nn", "-tt", "--nano", "-r"])
        .arg(&path)
        .output();
    let Ok(output) = output else {
        println!("SKIPS ITSELF tcpdump_reads_a_recording: no tcpdump");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("1700000000.123456789"), "{output:?}");
    assert!(
        text.contains("who-has 10.0.0.2 tell 10.0.0.1"),
        "{output:?}"
    );
}

#[test]
fn an_earlier_recording_is_replaced_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames");
    for _ in 0..2 {
        let capture = Capture::create(&path, false).unwrap();
        capture.record(Direction::Sent, TIME, b"frame", NONE);
        drop(capture);
        assert_eq!(read(&File::open(&path).unwrap()).len(), 1);
    }
    let disk = folder.path().join("disk");
    std::fs::write(&disk, vec![1; 4096]).unwrap();
    Capture::create(&disk, false).unwrap_err();
    assert_eq!(std::fs::read(&disk).unwrap(), vec![1; 4096]);
}

#[test]
fn a_pipe_that_nobody_reads_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let refused = Capture::create(&fifo, false).unwrap_err();
    assert!(refused.to_string().contains("regular file"), "{refused}");
}
