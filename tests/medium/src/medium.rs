//! The medium: one file, `disk`, on a FUSE mount. One rule: a single thread serves it, so the record has one order.

use crate::content;
use crate::content::Content;
use crate::content::SECTOR;
use crate::record::Event;
use crate::record::Record;
use fuser::BackgroundSession;
use fuser::Config;
use fuser::Errno;
use fuser::FileAttr;
use fuser::FileHandle;
use fuser::FileType;
use fuser::Filesystem;
use fuser::FopenFlags;
use fuser::Generation;
use fuser::INodeNo;
use fuser::InitFlags;
use fuser::KernelConfig;
use fuser::LockOwner;
use fuser::MountOption;
use fuser::OpenFlags;
use fuser::ReplyAttr;
use fuser::ReplyData;
use fuser::ReplyEmpty;
use fuser::ReplyEntry;
use fuser::ReplyOpen;
use fuser::ReplyWrite;
use fuser::Request;
use fuser::TimeOrNow;
use fuser::WriteFlags;
use host_os::sync::lock;
use nix::mount::MntFlags;
use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;
use tempfile::TempDir;

const NAME: &str = "disk";
const DISK: INodeNo = INodeNo(2);
/// The kernel may believe for this long what it was told of the file.
const TTL: Duration = Duration::from_secs(3600);

/// What may be made to fail or wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A read by the kernel, from the file or into its page cache.
    Read,
    /// A write, or a write-back of the page cache.
    Write,
    /// An fsync or fdatasync.
    Sync,
}

/// A failure to come: of this kind the next `skip` succeed, then `times` fail with `errno`.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Of what.
    pub kind: Kind,
    /// How many go well before.
    pub skip: u64,
    /// How many fail.
    pub times: u64,
    /// What they answer.
    pub errno: i32,
}

#[derive(Debug)]
struct State {
    image: Vec<u8>,
    record: Record,
    faults: Vec<Fault>,
    held: Option<Kind>,
    /// Something waits because of `held`.
    waits: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        host_os::sync::wait(&self.changed, state)
    }

    /// Waits while this kind is held, then says whether it fails.
    fn enter(&self, kind: Kind) -> Result<MutexGuard<'_, State>, Errno> {
        let mut state = self.lock();
        while state.held == Some(kind) {
            state.waits = true;
            state = self.wait(state);
        }
        state.waits = false;
        let due = state.faults.iter_mut().find_map(|fault| {
            if fault.kind != kind || fault.times == 0 {
                return None;
            } else if fault.skip != 0 {
                fault.skip -= 1;
                return None;
            }
            fault.times -= 1;
            Some(fault.errno)
        });
        match due {
            Some(errno) => Err(Errno::from_i32(errno)),
            None => Ok(state),
        }
    }
}

/// A mounted medium. Whoever has its file open has to close it first.
#[derive(Debug)]
pub struct Medium {
    shared: Arc<Shared>,
    _session: BackgroundSession,
    folder: TempDir,
}

impl Medium {
    /// A medium of `sectors` zeroed sectors.
    ///
    /// # Errors
    /// FUSE cannot be mounted here.
    pub fn mount(sectors: u32) -> io::Result<Self> {
        let state = State {
            image: vec![0; sectors as usize * SECTOR],
            record: Record {
                sectors,
                events: Vec::new(),
            },
            faults: Vec::new(),
            held: None,
            waits: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let folder = tempfile::tempdir()?;
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("paravane-medium".to_owned())];
        let session = fuser::spawn_mount(Files(shared.clone()), folder.path(), &config)?;
        Ok(Self {
            shared,
            _session: session,
            folder,
        })
    }

