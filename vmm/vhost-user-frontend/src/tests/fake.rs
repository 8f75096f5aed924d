//! A backend that speaks the protocol, writes down what it hears, and misbehaves on command. Rule: it serves no ring.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use vhost_user_protocol::BackendMessage;
use vhost_user_protocol::ConfigSpace;
use vhost_user_protocol::FrontendMessage as Message;
use vhost_user_protocol::HEADER_SIZE;
use vhost_user_protocol::Header;
use vhost_user_protocol::Inflight;
use vhost_user_protocol::LogBase;
use vhost_user_protocol::Reply;
use vhost_user_protocol::Request;
use vhost_user_protocol::VringState;
use vhost_user_protocol::feature::PROTOCOL_FEATURES;
use vhost_user_protocol::feature::protocol;
use virtio_spec::device_id;
use virtio_spec::feature;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::support::eventually;
use crate::session::PROTOCOL_FEATURES as ALL_PROTOCOL_FEATURES;
use crate::session::SessionSpec;

/// What the backend does about one message.
pub enum Turn {
    /// The right thing.
    Answer,
    /// Ends the connection.
    Close,
    /// Nothing at all.
    Silence,
    /// Sends these bytes, with this many descriptors.
    Raw(Vec<u8>, usize),
    /// Says no.
    Refuse,
}

type Script = Box<dyn FnMut(usize, &Message) -> Turn + Send>;

/// What the backend is, and all it remembers.
pub struct Facts {
    pub features: u64,
    pub protocol: u64,
    pub queues: u64,
    pub config: Vec<u8>,
    /// Messages, each with the number of its connection, from 0.
    pub log: Vec<(usize, Message)>,
    /// The latest descriptor of each kind and queue.
    pub files: HashMap<(Request, u32), File>,
    pub script: Script,
    stream: Option<UnixStream>,
    connections: usize,
    listening: bool,
}

pub struct FakeBackend {
    directory: TempDir,
    pub facts: Arc<Mutex<Facts>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeBackend {
    pub fn new() -> Self {
        let facts = Facts {
            features: feature::VERSION_1
                | feature::RING_EVENT_IDX
                | feature::RING_PACKED
                | 1 << 26
                | PROTOCOL_FEATURES,
            protocol: ALL_PROTOCOL_FEATURES,
            queues: 4,
            config: (1..=60).collect(),
            log: Vec::new(),
            files: HashMap::new(),
            script: Box::new(|_, _| Turn::Answer),
            stream: None,
            connections: 0,
            listening: false,
        };
        let mut backend = Self {
            directory: TempDir::new().unwrap(),
            facts: Arc::new(Mutex::new(facts)),
            thread: None,
        };
        backend.listen();
        backend
    }

    pub fn scripted(script: impl FnMut(usize, &Message) -> Turn + Send + 'static) -> Self {
        let backend = Self::new();
        backend.facts.lock().unwrap().script = Box::new(script);
        backend
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    pub fn spec(&self) -> SessionSpec {
        SessionSpec {
            queue_count: 2,
            config_len: 60,
            reply_timeout: Duration::from_millis(400),
            drain_timeout: Duration::from_millis(800),
            connect_timeout: Duration::from_millis(300),
            reconnect_pause_max: Duration::from_millis(20),
            ..SessionSpec::new(self.path(), device_id::BLOCK)
        }
    }

    /// Begins to listen, after [`FakeBackend::vanish`] as well.
    pub fn listen(&mut self) {
        let listener = UnixListener::bind(self.path()).unwrap();
        let facts = Arc::clone(&self.facts);
        facts.lock().unwrap().listening = true;
        self.thread = Some(std::thread::spawn(move || accept(&listener, &facts)));
    }

    /// Dies as by SIGKILL; a connection can be made again at once.
    pub fn die(&self) {
        let stream = self.facts.lock().unwrap().stream.take();
        if let Some(stream) = stream {
            stream.shutdown(std::net::Shutdown::Both).unwrap();
        }
    }

    /// Dies, and listens no more.
    pub fn vanish(&mut self) {
        self.facts.lock().unwrap().listening = false;
        self.die();
        // Wakes the listener.
        drop(UnixStream::connect(self.path()));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        std::fs::remove_file(self.path()).unwrap();
    }

    pub fn set(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.lock().unwrap());
    }

    pub fn connections(&self) -> usize {
        self.facts.lock().unwrap().connections
    }

    /// What was heard on one connection.
    pub fn heard(&self, connection: usize) -> Vec<Message> {
        let facts = self.facts.lock().unwrap();
        let on = facts.log.iter().filter(|(at, _)| *at == connection);
        on.map(|(_, message)| message.clone()).collect()
    }

    pub fn heard_any(&self, connection: usize, request: Request) -> bool {
        let heard = self.heard(connection);
        heard.iter().any(|message| message.request() == request)
    }

    /// Whether the queue's kick descriptor is signalled; takes the signal.
    pub fn kicked(&self, queue: u32) -> bool {
        let facts = self.facts.lock().unwrap();
        let Some(mut file) = facts.files.get(&(Request::SetVringKick, queue)) else {
            return false;
        };
        file.read(&mut [0; 8]).is_ok()
    }

    pub fn wait_for_kick(&self, queue: u32) {
        eventually("a kick", || self.kicked(queue));
    }

    /// Signals a descriptor that the front-end gave.
    pub fn signal(&self, kind: Request, queue: u32) {
        let facts = self.facts.lock().unwrap();
        let mut file = facts.files.get(&(kind, queue)).unwrap();
        file.write_all(&1u64.to_ne_bytes()).unwrap();
    }

    /// The channel for requests of the backend.
    pub fn channel(&self) -> File {
        let facts = self.facts.lock().unwrap();
        let file = facts.files.get(&(Request::SetBackendReqFd, 0)).unwrap();
        file.try_clone().unwrap()
    }

    /// Tells the front-end that the configuration changed, and returns its acknowledgement.
    pub fn announce_config(&self, config: Vec<u8>) -> u64 {
        self.set(|facts| facts.config = config);
        let mut channel = self.channel();
        let message = BackendMessage::ConfigChange.encode(true);
        channel.write_all(&message).unwrap();
        let mut reply = [0; HEADER_SIZE + 8];
        channel.read_exact(&mut reply).unwrap();
        let header = Header::decode(&reply).unwrap();
        assert!(header.flags.is_reply());
        u64::from_ne_bytes(reply[HEADER_SIZE..].try_into().unwrap())
    }
}

impl Drop for FakeBackend {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.vanish();
        }
    }
}

