//! The serving end.
//!
//! Rule: a client can be slow, silent or wrong without holding up another client or what is controlled; lines, clients
//! and waiting are bounded.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;

use crate::Command;
use crate::Error;
use crate::Response;

/// Longest line, in bytes.
const MAX_LINE: u64 = 4096;
/// How much of a line that is too long is read away, in bytes.
const MAX_REST: u64 = 1 << 20;
/// Most clients at once.
const MAX_CLIENTS: usize = 8;
/// Name of the threads that serve: one of them panics for its client alone.
pub const THREAD: &str = "control";
/// How long a client may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a request comes to.
pub enum Answer {
    /// `{"ok":...}`
    Value(Value),
    /// `{"error":"..."}`, a sentence for the client.
    Error(String),
    /// Text as it is; the conversation ends with it, as nothing else marks its end.
    Text(String),
    /// `{"ok":...}`, and after it has gone out the act, which may end the process.
    Last(Value, Box<dyn FnOnce() + Send>),
}

impl From<Result<Value, String>> for Answer {
    fn from(result: Result<Value, String>) -> Self {
        match result {
            Ok(value) => Self::Value(value),
            Err(error) => Self::Error(error),
        }
    }
}

/// Answers requests, from any thread.
pub trait Answers: Send + Sync {
    /// What `command` comes to.
    fn answer(&self, command: Command) -> Answer;
}

/// Serves `listener` in a thread of its own until the process ends.
///
/// # Errors
/// The thread cannot be started.
pub fn serve(listener: UnixListener, answers: Arc<dyn Answers>) -> Result<(), Error> {
    let clients = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => admit(stream, &answers, &clients),
                // Out of descriptors, for example: that passes.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a control client");
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
        }
    };
    spawn(accept)
}

fn spawn(body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let thread = std::thread::Builder::new()
        .name(THREAD.to_owned())
        .spawn(body);
    thread.map(drop).map_err(Error::Thread)
}

fn admit(mut stream: UnixStream, answers: &Arc<dyn Answers>, clients: &Arc<AtomicUsize>) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(PATIENCE));
    if clients.fetch_add(1, Ordering::AcqRel) >= MAX_CLIENTS {
        clients.fetch_sub(1, Ordering::AcqRel);
        let full = Response::Error("Too many clients: close one".to_owned());
        let _ = write_line(&mut stream, &full);
        return;
    }
    let (answers, place) = (Arc::clone(answers), Place(Arc::clone(clients)));
    let talk = move || {
        let _place = place;
        // A client that goes away in the middle is no trouble of ours.
        let _ = converse(&stream, answers.as_ref());
    };
    // A thread that cannot be started drops what it was given.
    let _ = spawn(talk);
}

/// A client's place among [`MAX_CLIENTS`], given back even if the answer panics.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn converse(stream: &UnixStream, answers: &dyn Answers) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader
            .by_ref()
            .take(MAX_LINE + 1)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if read as u64 > MAX_LINE {
            let long = Response::Error("The line is too long".to_owned());
            write_line(&mut writer, &long)?;
            // Unread bytes would turn our answer into a reset connection.
            std::io::copy(&mut reader.take(MAX_REST), &mut std::io::sink())?;
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        let answer = match Command::parse(text) {
            Ok(command) => answers.answer(command),
            Err(error) => Answer::Error(error),
        };
        match answer {
            Answer::Value(value) => write_line(&mut writer, &Response::Ok(value))?,
            Answer::Error(error) => write_line(&mut writer, &Response::Error(error))?,
            Answer::Text(text) => return writer.write_all(text.as_bytes()),
            Answer::Last(value, act) => {
                // The answer goes out while there still is a process.
                let told = write_line(&mut writer, &Response::Ok(value));
                act();
                return told;
            }
        }
    }
}

fn write_line(writer: &mut impl Write, response: &Response) -> std::io::Result<()> {
    writeln!(writer, "{}", serde_json::to_string(response)?)
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
