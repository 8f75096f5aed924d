//! What `set` changed, in a file, for the daemon that is started next.
//!
//! Rule: one write of one record of fixed length, so that a daemon that dies leaves the old record or the new one; a record
//! that makes no sense is none.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of a record.
const RECORD: usize = 512;

/// Where a device's state is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[group(id = "state")]
pub struct StateSpec {
    /// File that keeps what `set` changed over a restart of the daemon; `paravane run` names one in the VM's runtime folder.
    #[arg(long, value_name = "FILE", help_heading = "Service")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_file: Option<PathBuf>,
}

impl StateSpec {
    /// Its keys in a device's table.
    pub const KEYS: [&str; 1] = ["state-file"];
}

/// The file of one device; open before the sandbox is entered.
#[derive(Debug)]
pub struct StateFile<T> {
    file: File,
    /// The word at the start of a record.
    word: String,
    written: Vec<u8>,
    content: PhantomData<fn(T) -> T>,
}

impl<T: Serialize + DeserializeOwned> StateFile<T> {
    /// Opens the file at `path`, or makes it, for the state of a `kind` of device, and reads what stands there; `older`
    /// reads lines of earlier versions.
    ///
    /// # Errors
    /// It cannot be opened or made, or holds something else.
    pub fn open(
        path: &Path,
        kind: &str,
        older: impl FnOnce(&str) -> Option<T>,
    ) -> io::Result<(Self, Option<T>)> {
        let family = format!("paravane-{kind}-");
        let word = format!("{family}2 ");
        // A host that crashed may leave a first record that was never written out.
        let empty = |head: &[u8]| head.iter().all(|byte| *byte == 0);
        let ours = |head: &[u8]| {
            let known = ["1", "2"].map(|version| format!("{family}{version}"));
            known.iter().any(|known| head.starts_with(known.as_bytes())) || empty(head)
        };
        let file = host_os::output_file::open(path, &format!("state of a {kind}"), ours)?;
        let mut bytes = [0; RECORD];
        let read = file.read_at(&mut bytes, 0)?;
        let text = String::from_utf8_lossy(bytes.get(..read).unwrap_or_default()).into_owned();
        let state = match text.strip_prefix(&word) {
            Some(json) => serde_json::from_str(json.trim_end()).ok(),
            None => older(&text),
        };
        if state.is_none() && !text.is_empty() {
            tracing::warn!(path = %path.display(), "the state of the {kind} is damaged, it starts anew");
        }
        let file = Self {
            file,
            word,
            written: Vec::new(),
            content: PhantomData,
        };
        Ok((file, state))
    }

    /// Writes `state`, if it is another than the last.
    pub fn keep(&mut self, state: &T) {
        let json = match serde_json::to_string(state) {
            Ok(json) => json,
            Err(error) => return tracing::warn!(%error, "cannot keep the state of a device"),
        };
        let width = RECORD - 1;
        let record = format!("{:<width$}\n", format!("{}{json}", self.word)).into_bytes();
        if record == self.written {
            return;
        }
        match self.file.write_all_at(&record, 0) {
            Ok(()) => self.written = record,
            Err(error) => tracing::warn!(%error, "cannot keep the state of a device"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Lamp {
        watts: u64,
    }

    fn open(path: &Path) -> io::Result<(StateFile<Lamp>, Option<Lamp>)> {
        StateFile::open(path, "lamp", |line| {
            let watts = line.strip_prefix("paravane-lamp-1 ")?.parse().ok()?;
            Some(Lamp { watts })
        })
    }

    #[test]
    fn what_was_kept_is_there_again_and_so_is_what_an_earlier_version_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        assert_eq!(open(&path).unwrap().1, None);
        for watts in [u64::MAX, 0, 7] {
            let (mut file, _) = open(&path).unwrap();
            file.keep(&Lamp { watts });
            assert_eq!(open(&path).unwrap().1, Some(Lamp { watts }));
            let len = std::fs::metadata(&path).unwrap().len();
            assert_eq!(len, RECORD as u64);
        }
        std::fs::write(&path, "paravane-lamp-1 5").unwrap();
        assert_eq!(open(&path).unwrap().1, Some(Lamp { watts: 5 }));
    }

    #[test]
    fn records_that_make_no_sense_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        for text in [
            "paravane-lamp-2 ",
            "paravane-lamp-2 {",
            "paravane-lamp-2 {\"watts\":-1}",
            "paravane-lamp-1",
            "\0\0",
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(open(&path).unwrap().1, None, "{text:?}");
        }
    }

    #[test]
    fn a_file_that_holds_something_else_is_refused_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        for text in [
            "x",
            "\0x",
            "paravane-lamp-3 {}",
            "paravane-disk-2 {}",
            " paravane-lamp-2",
        ] {
            std::fs::write(&path, text).unwrap();
            let refused = open(&path).unwrap_err();
            assert!(refused.to_string().contains("move it away"), "{refused}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
