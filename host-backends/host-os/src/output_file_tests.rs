//! Files of the operator's that must survive a slip of the keyboard.

use super::open;
use std::io::Read;
use std::path::Path;

fn refusal(path: &Path) -> String {
    let refused = open(path, "log", |head| head.starts_with(b"log"));
    refused.expect_err("it is not ours").to_string()
}

#[test]
fn a_new_file_an_empty_one_and_one_of_ours_are_taken() {
    let folder = tempfile::tempdir().expect("a directory");
    for (name, content) in [
        ("new", None),
        ("empty", Some("")),
        ("ours", Some("log of ours")),
    ] {
        let path = folder.path().join(name);
        if let Some(content) = content {
            std::fs::write(&path, content).expect("a file");
        }
        let mut file = open(&path, "log", |head| head.starts_with(b"log")).expect("a file");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("its content");
        assert_eq!(text, content.unwrap_or(""), "{name}: nothing is truncated");
    }
}

#[test]
fn a_file_of_others_stays_as_it_is() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("disk.raw");
    let disk = vec![7; 4096];
    std::fs::write(&path, &disk).expect("a file");
    let message = refusal(&path);
    assert!(message.contains("move it away"), "{message}");
    assert_eq!(std::fs::read(&path).expect("a file"), disk);
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let folder = tempfile::tempdir().expect("a directory");
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    for path in [fifo.as_path(), Path::new("/dev/null")] {
        assert!(refusal(path).contains("regular file"), "{}", path.display());
    }
    refusal(folder.path());
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/etc/passwd", &link).expect("a link");
    refusal(&link);
}
