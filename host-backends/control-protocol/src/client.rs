//! The asking end.
//!
//! Rule: one request, one connection; waiting and the answer's length are bounded.

use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::Command;
use crate::Error;
use crate::Response;

/// Longest answer, in bytes.
const MAX_ANSWER: u64 = 16 << 20;

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The request was carried out.
    Value(Value),
    /// It was not, and this is why.
    Error(String),
    /// Text that is no JSON.
    Text(String),
}

/// Sends `command` to the control socket `path` and waits for the answer, `patience` at each step.
///
/// # Errors
/// Nobody answers, or not in this protocol.
pub fn ask(path: &Path, command: &Command, patience: Duration) -> Result<Reply, Error> {
    let mut stream = UnixStream::connect(path).map_err(|source| Error::Connect {
        path: path.to_owned(),
        source,
    })?;
    let answer = talk(&mut stream, command, patience).map_err(|source| Error::Talk {
        path: path.to_owned(),
        source,
    })?;
    understand(answer).ok_or_else(|| Error::Answer {
        path: path.to_owned(),
    })
}

fn talk(stream: &mut UnixStream, command: &Command, patience: Duration) -> std::io::Result<String> {
    let line = serde_json::to_string(command)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    writeln!(stream, "{line}")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn understand(answer: String) -> Option<Reply> {
    if answer.is_empty() {
        return None;
    }
    if !answer.starts_with('{') {
        return Some(Reply::Text(answer));
    }
    match serde_json::from_str(answer.lines().next()?).ok()? {
        Response::Ok(value) => Some(Reply::Value(value)),
        Response::Error(error) => Some(Reply::Error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_are_understood_or_refused() {
        let understood = |text: &str| understand(text.to_owned());
        assert_eq!(understood("{\"ok\":1}\n"), Some(Reply::Value(json!(1))));
        assert_eq!(
            understood("{\"error\":\"no\"}\n"),
            Some(Reply::Error("no".to_owned()))
        );
        assert_eq!(
            understood("# TYPE a counter\n"),
            Some(Reply::Text("# TYPE a counter\n".to_owned()))
        );
        for text in ["", "{}", "{\"error\":1}", "{", "{\"o"] {
            assert_eq!(understood(text), None, "{text}");
        }
    }

    #[test]
    fn a_stale_socket_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stale");
        drop(crate::bind_private(&path).unwrap());
        let error = ask(&path, &Command::Status, Duration::from_secs(1)).unwrap_err();
        assert!(matches!(error, Error::Connect { .. }));
        assert!(error.to_string().contains("stale"));
    }

    #[test]
    fn a_silent_server_is_not_waited_for_longer_than_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("silent");
        let _listener = crate::bind_private(&path).unwrap();
        let error = ask(&path, &Command::Status, Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, Error::Talk { .. }));
    }
}
