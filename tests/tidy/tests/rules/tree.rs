//! The tree as the rules see it: its text files by their paths, and the crates that their manifests tell of.
//!
//! One rule: paths are relative to the workspace root and use `/`; a tree of a few files, for a test, is like the real one.

use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;

use walkdir::WalkDir;

use crate::names::Tests;
use crate::syntax::Findings;

/// A small tree: paths and texts.
pub type Files = &'static [(&'static str, &'static str)];

/// One text file.
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

    /// A program or library of the `tests` group: no product, but no test either.
    pub fn is_helper(&self) -> bool {
        let inside = self.path.strip_prefix("tests/");
        let inside = inside.and_then(|rest| rest.split_once('/'));
        inside.is_some_and(|(_, inside)| {
            let file = Self {
                path: format!("/{inside}"),
                text: String::new(),
            };
            inside.starts_with("src/") && !file.is_test()
        })
    }

    /// The folder of the crate that the file belongs to.
    pub fn crate_dir(&self) -> &str {
        let mut slashes = self.path.match_indices('/').map(|(at, _)| at);
        match slashes.nth(1) {
            Some(at) => &self.path[..at],
            None => &self.path,
        }
    }

    /// Its lines with their numbers.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// A place to name.
    pub fn at(&self, line: usize) -> String {
        let text = self.text.lines().nth(line.saturating_sub(1));
        format!("{}:{line}: {}", self.path, text.unwrap_or_default().trim())
    }
}

/// A crate of the workspace.
pub struct Crate {
    pub name: String,
    pub dir: String,
    pub manifest: toml::Table,
}

impl Crate {
    /// What stands in a section of dependencies, those of one target included.
    pub fn dependencies(&self, section: &str) -> Vec<(&String, &toml::Value)> {
        let targets = self.manifest.get("target").and_then(toml::Value::as_table);
        let tables = targets
            .into_iter()
            .flat_map(|t| t.values())
            .filter_map(toml::Value::as_table);
        std::iter::once(&self.manifest)
            .chain(tables)
            .filter_map(|table| table.get(section).and_then(toml::Value::as_table))
            .flatten()
            .collect()
    }

    /// The first folder of its path.
    pub fn group(&self) -> &str {
        self.dir.split('/').next().unwrap_or(&self.dir)
    }
}

/// The text files of a tree.
pub struct Tree {
    files: Vec<Source>,
    crates: Vec<Crate>,
    findings: OnceLock<Findings>,
    tests: OnceLock<Tests>,
}

impl Tree {
    /// A tree of these files.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let source = |(path, text): &(&str, &str)| Source {
            path: (*path).into(),
            text: (*text).into(),
        };
        Self::new(files.iter().map(source).collect())
    }

    fn new(files: Vec<Source>) -> Self {
        let crates = files.iter().filter_map(member).collect();
        Self {
            files,
            crates,
            findings: OnceLock::new(),
            tests: OnceLock::new(),
        }
    }

    /// Files with one of these extensions.
    pub fn files(&self, extensions: &[&str]) -> impl Iterator<Item = &Source> {
        self.files.iter().filter(|file| {
            let extension = Path::new(&file.path).extension();
            extension.is_some_and(|e| extensions.iter().any(|known| e == *known))
        })
    }

    /// All Rust files.
    pub fn rust(&self) -> impl Iterator<Item = &Source> {
        self.files(&["rs"])
    }

    /// Rust files that are no tests.
    pub fn product(&self) -> impl Iterator<Item = &Source> {
        self.rust().filter(|file| !file.is_test())
    }

    /// The file at this path.
    pub fn file(&self, path: &str) -> Option<&Source> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The text of the file at this path, or nothing.
    pub fn text(&self, path: &str) -> &str {
        self.file(path).map_or("", |file| &file.text)
    }

    /// Whether there is such a file, or a folder with files.
    pub fn has(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        let mut files = self.files.iter();
        files.any(|file| file.path == path || file.path.starts_with(&folder))
    }

    /// The folders at the top.
    pub fn folders(&self) -> Vec<&str> {
        let first = |file: &'_ Source| file.path.find('/');
        let mut names: Vec<&str> = self
            .files
            .iter()
            .filter_map(|file| Some(&file.path[..first(file)?]))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The crates of the workspace.
    pub fn crates(&self) -> &[Crate] {
        &self.crates
    }

    /// The crate of this name.
    pub fn member(&self, name: &str) -> Option<&Crate> {
        self.crates.iter().find(|member| member.name == name)
    }

    /// Whether the crate is a library.
    pub fn is_library(&self, member: &Crate) -> bool {
        let path = format!("{}/src/lib.rs", member.dir);
        self.file(&path).is_some()
    }

    /// The root's manifest.
    pub fn root_manifest(&self) -> toml::Table {
        self.text("Cargo.toml").parse().expect("a manifest is TOML")
    }

    /// What the syntax of the files shows.
    pub fn findings(&self) -> &Findings {
        self.findings.get_or_init(|| Findings::of(self))
    }

    /// The tests by their last names.
    pub fn tests(&self) -> &Tests {
        self.tests.get_or_init(|| Tests::of(self))
    }
}

/// The crate of a manifest; one that is a workspace of its own is none of ours.
fn member(file: &Source) -> Option<Crate> {
    let dir = file.path.strip_suffix("/Cargo.toml")?;
    let manifest: toml::Table = file.text.parse().expect("a manifest is TOML");
    let name = manifest.get("package")?.get("name")?.as_str()?;
    (!manifest.contains_key("workspace")).then(|| Crate {
        name: name.into(),
        dir: dir.into(),
        manifest: manifest.clone(),
    })
}

/// The workspace root.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("tests/tidy lies two below the root")
        .to_path_buf()
}

/// The tree that this crate is in, without build output and dot-folders; what is no text has none.
pub fn real() -> &'static Tree {
    static TREE: OnceLock<Tree> = OnceLock::new();
    TREE.get_or_init(|| {
        let root = root();
        let entries = WalkDir::new(&root).sort_by_file_name().into_iter();
        let entries = entries.filter_entry(|entry| {
            let name = entry.file_name().to_string_lossy();
            let built = ["target", "artifacts", "corpus"].contains(&name.as_ref());
            entry.depth() == 0 || !(built || name.starts_with('.'))
        });
        let entries = entries.filter_map(Result::ok);
        let files = entries.filter(|entry| entry.file_type().is_file());
        let source = |entry: walkdir::DirEntry| {
            let path = entry.path().strip_prefix(&root).expect("below the root");
            Source {
                path: path.display().to_string(),
                text: std::fs::read_to_string(entry.path()).unwrap_or_default(),
            }
        };
        Tree::new(files.map(source).collect())
    })
}

#[test]
fn the_real_tree_is_read() {
    let tree = real();
    assert!(tree.rust().count() > 500 && tree.crates().len() > 30);
    assert!(tree.member("virtqueue").is_some() && tree.member("tidy").is_some());
    // A workspace of its own.
    assert!(tree.has("tests/fuzz/Cargo.toml") && tree.member("fuzz").is_none());
    let helper = |path: &str| tree.file(path).map(Source::is_helper);
    assert_eq!(helper("tests/xtask/src/main.rs"), Some(true));
    assert_eq!(helper("tests/tidy/tests/rules/main.rs"), Some(false));
    assert_eq!(helper("vmm/kvm/src/lib.rs"), Some(false));
}
