//! The tree as the rules see it: source files by workspace-relative path, and cargo's metadata.
//!
//! One rule: paths are relative to the workspace root and use `/`.

use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;

use cargo_metadata::Metadata;
use cargo_metadata::MetadataCommand;
use walkdir::WalkDir;

/// One source file.
#[derive(Clone)]
pub struct Source {
    /// Relative to the workspace root.
    pub path: String,
    pub text: String,
}

impl Source {
    /// Tests may be long and may unwrap: `tests.rs`, `*_tests.rs`, and all below a `tests` folder.
    pub fn is_test(&self) -> bool {
        self.path.ends_with("_tests.rs")
            || self.path.ends_with("/tests.rs")
            || self.path.split('/').any(|part| part == "tests")
    }

    /// The folder of the crate that the file belongs to.
    pub fn crate_dir(&self) -> &str {
        let mut slashes = self.path.match_indices('/').map(|(at, _)| at);
        match slashes.nth(1) {
            Some(at) => &self.path[..at],
            None => &self.path,
        }
    }
}

/// The workspace root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("tests/tidy lies two below the root")
        .to_path_buf()
}

/// All files of the tree with this extension, without build output and dot-folders.
pub fn files(extension: &str) -> Vec<Source> {
    let root = root();
    let mut found: Vec<Source> = WalkDir::new(&root)
        .into_iter()
        .filter_entry(|entry| {
            let name = entry.file_name().to_string_lossy();
            entry.depth() == 0
                || !(name == "target" || name == "artifacts" || name.starts_with('.'))
        })
        .filter_map(Result::ok)
        .filter(|entry| entry.path().extension().is_some_and(|e| e == extension))
        .map(|entry| Source {
            path: entry
                .path()
                .strip_prefix(&root)
                .expect("below root")
                .display()
                .to_string(),
            text: std::fs::read_to_string(entry.path()).expect("a source file is UTF-8"),
        })
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// All Rust files.
pub fn rust() -> &'static [Source] {
    static FILES: OnceLock<Vec<Source>> = OnceLock::new();
    FILES.get_or_init(|| files("rs"))
}

/// What cargo knows about the workspace members (dependencies not resolved: no network).
pub fn metadata() -> &'static Metadata {
    static METADATA: OnceLock<Metadata> = OnceLock::new();
    METADATA.get_or_init(|| {
        MetadataCommand::new()
            .manifest_path(root().join("Cargo.toml"))
            .no_deps()
            .exec()
            .expect("cargo metadata works")
    })
}

/// Members as (name, folder relative to the root, package).
pub fn members() -> Vec<(String, String, &'static cargo_metadata::Package)> {
    let metadata = metadata();
    metadata
        .packages
        .iter()
        .map(|package| {
            let dir = package
                .manifest_path
                .parent()
                .expect("a manifest has a folder");
            let dir = dir
                .strip_prefix(&metadata.workspace_root)
                .expect("below root");
            (package.name.to_string(), dir.to_string(), package)
        })
        .collect()
}
