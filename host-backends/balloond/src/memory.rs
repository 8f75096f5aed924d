//! What a restarted daemon has to know of a guest, in a file.
//!
//! Rule: one write of one line, so that a daemon that dies leaves the old line or the new one; a line that makes no sense
//! is none.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use balloon_backend::BalloonDevice;
use balloon_backend::Policy;
use clap::ValueEnum;

const WORD: &str = "paravane-balloon-1";
/// Bytes of the line, which are always written.
const LINE: usize = 80;

/// The file of one guest; open before the sandbox is entered.
#[derive(Debug)]
pub struct Memory {
    file: File,
    written: String,
    /// Who moved the target when the last process ended, if it said so.
    pub policy: Option<Policy>,
}

fn line(device: &BalloonDevice, policy: Policy) -> String {
    let policy = policy.to_possible_value();
    let policy = policy.as_ref().map_or("-", |value| value.get_name());
    let actual = device
        .actual()
        .map_or("-".to_owned(), |bytes| bytes.to_string());
    format!(
        "{:<width$}\n",
        format!("{WORD} {} {actual} {policy}", device.target()),
        width = LINE - 1
    )
}

/// Target, size and policy.
fn parse(text: &str) -> Option<(u64, Option<u64>, Option<Policy>)> {
    let mut words = text.split_whitespace();
    if words.next() != Some(WORD) {
        return None;
    }
    let target = words.next()?.parse().ok()?;
    let actual = match words.next()? {
        "-" => None,
        bytes => Some(bytes.parse().ok()?),
    };
    // Lines of earlier versions end here.
    let policy = words.next();
    let policy = policy.and_then(|word| Policy::from_str(word, false).ok());
    Some((target, actual, policy))
}

impl Memory {
    /// Opens `path`, and lets `device` take up what stands there.
    ///
    /// # Errors
    /// The file cannot be opened or made, or holds something else.
    pub fn open(path: &Path, device: &BalloonDevice) -> std::io::Result<Self> {
        // A host that crashed may leave a first line that was never written out.
        let empty = |head: &[u8]| head.len() <= LINE && head.iter().all(|byte| *byte == 0);
        let ours = |head: &[u8]| head.starts_with(WORD.as_bytes()) || empty(head);
        let file = host_os::output_file::open(path, "state of a balloon", ours)?;
        let mut bytes = [0; LINE];
        let read = file.read_at(&mut bytes, 0)?;
        let text = String::from_utf8_lossy(bytes.get(..read).unwrap_or_default()).into_owned();
        let mut policy = None;
        match parse(&text) {
            Some((target, actual, remembered)) => {
                policy = remembered;
                device.recall(target, actual);
                tracing::info!(path = %path.display(), target, actual, "took up where the last process was");
            }
            None if text.is_empty() => {}
            None => {
                tracing::warn!(path = %path.display(), "the state of the balloon is damaged, it starts anew")
            }
        }
        Ok(Self {
            file,
            written: String::new(),
            policy,
        })
    }

    /// Writes what changed.
    pub fn keep(&mut self, device: &BalloonDevice, policy: Policy) {
        let line = line(device, policy);
        if line == self.written {
            return;
        }
        match self.file.write_all_at(line.as_bytes(), 0) {
            Ok(()) => self.written = line,
            Err(error) => tracing::warn!(%error, "cannot keep the state of a balloon"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use balloon_backend::BalloonSpec;

    fn device() -> std::sync::Arc<BalloonDevice> {
        BalloonDevice::new(BalloonSpec::default()).expect("a balloon")
    }

    #[test]
    fn target_and_actual_are_taken_up_again() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("state");
        for (target, actual) in [
            (1 << 20, None),
            (u64::from(u32::MAX) << 12, Some(4096)),
            (0, Some(0)),
        ] {
            let first = device();
            let mut memory = Memory::open(&path, &first).expect("a file");
            first.recall(target, actual);
            memory.keep(&first, Policy::Manual);
            let second = device();
            let memory = Memory::open(&path, &second).expect("a file");
            assert_eq!(memory.policy, Some(Policy::Manual));
            assert_eq!((second.target(), second.actual()), (target, actual));
            assert_eq!(std::fs::metadata(&path).expect("a file").len(), LINE as u64);
        }
    }

    #[test]
    fn a_line_without_a_policy_or_with_an_unknown_one_still_has_a_target() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("state");
        for text in ["paravane-balloon-1 4096 -", "paravane-balloon-1 4096 - x"] {
            std::fs::write(&path, text).expect("a file");
            let device = device();
            let memory = Memory::open(&path, &device).expect("a file");
            assert_eq!((device.target(), memory.policy), (4096, None), "{text:?}");
        }
    }

    #[test]
    fn lines_that_make_no_sense_are_none() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("state");
        for text in [
            "paravane-balloon-1",
            "paravane-balloon-1 5",
            "paravane-balloon-1 x -",
            "paravane-balloon-1\0\0",
            "\0\0",
        ] {
            std::fs::write(&path, text).expect("a file");
            let device = device();
            Memory::open(&path, &device).expect("a file");
            assert_eq!((device.target(), device.actual()), (0, None), "{text:?}");
        }
    }

    #[test]
    fn a_file_that_holds_something_else_is_refused_and_stays() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("disk.raw");
        for text in ["x", "\0x", "paravane-balloon-2 1 1", " paravane-balloon-1"] {
            std::fs::write(&path, text).expect("a file");
            let refused = Memory::open(&path, &device()).expect_err("it is not ours");
            assert!(refused.to_string().contains("move it away"), "{refused}");
            assert_eq!(std::fs::read_to_string(&path).expect("a file"), text);
        }
    }
}
