//! Leaving root behind.
//!
//! Rule: it is done when all is open that needs root, before the first byte of a peer is read, and before there are threads;
//! it cannot be undone, and that is tried.
#![expect(unsafe_code, reason = "capset(2) has no safe form")]

use std::ffi::CString;

use nix::errno::Errno;
use nix::unistd::Gid;
use nix::unistd::Group;
use nix::unistd::Uid;
use nix::unistd::User;

use crate::Error;

/// _LINUX_CAPABILITY_VERSION_3: two words of each set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Whom the process becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    uid: Uid,
    gid: Gid,
    /// For its other groups; a mere number has none.
    name: Option<CString>,
}

impl Identity {
    /// Looks up `user` and `group`, names or numbers. The group is the user's own if none is given.
    ///
    /// # Errors
    /// There is none such, or no use in it.
    pub fn find(user: Option<&str>, group: Option<&str>) -> Result<Option<Self>, Error> {
        let Some(user) = user else {
            return group.map_or(Ok(None), |_| Err(Error::GroupAlone));
        };
        let unknown = |what, name: &str| Error::Unknown {
            what,
            name: name.to_owned(),
        };
        let number = |text: &str| text.parse::<u32>().ok();
        let lookup = |errno| refused("getpwnam", errno);
        let known = match number(user) {
            Some(uid) => User::from_uid(Uid::from_raw(uid)),
            None => User::from_name(user),
        };
        let known = known.map_err(lookup)?;
        let uid = match (&known, number(user)) {
            (Some(known), _) => known.uid,
            (None, Some(uid)) => Uid::from_raw(uid),
            (None, None) => return Err(unknown("user", user)),
        };
        let gid = match (group, number(group.unwrap_or_default())) {
            (Some(_), Some(gid)) => Gid::from_raw(gid),
            (Some(name), None) => {
                let found = Group::from_name(name).map_err(|errno| refused("getgrnam", errno))?;
                found.ok_or_else(|| unknown("group", name))?.gid
            }
            (None, _) => match &known {
                Some(known) => known.gid,
                None => Gid::from_raw(uid.as_raw()),
            },
        };
        if uid.is_root() {
            return Err(Error::Root);
        }
        let name = known.and_then(|known| CString::new(known.name).ok());
        Ok(Some(Self { uid, gid, name }))
    }

    /// User and group, as files are given to.
    pub fn owner(&self) -> (u32, u32) {
        (self.uid.as_raw(), self.gid.as_raw())
    }

    /// Becomes that user for good: other groups, group, user, no capability, no new privileges.
    ///
    /// # Errors
    /// The process is not root and not that user, or the kernel refuses.
    pub fn assume(&self) -> Result<(), Error> {
        let uid = self.uid;
        if nix::unistd::geteuid().is_root() {
            let groups = match &self.name {
                Some(name) => nix::unistd::initgroups(name, self.gid),
                None => nix::unistd::setgroups(&[self.gid]),
            };
            groups.map_err(|errno| refused("setgroups", errno))?;
            let gid = self.gid;
            let group = nix::unistd::setresgid(gid, gid, gid);
            group.map_err(|errno| refused("setresgid", errno))?;
            let user = nix::unistd::setresuid(uid, uid, uid);
            user.map_err(|errno| refused("setresuid", errno))?;
        } else if nix::unistd::geteuid() != uid || nix::unistd::getegid() != self.gid {
            return Err(Error::NotRoot { uid: uid.as_raw() });
        }
        drop_capabilities().map_err(|errno| refused("capset", errno))?;
        nix::sys::prctl::set_no_new_privs().map_err(|errno| refused("prctl", errno))?;
        match nix::unistd::setuid(Uid::from_raw(0)) {
            Ok(()) => Err(Error::NotForGood),
            Err(_) => Ok(()),
        }
    }
}

fn refused(call: &'static str, source: Errno) -> Error {
    Error::Identity { call, source }
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// Effective, permitted, inheritable.
#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilitySets([u32; 3]);

/// Whoever is not root may have been given some all the same (AmbientCapabilities= of systemd).
fn drop_capabilities() -> Result<(), Errno> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let none = [CapabilitySets([0; 3]); 2];
    // SAFETY: both are what this version's capset(2) reads, and outlive the call. Ambient ones go with the inheritable.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        let nobody = User::from_name("nobody").unwrap().unwrap();
        let found = Identity::find(Some("nobody"), None).unwrap().unwrap();
        assert_eq!(found.owner(), (nobody.uid.as_raw(), nobody.gid.as_raw()));
        let number = nobody.uid.to_string();
        assert_eq!(Identity::find(Some(&number), None).unwrap().unwrap(), found);
        let other = Identity::find(Some("nobody"), Some("4321"))
            .unwrap()
            .unwrap();
        assert_eq!(other.owner().1, 4321);
        let nameless = Identity::find(Some("54321"), None).unwrap().unwrap();
        assert_eq!(nameless.owner(), (54321, 54321));
        assert_eq!(Identity::find(None, None).unwrap(), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        for (user, group, word) in [
            (Some("no such user"), None, "no user"),
            (Some("nobody"), Some("no such group"), "no group"),
            (None, Some("nogroup"), "give a user"),
            (Some("root"), None, "another user"),
            (Some("0"), None, "another user"),
        ] {
            let error = Identity::find(user, group).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert!(error.is_usage());
        }
    }
}