    /// As [`Self::mount`]; `None`, and said so, where there is no FUSE.
    #[allow(
        clippy::print_stdout,
        reason = "a test that skips itself says so where the runner reads it"
    )]
    pub fn here(test: &str, sectors: u32) -> Option<Self> {
        match Self::mount(sectors) {
            Ok(medium) => Some(medium),
            Err(error) => {
                println!("SKIPS ITSELF {test}: no FUSE mount ({error}), needs root and /dev/fuse");
                None
            }
        }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join(NAME)
    }

    /// What reached the medium so far.
    pub fn record(&self) -> Record {
        self.shared.lock().record.clone()
    }

    /// How long the record is.
    pub fn position(&self) -> usize {
        self.shared.lock().record.events.len()
    }

    /// Its bytes, as they are read.
    pub fn image(&self) -> Vec<u8> {
        self.shared.lock().image.clone()
    }

    /// Makes something fail.
    pub fn fail(&self, fault: Fault) {
        self.shared.lock().faults.push(fault);
    }

    /// Nothing fails any more.
    pub fn mend(&self) {
        self.shared.lock().faults.clear();
    }

    /// Lets what is of this kind wait, or with `None` go on.
    pub fn hold(&self, kind: Option<Kind>) {
        self.shared.lock().held = kind;
        self.shared.changed.notify_all();
    }

    /// Whether something waits because of [`Self::hold`].
    pub fn is_waited_for(&self) -> bool {
        self.shared.lock().waits
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        self.hold(None);
        // The thread ends once nobody has the file open.
        let _ = nix::mount::umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

struct Files(Arc<Shared>);

impl Files {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let size = self.0.lock().image.len() as u64;
        let folder = ino != DISK;
        FileAttr {
            ino,
            size: if folder { 0 } else { size },
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if folder {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: if folder { 0o700 } else { 0o600 },
            nlink: 1,
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl State {
    /// Takes bytes in; `None` outside of the file, which does not grow.
    fn store(&mut self, offset: u64, data: &[u8], durable: bool) -> Option<()> {
        let start = usize::try_from(offset).ok()?;
        self.image
            .get_mut(start..start.checked_add(data.len())?)?
            .copy_from_slice(data);
        // What is no whole sector is seen as what the sector then is.
        let sectors = start / SECTOR..(start + data.len()).div_ceil(SECTOR);
        let contents = sectors.clone().map(|sector| {
            let bytes = self.image.get(sector * SECTOR..(sector + 1) * SECTOR);
            bytes.map_or(Content::Torn, |bytes| content::parse(sector as u32, bytes))
        });
        let contents = contents.collect();
        let first = sectors.start as u32;
        self.record.events.push(Event::Write {
            first,
            contents,
            durable,
        });
        Some(())
    }
}

impl Filesystem for Files {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_WRITEBACK_CACHE | InitFlags::FUSE_ASYNC_DIO;
        config
            .add_capabilities(wanted)
            .map_err(|_| io::Error::other("this kernel's FUSE has no write-back cache"))
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&TTL, &self.attributes(DISK), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(ino));
    }

    /// The kernel keeps the times itself and tells them; the size stays.
    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&TTL, &self.attributes(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let flags = match flags.0 & libc::O_DIRECT {
            0 => FopenFlags::FOPEN_KEEP_CACHE,
            _ => FopenFlags::FOPEN_DIRECT_IO,
        };
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.enter(Kind::Read) {
            Ok(state) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(size as usize).min(state.image.len());
                reply.data(state.image.get(start..end).unwrap_or_default());
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let durable = flags.0 & libc::O_DSYNC != 0;
        let stored = self
            .0
            .enter(Kind::Write)
            .map(|mut state| state.store(offset, data, durable));
        match stored {
            Ok(Some(())) => reply.written(data.len() as u32),
            Ok(None) => reply.error(Errno::EFBIG),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        match self.0.enter(Kind::Sync) {
            Ok(mut state) => {
                state.record.events.push(Event::Sync);
                drop(state);
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let zeroing = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        if mode & zeroing == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let zeroes = vec![0; usize::try_from(length).unwrap_or(0)];
        let stored = self
            .0
            .enter(Kind::Write)
            .map(|mut state| state.store(offset, &zeroes, false));
        match stored {
            Ok(Some(())) => reply.ok(),
            Ok(None) => reply.error(Errno::EFBIG),
            Err(errno) => reply.error(errno),
        }
    }
}
