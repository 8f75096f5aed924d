//! What the server says to its operator. One rule: a line is found by the name of the device that it is about, for
//! tests run side by side.

use std::io;
use std::sync::Mutex;

use host_os::sync::lock;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps what is said from now on, warnings and worse.
pub fn listen() {
    // Only the first call of a process counts.
    let _ = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_ansi(false)
        .with_writer(|| Line)
        .try_init();
}

/// The lines so far that hold `name` and `words`.
pub fn heard(name: &str, words: &str) -> usize {
    let lines = lock(&LINES);
    let fits = |line: &&String| line.contains(name) && line.contains(words);
    lines.iter().filter(fits).count()
}

/// One line is one write.
struct Line;

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes).into_owned();
        lock(&LINES).push(line);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
