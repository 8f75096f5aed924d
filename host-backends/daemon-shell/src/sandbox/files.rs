//! The files that a serving daemon may still reach, which are next to none, for all is open by then.

use host_os::file_access::Enforcement;
use host_os::file_access::FileAccess;

use crate::Error;
use crate::sandbox::Needs;

pub(super) fn confine(needs: &Needs) -> Result<(), Error> {
    let mut files = FileAccess::new();
    needs
        .socket_directories
        .iter()
        .for_each(|path| files.remove_in(path));
    needs.readable.iter().for_each(|path| files.read(path));
    needs.writable.iter().for_each(|path| files.write_in(path));
    let status = files.enter().map_err(|source| Error::Sandbox {
        what: "Landlock",
        source: Box::new(source),
    })?;
    if status != Enforcement::Full {
        tracing::warn!(
            ?status,
            "this kernel has no or an older Landlock: files are confined by permissions only"
        );
    }
    Ok(())
}