fn accept(listener: &UnixListener, facts: &Mutex<Facts>) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let connection = {
            let mut facts = facts.lock().unwrap();
            if !facts.listening {
                return;
            }
            facts.stream = Some(stream.try_clone().unwrap());
            facts.connections += 1;
            facts.connections - 1
        };
        while step(&mut stream, connection, facts).is_some() {}
        facts.lock().unwrap().stream = None;
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

/// One message; `None` ends the connection.
fn step(stream: &mut UnixStream, connection: usize, facts: &Mutex<Facts>) -> Option<()> {
    let mut head = [0; HEADER_SIZE];
    let (count, file) = stream.recv_with_fd(&mut head).ok()?;
    if count == 0 {
        return None;
    }
    stream.read_exact(&mut head[count..]).ok()?;
    let header = Header::decode(&head).unwrap();
    let mut payload = vec![0; usize::try_from(header.size).unwrap()];
    stream.read_exact(&mut payload).ok()?;
    let request = Request(header.request);
    let message = Message::decode(request, &payload).unwrap();
    assert!(
        message.fd_rule().allows(usize::from(file.is_some())),
        "{message:?}"
    );
    let mut facts = facts.lock().unwrap();
    facts.log.push((connection, message.clone()));
    let turn = (facts.script)(connection, &message);
    let (bytes, files) = match turn {
        Turn::Close => return None,
        Turn::Silence => return Some(()),
        Turn::Raw(bytes, files) => (bytes, files),
        Turn::Refuse => (Reply::FAILED.encode(request), 0),
        Turn::Answer => match facts.answer(&message, header.flags.need_reply()) {
            Some((reply, files)) => (reply.encode(request), files),
            None => (Vec::new(), 0),
        },
    };
    if let Some(file) = file {
        facts.files.insert((request, queue_of(&message)), file);
    }
    drop(facts);
    let extra: Vec<File> = (0..files).map(|_| tempfile::tempfile().unwrap()).collect();
    let fds: Vec<_> = extra.iter().map(AsRawFd::as_raw_fd).collect();
    if !bytes.is_empty() {
        stream.send_with_fds(&[&bytes[..]], &fds).ok()?;
    }
    Some(())
}

fn queue_of(message: &Message) -> u32 {
    match message {
        Message::SetVringKick(fd) | Message::SetVringCall(fd) | Message::SetVringErr(fd) => {
            fd.index()
        }
        _ => 0,
    }
}

impl Facts {
    fn answer(&self, message: &Message, need_reply: bool) -> Option<(Reply, usize)> {
        let reply = match message {
            Message::GetFeatures => Reply::U64(self.features),
            Message::GetProtocolFeatures => Reply::U64(self.protocol),
            Message::GetQueueNum => Reply::U64(self.queues),
            Message::GetMaxMemSlots => Reply::U64(32),
            Message::GetStatus | Message::CheckDeviceState => Reply::OK,
            Message::SetLogBase(_) => Reply::Log(LogBase::default()),
            Message::GetVringBase(state) => Reply::Vring(VringState {
                index: state.index,
                num: 7,
            }),
            Message::GetConfig(config) => Reply::Config(ConfigSpace {
                data: self.config.clone(),
                ..config.clone()
            }),
            Message::GetInflightFd(inflight, len) => {
                let inflight = Inflight {
                    mmap_size: 0x2000,
                    mmap_offset: 0,
                    ..*inflight
                };
                return Some((Reply::Inflight(inflight, *len), 1));
            }
            Message::SetDeviceStateFd(_) => Reply::U64(1 << 8),
            _ if need_reply && self.protocol & protocol::REPLY_ACK != 0 => Reply::OK,
            _ => return None,
        };
        Some((reply, 0))
    }
}
