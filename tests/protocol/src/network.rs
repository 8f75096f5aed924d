//! Network cards behind real servers, and machines at them. One rule: the machine is friendly; what it must not do is
//! the tests' business.

use crate::DEADLINE;
use crate::Frontend;
use crate::Guest;
use crate::GuestQueue;
use crate::QueueShape;
use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use net_backend::Fabric;
use net_backend::NetDevice;
use net_backend::NetSpec;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;
use vhost_user_server::Options;
use vhost_user_server::Server;
use virtio_spec::feature;
use virtqueue::Segment;

/// Bytes of the header before each frame.
pub const HEADER: usize = 12;
/// Buffers that a receive queue is given at once.
const BUFFERS: u64 = 32;
/// A frame that a switch delivers is there this long after its sender's buffer came back.
const HEARD: Duration = Duration::from_millis(100);

/// A served network card.
pub struct ServedCard {
    /// The card.
    pub card: Arc<NetDevice>,
    /// Where it is served.
    pub path: PathBuf,
    server: Arc<Server>,
    thread: Option<JoinHandle<()>>,
}

impl ServedCard {
    /// Serves a card of `spec` on a socket of its own.
    pub fn new(name: &str, spec: NetSpec, fabric: &Fabric) -> Result<Self> {
        Self::at(crate::served::socket_path(), name, spec, fabric)
    }

    /// Serves a card of `spec` on this socket.
    pub fn at(path: PathBuf, name: &str, spec: NetSpec, fabric: &Fabric) -> Result<Self> {
        let card = NetDevice::open(name, spec, fabric)?;
        let options = Options {
            name: name.to_owned(),
            ..Options::default()
        };
        let server = Arc::new(Server::new(card.clone(), options)?);
        let listener = UnixListener::bind(&path)?;
        let theirs = server.clone();
        let thread = std::thread::spawn(move || {
            let _ = theirs.serve(&listener);
        });
        Ok(Self {
            card,
            server,
            path,
            thread: Some(thread),
        })
    }

    /// Connects a scripted front-end.
    pub fn connect(&self) -> Result<Frontend> {
        Frontend::new(UnixStream::connect(&self.path).context("connecting")?)
    }
}

impl ServedCard {
    /// Ends the server with all its connections; its socket is free again.
    pub fn shut_down(&mut self) {
        self.server.shutdown_handle().shutdown();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
            // Only once: a successor may listen there by the time this is dropped.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for ServedCard {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// A machine with a driver on some pairs of a card.
pub struct Machine {
    /// Its front-end.
    pub frontend: Frontend,
    /// Its memory.
    pub guest: Guest,
    /// Its receive queues.
    pub receive: Vec<GuestQueue>,
    /// Its transmit queues.
    pub transmit: Vec<GuestQueue>,
    lent: Vec<Vec<(u16, u64)>>,
    shape: QueueShape,
    free: u64,
}

impl Machine {
    /// Negotiates `features`, and sets up `pairs` queue pairs without enabling them.
    pub fn new(served: &ServedCard, features: u64, pairs: u16) -> Result<Self> {
        let shape = QueueShape { size: 64, features };
        let guest = Guest::new()?;
        let mut frontend = served.connect()?;
        frontend.negotiate(features)?;
        frontend.set_memory(&guest)?;
        let mut machine = Self {
            frontend,
            receive: Vec::new(),
            transmit: Vec::new(),
            lent: (0..pairs).map(|_| Vec::new()).collect(),
            shape,
            free: 64,
            guest,
        };
        for pair in 0..pairs {
            let receive = machine.describe(2 * pair)?;
            machine.receive.push(receive);
            let transmit = machine.describe(2 * pair + 1)?;
            machine.transmit.push(transmit);
        }
        Ok(machine)
    }

    /// Sets up queue `index`.
    pub fn describe(&mut self, index: u16) -> Result<GuestQueue> {
        let queue = self.guest.queue(index, self.shape)?;
        let packed = self.shape.features & feature::RING_PACKED != 0;
        let base = if packed { 0x8000_8000 } else { 0 };
        self.frontend.describe_queue(&queue, base)?;
        Ok(queue)
    }

    /// Enables or disables both queues of a pair; an enabled one has receive buffers.
    pub fn enable(&mut self, pair: usize, on: bool) -> Result<()> {
        if on {
            self.fill(pair)?;
        }
        let receive = self.receive.get(pair).context("a pair")?;
        self.frontend.enable(receive, on)?;
        let transmit = self.transmit.get(pair).context("a pair")?;
        self.frontend.enable(transmit, on)
    }

    /// Gives the receive queue of a pair its buffers.
    fn fill(&mut self, pair: usize) -> Result<()> {
        let queue = self.receive.get_mut(pair).context("a pair")?;
        let lent = self.lent.get_mut(pair).context("a pair")?;
        while (lent.len() as u64) < BUFFERS {
            let addr = self.guest.buffer(self.free);
            self.free += 1;
            let room = [Segment { addr, len: 4096 }];
            let id = queue.driver.add(&[], &room, None);
            lent.push((id.map_err(|error| anyhow::anyhow!("{error}"))?, addr));
        }
        queue.publish();
        Ok(())
    }

    /// Sends one frame on a pair, and waits until its buffer is back.
    pub fn send(&mut self, pair: usize, frame: &[u8]) -> Result<()> {
        let at = self.guest.buffer(pair as u64);
        self.guest.memory.write(at, &[0; HEADER])?;
        self.guest.memory.write(at + HEADER as u64, frame)?;
        let part = [Segment {
            addr: at,
            len: u32::try_from(HEADER + frame.len())?,
        }];
        let queue = self.transmit.get_mut(pair).context("a pair")?;
        let id = queue.driver.add(&part, &[], None);
        let id = id.map_err(|error| anyhow::anyhow!("{error}"))?;
        queue.publish();
        ensure!(queue.wait(1)? == [(id, 0)], "the frame's buffer comes back");
        Ok(())
    }

    /// Sends `frame` on a pair until `other` has it on the same.
    pub fn greet(&mut self, pair: usize, other: &Self, frame: &[u8]) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            self.send(pair, frame)?;
            let sent = Instant::now();
            while sent.elapsed() < HEARD {
                if !other.is_quiet(pair) {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        bail!("the greeting is not heard")
    }

    /// The next frame that came on a pair, its header cut off.
    pub fn next_frame(&mut self, pair: usize) -> Result<Vec<u8>> {
        let queue = self.receive.get_mut(pair).context("a pair")?;
        let done = queue.wait(1)?;
        let (id, len) = *done.first().context("a frame")?;
        let lent = self.lent.get_mut(pair).context("a pair")?;
        let at = lent.iter().position(|(known, _)| *known == id);
        let (_, addr) = lent.swap_remove(at.context("a buffer that was lent")?);
        let mut bytes = vec![0; len as usize];
        self.guest.memory.read(addr, &mut bytes)?;
        let frame = bytes.get(HEADER..).context("a header")?.to_vec();
        Ok(frame)
    }

    /// Whether nothing waits on a pair.
    pub fn is_quiet(&self, pair: usize) -> bool {
        let queue = self.receive.get(pair);
        queue.is_some_and(|queue| !queue.driver.has_used())
    }

    /// Waits for the frame `wanted` on a pair, others passing by.
    pub fn wait_for(&mut self, pair: usize, wanted: &[u8]) -> Result<()> {
        let start = Instant::now();
        while self.next_frame(pair)? != wanted {
            ensure!(start.elapsed() < DEADLINE, "the frame does not come");
        }
        Ok(())
    }
}
