//! Memory as a file, to be shared with another process.
//!
//! Rule: the length is set here, and where it must not change, the file is sealed before anybody else sees it.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::SealFlag;
use nix::sys::memfd::MFdFlags;

use crate::Error;

/// Makes `len` bytes of zeroes. Whoever has the descriptor may resize the file or seal it.
///
/// # Errors
/// The kernel has no descriptor or no memory left, or no file can be so long.
pub fn create(name: &str, len: u64) -> Result<OwnedFd, Error> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = nix::sys::memfd::memfd_create(name, flags).map_err(Error::nix("memfd_create"))?;
    let len = i64::try_from(len).map_err(|_| Error::nix("ftruncate")(Errno::EFBIG))?;
    nix::unistd::ftruncate(&file, len).map_err(Error::nix("ftruncate"))?;
    Ok(file)
}

/// Makes `len` bytes of zeroes that can neither shrink nor grow, so that no holder of the descriptor can pull the memory
/// from under the others.
///
/// # Errors
/// As for [`create`].
pub fn create_sealed(name: &str, len: u64) -> Result<OwnedFd, Error> {
    let file = create(name, len)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    nix::fcntl::fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(Error::nix("fcntl"))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_file_keeps_its_length() {
        let file = create_sealed("test", 8192).unwrap();
        for len in [0, 4096, 16384] {
            assert_eq!(nix::unistd::ftruncate(&file, len), Err(Errno::EPERM));
        }
        let file = create("test", 8192).unwrap();
        nix::unistd::ftruncate(&file, 0).unwrap();
    }

    #[test]
    fn a_length_that_no_file_has_is_refused() {
        assert!(create("test", u64::MAX).is_err());
    }
}
