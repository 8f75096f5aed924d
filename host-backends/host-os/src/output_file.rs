//! Files that the operator names for output. One rule: what is there already and is not ours stays as it is, and nothing
//! that is named by mistake (a FIFO, a terminal, a device) holds the daemon up.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes at the start of a file by which it is known, at most.
const HEAD: usize = 512;

/// Opens the regular file `path` for reading and writing, or makes it, readable by its owner only. Its content stays.
///
/// `ours` is asked about the first bytes of a file that is not empty; `what` is the word for such a file.
///
/// # Errors
/// It cannot be opened, is no regular file, or holds something else; the message says the mend.
pub fn open(path: &Path, what: &str, ours: impl FnOnce(&[u8]) -> bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!(
            "it is no regular file, which {what} has to be: name another one"
        )));
    }
    let mut head = [0; HEAD];
    let read = file.read_at(&mut head, 0)?;
    match head.get(..read) {
        Some(head) if !head.is_empty() && !ours(head) => Err(io::Error::other(format!(
            "it exists and holds no {what}: move it away, or name another file"
        ))),
        _ => Ok(file),
    }
}

#[cfg(test)]
#[path = "output_file_tests.rs"]
mod tests;
