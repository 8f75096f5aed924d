//! Landlock: the files that a serving daemon may still reach, which are next to none, for all is open by then.
//!
//! Rule: best effort: an old kernel confines less and says so; seccomp is the part that must work.

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
use landlock::RulesetError;
use landlock::RulesetStatus;
use landlock::Scope;
use landlock::path_beneath_rules;

use crate::Error;
use crate::sandbox::Needs;

/// Newest set of rights that is asked for.
const RIGHTS: ABI = ABI::V6;

pub(super) fn confine(needs: &Needs) -> Result<(), Error> {
    let status = restrict(needs).map_err(|source| Error::Sandbox {
        what: "Landlock",
        source: Box::new(source),
    })?;
    if status != RulesetStatus::FullyEnforced {
        tracing::warn!(
            ?status,
            "this kernel has no or an older Landlock: files are confined by permissions only"
        );
    }
    Ok(())
}

fn restrict(needs: &Needs) -> Result<RulesetStatus, RulesetError> {
    let remove: BitFlags<AccessFs> = AccessFs::RemoveFile.into();
    let write = AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::RemoveFile;
    // Rights on what is in a directory make no sense on a file.
    let (folders, files): (Vec<_>, Vec<_>) = needs.readable.iter().partition(|path| path.is_dir());
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(RIGHTS))?
        .handle_access(AccessNet::from_all(RIGHTS))?
        .scope(Scope::from_all(RIGHTS))?
        .create()?
        .add_rules(path_beneath_rules(&needs.socket_directories, remove))?
        .add_rules(path_beneath_rules(folders, AccessFs::from_read(RIGHTS)))?
        .add_rules(path_beneath_rules(files, AccessFs::ReadFile))?
        .add_rules(path_beneath_rules(&needs.writable, write))?
        .restrict_self()?;
    Ok(status.ruleset)
}
