//! Where things lie: the workspace, the target folder, the download cache, the logs.
//!
//! One rule: nothing is written outside the target folder, the cache and temporary folders.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;

/// The workspace root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Cargo's target folder.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A folder of the download cache: `$PARAVANE_CACHE`, else `vm-cache` in the target folder.
///
/// # Errors
/// When it cannot be created.
pub fn cache(name: &str) -> anyhow::Result<PathBuf> {
    let base =
        std::env::var_os("PARAVANE_CACHE").map_or_else(|| target().join("vm-cache"), PathBuf::from);
    made(base.join(name))
}

/// A fresh folder for the logs of one test, kept after the run.
///
/// # Errors
/// When it cannot be created.
pub fn logs(test: &str) -> anyhow::Result<PathBuf> {
    let folder = target().join("vm-logs").join(test);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("Clear {}", folder.display()))?;
    }
    made(folder)
}

fn made(folder: PathBuf) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(&folder).with_context(|| format!("Create {}", folder.display()))?;
    Ok(folder)
}
