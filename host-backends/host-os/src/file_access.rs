//! Landlock: the files that a confined process may still reach.
//!
//! Rule: best effort: an old kernel confines less, and says so; seccomp ([`crate::filter`]) is the part that must work.

use std::path::Path;
use std::path::PathBuf;

use landlock::ABI;
use landlock::Access;
use landlock::AccessFs;
use landlock::AccessNet;
use landlock::BitFlags;
use landlock::CompatLevel;
use landlock::Compatible;
use landlock::Ruleset;
use landlock::RulesetAttr;
use landlock::RulesetCreatedAttr;
use landlock::RulesetStatus;
use landlock::Scope;
use landlock::path_beneath_rules;

use crate::Error;

/// Newest set of rights that is asked for; an older kernel enforces what it knows.
const RIGHTS: ABI = ABI::V6;

/// How much of it the kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// All.
    Full,
    /// What an older Landlock knows.
    Partial,
    /// There is no Landlock: files are confined by permissions alone.
    None,
}

/// Paths and what may be done there. A path that cannot be opened now cannot be reached later.
#[derive(Debug, Default)]
pub struct FileAccess {
    rules: Vec<(PathBuf, BitFlags<AccessFs>)>,
}

impl FileAccess {
    /// Nothing may be reached.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file is read, or a directory with all that is in it.
    pub fn read(&mut self, path: &Path) {
        // Rights on what is in a directory make no sense on a file.
        let rights = if path.is_dir() {
            AccessFs::from_read(RIGHTS)
        } else {
            AccessFs::ReadFile.into()
        };
        self.allow(path, rights);
    }

    /// In a directory, regular files are made, written and removed.
    pub fn write_in(&mut self, directory: &Path) {
        let write = AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::Truncate;
        self.allow(directory, write | AccessFs::RemoveFile);
    }

    /// In a directory, files are removed.
    pub fn remove_in(&mut self, directory: &Path) {
        self.allow(directory, AccessFs::RemoveFile.into());
    }

    /// A directory is removed with the files in it.
    pub fn remove_directory(&mut self, directory: &Path) {
        self.allow(directory, AccessFs::ReadDir | AccessFs::RemoveFile);
        let parent = directory.parent().unwrap_or(directory);
        self.allow(parent, AccessFs::RemoveDir.into());
    }

    fn allow(&mut self, path: &Path, rights: BitFlags<AccessFs>) {
        self.rules.push((path.to_owned(), rights));
    }

    /// Confines this thread and all that it starts: files as said, no TCP, no signals and no abstract sockets to the outside.
    ///
    /// # Errors
    /// The kernel has Landlock and refuses.
    pub fn enter(self) -> Result<Enforcement, Error> {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(RIGHTS))?
            .handle_access(AccessNet::from_all(RIGHTS))?
            .scope(Scope::from_all(RIGHTS))?
            .create()?;
        for (path, rights) in self.rules {
            ruleset = ruleset.add_rules(path_beneath_rules([path], rights))?;
        }
        Ok(match ruleset.restrict_self()?.ruleset {
            RulesetStatus::FullyEnforced => Enforcement::Full,
            RulesetStatus::PartiallyEnforced => Enforcement::Partial,
            RulesetStatus::NotEnforced => Enforcement::None,
        })
    }
}
