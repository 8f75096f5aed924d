//! The file that the serial port's output goes to. One rule: output is added to what is there, and only to text: a disk
//! image that is named by mistake stays as it is.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;

/// Bytes at the start of a file that tell text from other content.
const HEAD: u64 = 4096;

/// Opens `path` for output, or makes it; a terminal, or a FIFO that is read, will do as well.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    if holds_other_than_text(path)? {
        return Err(io::Error::other(
            "it exists and holds no text: move it away, or name another file",
        ));
    }
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENXIO) => io::Error::other("nobody reads this pipe: start its reader first"),
            _ => error,
        })?;
    // Later writes wait for their reader, as on standard output.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(file)
}

fn holds_other_than_text(path: &Path) -> io::Result<bool> {
    let kind = match std::fs::metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if kind.is_block_device() {
        return Ok(true);
    }
    if !kind.is_file() {
        return Ok(false);
    }
    let mut head = Vec::new();
    File::open(path)?.take(HEAD).read_to_end(&mut head)?;
    Ok(head.contains(&0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn output_is_added_to_that_of_earlier_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for _ in 0..2 {
            open(&path).unwrap().write_all(b"hello\n").unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"hello\nhello\n");
    }

    #[test]
    fn a_disk_image_named_by_mistake_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        let mut disk = vec![0xeb; 446];
        disk.resize(1 << 20, 0);
        std::fs::write(&path, &disk).unwrap();
        let message = open(&path).unwrap_err().to_string();
        assert!(message.contains("move it away"), "{message}");
        assert!(std::fs::read(&path).unwrap() == disk);
    }

    #[test]
    fn a_pipe_is_taken_only_with_a_reader_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let message = open(&path).unwrap_err().to_string();
        assert!(message.contains("reader"), "{message}");
        let mut options = OpenOptions::new();
        let reader = options.read(true).custom_flags(libc::O_NONBLOCK);
        let mut reader = reader.open(&path).unwrap();
        open(&path).unwrap().write_all(b"x").unwrap();
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }
}
