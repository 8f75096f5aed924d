//! What the host says of its memory.
//!
//! Rule: every file is open before the sandbox is entered and is read from its start each time; a file that is missing or
//! makes no sense is a figure that is not known.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

use crate::policy::Host;

const MEMINFO: &str = "/proc/meminfo";
const PRESSURE: &str = "/proc/pressure/memory";
/// Tell when some task waited for memory during 200 ms of 2 s; the window that needs no privilege since Linux 6.5.
const TRIGGER: &[u8] = b"some 200000 2000000\0";

/// Open files of the host.
#[derive(Debug)]
pub struct HostFiles {
    meminfo: Option<File>,
    pressure: Option<File>,
    /// Readable out of band when there was pressure.
    alarm: Option<File>,
    /// Limit and use of the control group whose memory the guests are.
    group: Option<(File, File)>,
}

fn open(path: &Path) -> Option<File> {
    match File::open(path) {
        Ok(file) => Some(file),
        Err(error) => {
            tracing::info!(path = %path.display(), %error, "a figure of the host is not known");
            None
        }
    }
}

fn trigger() -> Option<File> {
    let mut file = File::options().read(true).write(true).open(PRESSURE).ok()?;
    match file.write_all(TRIGGER) {
        Ok(()) => Some(file),
        Err(error) => {
            tracing::info!(%error, "the kernel will not tell of pressure, its figures are read each second");
            None
        }
    }
}

impl HostFiles {
    /// Opens what there is; `group` is a directory such as `/sys/fs/cgroup/machine.slice`.
    ///
    /// # Errors
    /// The group has no limit to read: whoever named it relies on that.
    pub fn open(group: Option<&Path>) -> Result<Self, String> {
        let file = |path: PathBuf| {
            File::open(&path).map_err(|error| {
                let path = path.display();
                format!("cannot read the limit of the control group, {path}: {error} (version 2, below /sys/fs/cgroup?)")
            })
        };
        let group = match group {
            Some(path) => Some((
                file(path.join("memory.max"))?,
                file(path.join("memory.current"))?,
            )),
            None => None,
        };
        Ok(Self {
            meminfo: open(Path::new(MEMINFO)),
            pressure: open(Path::new(PRESSURE)),
            alarm: trigger(),
            group,
        })
    }

    /// The descriptor to wait on, out of band, for pressure.
    pub fn alarm(&self) -> Option<BorrowedFd<'_>> {
        self.alarm.as_ref().map(File::as_fd)
    }

    /// The figures now.
    pub fn read(&self, alarm: bool) -> Host {
        let memory = self
            .meminfo
            .as_ref()
            .and_then(text)
            .and_then(|text| available(&text));
        let group = self.group.as_ref().and_then(|(limit, used)| {
            let limit: u64 = text(limit)?.trim().parse().ok()?;
            let used: u64 = text(used)?.trim().parse().ok()?;
            Some(limit.saturating_sub(used))
        });
        let available = match (memory, group) {
            (Some(memory), Some(group)) => Some(memory.min(group)),
            (memory, group) => memory.or(group),
        };
        Host {
            available,
            pressure: self
                .pressure
                .as_ref()
                .and_then(text)
                .and_then(|text| some_of_ten(&text)),
            alarm,
        }
    }

    /// All memory of the host, in bytes.
    pub fn total(&self) -> Option<u64> {
        self.meminfo
            .as_ref()
            .and_then(text)
            .and_then(|text| kilobytes(&text, "MemTotal:"))
    }
}

fn text(file: &File) -> Option<String> {
    let mut bytes = [0; 4096];
    let read = file.read_at(&mut bytes, 0).ok()?;
    Some(String::from_utf8_lossy(bytes.get(..read)?).into_owned())
}

/// A line of /proc/meminfo, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

fn available(text: &str) -> Option<u64> {
    kilobytes(text, "MemAvailable:")
}

/// `avg10` of the line `some` of /proc/pressure/memory, in percent.
fn some_of_ten(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let word = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("avg10="))?;
    word.parse()
        .ok()
        .filter(|share: &f64| (0.0..=100.0).contains(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_the_kernel_are_read() {
        let text = "MemTotal:       24684084 kB\nMemFree:        20397012 kB\nMemAvailable:   23729704 kB\n";
        assert_eq!(available(text), Some(23_729_704 << 10));
        assert_eq!(kilobytes(text, "MemTotal:"), Some(24_684_084 << 10));
        let text = "some avg10=1.53 avg60=0.87 avg300=0.19 total=58761459\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(some_of_ten(text), Some(1.53));
    }

    #[test]
    fn figures_that_make_no_sense_are_not_known() {
        for text in [
            "",
            "MemAvailable:",
            "MemAvailable: x kB",
            "MemAvailable: 99999999999999999 kB",
            "\0",
        ] {
            assert_eq!(available(text), None, "{text:?}");
        }
        for text in [
            "",
            "some",
            "some avg10=x",
            "some avg10=NaN",
            "some avg10=1e9",
            "full avg10=1.0",
        ] {
            assert_eq!(some_of_ten(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_control_groups_limit_counts_when_it_is_nearer() {
        let group = tempfile::tempdir().expect("a directory");
        std::fs::write(group.path().join("memory.max"), "3000000\n").expect("a file");
        std::fs::write(group.path().join("memory.current"), "1000000\n").expect("a file");
        let files = HostFiles::open(Some(group.path())).expect("a group");
        assert_eq!(files.read(false).available, Some(2_000_000));
        std::fs::write(group.path().join("memory.current"), "4000000\n").expect("a file");
        assert_eq!(files.read(false).available, Some(0));
        std::fs::write(group.path().join("memory.max"), "max\n").expect("a file");
        assert_ne!(files.read(false).available, Some(0));
        assert!(files.read(true).alarm);
    }

    #[test]
    fn a_control_group_without_a_limit_to_read_is_refused() {
        let empty = tempfile::tempdir().expect("a directory");
        for path in [Path::new("/nonexistent"), empty.path()] {
            let refused = HostFiles::open(Some(path)).expect_err("no limit");
            assert!(refused.contains("memory.max"), "{refused}");
        }
        std::fs::write(empty.path().join("memory.max"), "max\n").expect("a file");
        let refused = HostFiles::open(Some(empty.path())).expect_err("no use");
        assert!(refused.contains("memory.current"), "{refused}");
    }
}
