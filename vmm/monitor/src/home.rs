//! The runtime folder: one private folder for each VM of this user, with its control socket and its daemons' sockets.
//!
//! One rule: whoever uses a VM's folder holds its lock, and only under the lock is it emptied and removed; so what a
//! killed VM left behind is never mistaken for a running one, nor the other way round.

use std::fs::DirBuilder;
use std::fs::File;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::fcntl::FlockArg;
use nix::unistd::geteuid;

/// Where somebody else's choice of the runtime folder stands.
const VARIABLE: &str = "PARAVANE_RUNTIME_DIR";
/// Name of the control socket in a VM's folder.
pub(crate) const CONTROL: &str = "control";
/// Name of the folder in a VM's folder in which its daemons write.
pub(crate) const STATE: &str = "state";
/// How long a VM that has ended may take to leave its folder.
const LEAVE: Duration = Duration::from_secs(15);
/// Mode of a folder that is its owner's alone.
const PRIVATE: u32 = 0o700;
/// Mode of a folder in which others reach what they know of.
const PASSABLE: u32 = 0o711;
/// Longest name, so that the sockets' paths fit into an address (108 bytes).
const NAME_MOST: usize = 40;

/// Why a VM has no folder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("A VM named {0:?} runs already: choose another name")]
    Taken(String),
    #[error("{0:?} cannot be a VM's name: letters, digits, dots, dashes, underscores, at most 40")]
    Name(String),
    #[error("Cannot use the runtime folder {}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("{} belongs to somebody else: set {VARIABLE} to a folder of your own", .0.display())]
    Foreign(PathBuf),
}

/// The folder of one VM, held.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) path: PathBuf,
    /// Open, so that the lock is held; a process that inherits it holds it too.
    pub(crate) lock: Flock<File>,
}

/// The folder of all VMs of this user; it need not exist.
pub(crate) fn runtime_folder() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    match (variable(VARIABLE), variable("XDG_RUNTIME_DIR")) {
        (Some(path), _) => path.into(),
        (None, Some(path)) => Path::new(&path).join("paravane"),
        (None, None) if geteuid().is_root() => "/run/paravane".into(),
        (None, None) => std::env::temp_dir().join(format!("paravane-{}", geteuid())),
    }
}

/// Makes the folder of the VM `name`, or of one without a name, for which `stem` and the process id have to do.
pub(crate) fn make(name: Option<&str>, stem: &str) -> Result<Home, Error> {
    let runtime = runtime_folder();
    private_folder(&runtime)?;
    prune(&runtime);
    match name {
        Some(name) if is_name(name) => claim(&runtime, name),
        Some(name) => Err(Error::Name(name.to_owned())),
        None => {
            let stem: String = stem.chars().filter(char::is_ascii_alphanumeric).collect();
            let stem = stem.get(..20).unwrap_or(&stem);
            claim(&runtime, &format!("{stem}-{}", std::process::id()))
        }
    }
}

fn is_name(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=NAME_MOST).contains(&name.len()) && name.chars().all(fine) && !name.starts_with('.')
}

fn private_folder(path: &Path) -> Result<(), Error> {
    let fail = |source| Error::Folder {
        path: path.to_owned(),
        source,
    };
    let made = DirBuilder::new().recursive(true).mode(PRIVATE).create(path);
    made.map_err(fail)?;
    let meta = std::fs::symlink_metadata(path).map_err(fail)?;
    if !meta.is_dir() || meta.uid() != geteuid().as_raw() {
        return Err(Error::Foreign(path.to_owned()));
    }
    Ok(())
}

