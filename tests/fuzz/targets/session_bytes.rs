//! A whole session with a hostile frontend: messages in any order, sound ones, cut ones and noise, with
//! descriptors of any kind. The session may end, the process may not, and the device serves the next one.
#![no_main]

use std::io::IoSlice;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use block_backend::BlockDevice;
use block_backend::BlockSpec;
use libfuzzer_sys::fuzz_target;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::socket::ControlMessage;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::sendmsg;
use paravane_fuzz::Decisions;
use vhost_user_protocol::FrontendMessage;
use vhost_user_protocol::Header;
use vhost_user_protocol::MemoryRegion;
use vhost_user_protocol::Request;
use vhost_user_protocol::VringAddress;
use vhost_user_protocol::VringFd;
use vhost_user_protocol::VringState;
use vhost_user_server::Options;
use vhost_user_server::Server;

/// Bytes of the memory that the frontend shares.
const MEMORY: u64 = 1 << 20;

/// The frontend's end and what it may send along.
struct Frontend {
    stream: UnixStream,
    memory: OwnedFd,
    event: OwnedFd,
}

impl Frontend {
    fn new(stream: UnixStream) -> Self {
        stream.set_nonblocking(true).expect("a socket");
        let memory = memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC).expect("memory");
        nix::unistd::ftruncate(&memory, MEMORY as i64).expect("memory");
        let event = nix::sys::eventfd::EventFd::new()
            .expect("an eventfd")
            .into();
        Self {
            stream,
            memory,
            event,
        }
    }

    fn send(&mut self, bytes: &[u8], fds: &[&OwnedFd]) {
        let raw: Vec<i32> = fds.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        let data = [IoSlice::new(bytes)];
        // A full or closed socket is the server's answer.
        let _sent = sendmsg::<()>(
            self.stream.as_raw_fd(),
            &data,
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        let mut replies = [0; 4096];
        while matches!(self.stream.read(&mut replies), Ok(read) if read > 0) {}
    }

    fn sound(&mut self, message: &FrontendMessage, fds: &[bool]) {
        let bytes = message.encode(true);
        let (memory, event) = (self.memory.try_clone(), self.event.try_clone());
        let (Ok(memory), Ok(event)) = (memory, event) else {
            return;
        };
        let fds: Vec<&OwnedFd> = fds
            .iter()
            .map(|is_memory| if *is_memory { &memory } else { &event })
            .collect();
        self.send(&bytes, &fds);
    }

    /// A queue on the shared memory, started at a place that the input chooses.
    fn start_queue(&mut self, decide: &mut Decisions<'_>) {
        let region = MemoryRegion {
            guest_addr: 0,
            size: MEMORY,
            user_addr: 0x10000,
            mmap_offset: 0,
        };
        self.sound(&FrontendMessage::SetOwner, &[]);
        self.sound(
            &FrontendMessage::SetFeatures(1 << 30 | 1 << 32 | u64::from(decide.byte() & 4) << 32),
            &[],
        );
        self.sound(
            &FrontendMessage::SetProtocolFeatures(u64::from(decide.word()) | 1 << 3),
            &[],
        );
        self.sound(&FrontendMessage::SetMemTable(vec![region]), &[true]);
        let index = u32::from(decide.byte() & 1);
        let num = 1 << (decide.byte() & 7);
        let base = u32::from(decide.byte() & 3);
        let addr = 0x10000 + u64::from(decide.byte()) * 16;
        let address = VringAddress {
            index,
            flags: 0,
            descriptor: addr,
            available: addr + 0x1000,
            used: addr + 0x2000,
            log: 0,
        };
        self.sound(
            &FrontendMessage::SetVringNum(VringState { index, num }),
            &[],
        );
        self.sound(
            &FrontendMessage::SetVringBase(VringState { index, num: base }),
            &[],
        );
        self.sound(&FrontendMessage::SetVringAddr(address), &[]);
        self.sound(
            &FrontendMessage::SetVringCall(VringFd::new(index as u8, true)),
            &[false],
        );
        self.sound(
            &FrontendMessage::SetVringKick(VringFd::new(index as u8, true)),
            &[false],
        );
        self.sound(
            &FrontendMessage::SetVringEnable(VringState { index, num: 1 }),
            &[],
        );
    }

    fn act(&mut self, decide: &mut Decisions<'_>) {
        match decide.byte() % 8 {
            0 => self.start_queue(decide),
            1 => {
                let len = usize::from(decide.byte());
                let noise = decide.bytes(len).to_vec();
                self.send(&noise, &[]);
            }
            2 => {
                let offset = i64::from(decide.word());
                let len = usize::from(decide.byte());
                let _written = nix::sys::uio::pwrite(&self.memory, decide.bytes(len), offset);
                let _kicked = nix::unistd::write(&self.event, &1_u64.to_ne_bytes());
            }
            3 => {
                let _cut = nix::unistd::ftruncate(&self.memory, i64::from(decide.word()) << 4);
            }
            kind => {
                let request = u32::from(decide.byte() % 48);
                let len = usize::from(decide.byte() % 72);
                let payload = decide.bytes(len).to_vec();
                let mut bytes = Header::request(request, payload.len(), kind & 1 == 0)
                    .encode()
                    .to_vec();
                bytes.extend(&payload);
                let fds = decide.byte();
                let (memory, event) = (self.memory.try_clone(), self.event.try_clone());
                let (Ok(memory), Ok(event)) = (memory, event) else {
                    return;
                };
                let all = [&memory, &event, &memory, &event];
                let which = usize::from(fds & 4 != 0);
                self.send(&bytes, &all[which..which + usize::from(fds & 3) % 3]);
                // What decodes must survive its own encoding.
                if let Ok(message) = FrontendMessage::decode(Request(request), &payload) {
                    assert!(!message.encode(false).is_empty());
                }
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let spec = BlockSpec {
        num_queues: 2,
        ..BlockSpec::memory(1 << 16)
    };
    let device = BlockDevice::open(spec).expect("a disk in memory");
    let server = Server::new(device, Options::default()).expect("a server");
    let (ours, theirs) = UnixStream::pair().expect("a socket");
    let mut frontend = Frontend::new(ours);
    let mut decide = Decisions(data);
    std::thread::scope(|scope| {
        let session = scope.spawn(|| server.serve_stream(theirs));
        while !decide.0.is_empty() {
            frontend.act(&mut decide);
        }
        drop(frontend);
        // A session may end as it likes; it must end.
        let _end = session.join().expect("the session does not panic");
    });
});
