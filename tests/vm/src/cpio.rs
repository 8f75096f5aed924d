//! The initramfs format (cpio "newc"), from a folder and from single files.
//!
//! One rule: what goes in is read from the host's file system, nothing is executed there.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An archive that grows in memory.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// An empty folder; parents must be added first.
    pub fn folder(&mut self, name: &str) {
        self.entry(name, DIRECTORY | 0o755, b"");
    }

    /// A file with this content.
    pub fn file(&mut self, name: &str, content: &[u8], executable: bool) {
        self.entry(
            name,
            REGULAR | if executable { 0o755 } else { 0o644 },
            content,
        );
    }

    /// Everything below `folder`, symbolic links as such.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn tree(&mut self, folder: &Path) -> io::Result<()> {
        self.below(folder, "")
    }

    fn below(&mut self, folder: &Path, prefix: &str) -> io::Result<()> {
        let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let kind = fs::symlink_metadata(&path)?;
            let mode = kind.permissions().mode() & 0o7777;
            if kind.is_symlink() {
                self.entry(
                    &name,
                    SYMLINK | 0o777,
                    fs::read_link(&path)?.as_os_str().as_bytes(),
                );
            } else if kind.is_dir() {
                self.entry(&name, DIRECTORY | mode, b"");
                self.below(&path, &format!("{name}/"))?;
            } else if kind.is_file() {
                self.entry(&name, REGULAR | mode, &fs::read(&path)?);
            }
        }
        Ok(())
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(mut self, path: &Path) -> io::Result<()> {
        self.entries = u32::MAX - 1;
        self.entry("TRAILER!!!", 0, b"");
        fs::write(path, self.bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries = self.entries.wrapping_add(1);
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ]
        .map(|f| format!("{f:08x}"));
        self.bytes.extend_from_slice(b"070701");
        self.bytes.extend_from_slice(fields.concat().as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn an_archive_ends_with_its_trailer_and_is_padded() {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = Archive::default();
        archive.folder("etc");
        archive.file("etc/name", b"abc", false);
        let path = folder.path().join("a.cpio");
        archive.write(&path).unwrap();
        let bytes = std::fs::read(path).unwrap();
        assert!(bytes.starts_with(b"070701"));
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }
}