fn claim(runtime: &Path, name: &str) -> Result<Home, Error> {
    let path = runtime.join(name);
    let fail = |source| Error::Folder {
        path: path.clone(),
        source,
    };
    let end = Instant::now() + LEAVE;
    loop {
        match private_folder(&path) {
            // Another VM that starts took it for one that was left behind, before it could be locked.
            Err(Error::Folder { source, .. })
                if source.kind() == io::ErrorKind::NotFound && Instant::now() < end =>
            {
                continue;
            }
            made => made?,
        }
        match try_lock(&path).map_err(fail)? {
            Some(lock) => {
                empty(&path);
                set_mode(&path, PRIVATE).map_err(fail)?;
                return Ok(Home { path, lock });
            }
            // Somebody runs, or is about to leave.
            None if answers(&path) || Instant::now() > end => {
                return Err(Error::Taken(name.to_owned()));
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn answers(home: &Path) -> bool {
    UnixStream::connect(home.join(CONTROL)).is_ok()
}

/// The lock of the folder, unless somebody holds it or the folder is gone by now.
fn try_lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let folder = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let lock = match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
        Err((_, errno)) => return Err(errno.into()),
    };
    // Its last owner may have removed it in between; then this is the lock of nothing.
    let same = std::fs::metadata(path).is_ok_and(|now| {
        lock.metadata()
            .is_ok_and(|held| (held.dev(), held.ino()) == (now.dev(), now.ino()))
    });
    Ok(same.then_some(lock))
}

/// Removes what lies in the folder; nothing there is of use to the next owner.
fn empty(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if std::fs::remove_file(entry.path()).is_err() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes a folder whose lock is held.
pub(crate) fn remove(path: &Path) {
    empty(path);
    let _ = std::fs::remove_dir(path);
}

/// Removes what killed VMs have left.
fn prune(runtime: &Path) {
    for (_, path) in folders(runtime) {
        if let Ok(Some(_lock)) = try_lock(&path) {
            remove(&path);
        }
    }
}

fn folders(runtime: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(runtime).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry)));
    let mut found: Vec<_> = named
        .filter(|(name, entry)| is_name(name) && entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|(name, entry)| (name, entry.path()))
        .collect();
    found.sort();
    found
}

/// The VMs whose control sockets somebody listens on: name and folder.
pub(crate) fn running() -> Vec<(String, PathBuf)> {
    let mut found = folders(&runtime_folder());
    found.retain(|(_, path)| answers(path));
    found
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

impl Home {
    /// Lets a VM that becomes another user reach its sockets, which are given to that user one by one, and makes a folder
    /// in which its daemons write. This folder stays ours: the daemons' configuration is in it, and a daemon that is started
    /// again believes it before it becomes that user.
    pub(crate) fn share(&self, (user, group): (u32, u32)) -> Result<(), Error> {
        let runtime = self.path.parent().unwrap_or(&self.path);
        let state = self.path.join(STATE);
        let shared = set_mode(runtime, PASSABLE)
            .and_then(|()| set_mode(&self.path, PASSABLE))
            .and_then(|()| DirBuilder::new().mode(PRIVATE).create(&state))
            .and_then(|()| std::os::unix::fs::lchown(&state, Some(user), Some(group)));
        shared.map_err(|source| Error::Folder {
            path: self.path.clone(),
            source,
        })
    }

    /// The control socket.
    pub(crate) fn control(&self) -> PathBuf {
        self.path.join(CONTROL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vms_that_start_beside_each_other_all_get_their_folders() {
        let runtime = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for vm in 0..4 {
                let runtime = runtime.path();
                scope.spawn(move || {
                    for turn in 0..500 {
                        prune(runtime);
                        let home = claim(runtime, &format!("vm{vm}-{turn}")).unwrap();
                        remove(&home.path);
                    }
                });
            }
        });
    }

    #[test]
    fn a_name_is_taken_while_its_lock_is_held_and_its_socket_answers() {
        let runtime = tempfile::tempdir().unwrap();
        let first = claim(runtime.path(), "a").unwrap();
        let listener = control_protocol::bind_private(&first.control()).unwrap();
        assert!(matches!(claim(runtime.path(), "a"), Err(Error::Taken(_))));
        drop(listener);
        drop(first);
        // The stale socket is in nobody's way.
        let second = claim(runtime.path(), "a").unwrap();
        assert!(!second.control().exists());
    }

    #[test]
    fn what_a_killed_vm_left_is_removed_and_what_runs_stays() {
        let runtime = tempfile::tempdir().unwrap();
        let dead = claim(runtime.path(), "dead").unwrap();
        std::fs::write(dead.path.join("blockd.toml"), "x").unwrap();
        drop(dead);
        let alive = claim(runtime.path(), "alive").unwrap();
        std::fs::write(alive.path.join("netd.toml"), "x").unwrap();
        prune(runtime.path());
        assert!(!runtime.path().join("dead").exists());
        assert!(alive.path.join("netd.toml").exists());
    }

    #[test]
    fn a_folder_that_is_removed_while_it_is_waited_for_is_made_anew() {
        let runtime = tempfile::tempdir().unwrap();
        let first = claim(runtime.path(), "a").unwrap();
        let path = first.path.clone();
        let leave = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            remove(&first.path);
            drop(first);
        });
        let second = claim(runtime.path(), "a").unwrap();
        leave.join().unwrap();
        assert!(path.exists() && second.path == path);
    }

    #[test]
    fn names_cannot_lead_elsewhere() {
        for name in ["", ".", "..", "a/b", ".hidden", "a b", &"x".repeat(41)] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_name("web-1.example_x"));
    }
}
