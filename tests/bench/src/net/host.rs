//! The host's side of a load.
//!
//! One rule: beside a daemon, which has a CPU to itself, the client and the host's side share the other, and take turns
//! in one thread, so that the scheduler's time slices are not what is measured; on the TAP itself each has its own CPU.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use anyhow::Context;
use anyhow::Result;

use super::flood::Flood;
use crate::cpu;

/// Bytes of one read or write of a TCP stream.
const CHUNK: usize = 256 << 10;

/// What the host does, a step at a time.
pub enum Work {
    /// Frames into the TAP.
    Flood(Flood),
    /// One end of a TCP stream.
    Stream(Box<Stream>),
}

/// The host's end of a TCP stream, which it reads or writes.
pub struct Stream {
    listener: TcpListener,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
    reads: bool,
}

impl Stream {
    /// Listens on the TAP's address; returns the port, too.
    pub fn listen(reads: bool) -> Result<(Self, u16)> {
        let listener =
            TcpListener::bind("10.77.0.1:0").context("listening on the TAP's address")?;
        let port = listener.local_addr()?.port();
        listener.set_nonblocking(true)?;
        let this = Self {
            listener,
            stream: None,
            buffer: vec![0; CHUNK],
            reads,
        };
        Ok((this, port))
    }

    fn step(&mut self) -> io::Result<usize> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let (stream, _) = self.listener.accept()?;
                stream.set_nonblocking(true)?;
                self.stream.insert(stream)
            }
        };
        if self.reads {
            stream.read(&mut self.buffer)
        } else {
            stream.write(&self.buffer)
        }
    }
}

impl Work {
    /// Does a bounded amount; `false` if there was nothing to do.
    pub fn step(&mut self) -> bool {
        match self {
            Self::Flood(flood) => {
                flood.step();
                true
            }
            Self::Stream(stream) => stream.step().is_ok_and(|bytes| bytes != 0),
        }
    }
}

/// The host's side, wherever it works.
pub enum Host {
    /// In the client's thread.
    Here(Work),
    /// In its own, on the other CPU.
    Beside { _thread: Thread },
}

/// A thread that works until it is dropped.
pub struct Thread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// In the client's thread if a daemon reads the TAP, else in one of its own.
    pub fn new(mut work: Work, served: bool) -> Self {
        if served {
            return Self::Here(work);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = stop.clone();
        let thread = std::thread::spawn(move || {
            let _ = cpu::pin(Some(cpu::pair().0));
            while !theirs.load(Ordering::Relaxed) {
                if !work.step() {
                    std::hint::spin_loop();
                }
            }
        });
        Self::Beside {
            _thread: Thread {
                stop,
                thread: Some(thread),
            },
        }
    }

    /// The client has nothing to do: its turn, if it is in the same thread.
    pub fn turn(&mut self) {
        if let Self::Here(work) = self {
            work.step();
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
