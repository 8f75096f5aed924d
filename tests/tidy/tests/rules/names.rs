//! Tests by their full names, `crate::file::name`, as the ledgers cite them.
//!
//! One rule: a citation means exactly one test, and one that a run of all tests does run.

use std::collections::HashMap;

use crate::tree::Source;
use crate::tree::Tree;

/// One test of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// Crate, files on the way (`lib`, `main` and `mod` left out), name.
    path: Vec<String>,
    ignored: bool,
}

impl Test {
    fn full(&self) -> String {
        self.path.join("::")
    }

    /// Whether a citation can mean this test: its crate, then the end of its path.
    fn is_cited(&self, crate_name: &str, rest: &[&str]) -> bool {
        let own = self.path.get(1..).unwrap_or_default();
        let end = own.len().checked_sub(rest.len());
        let end = end.and_then(|at| own.get(at..)).unwrap_or_default();
        self.path.first().is_some_and(|name| name == crate_name)
            && !rest.is_empty()
            && end.iter().eq(rest)
    }
}

/// Crate and modules that a file stands for.
fn place(file: &Source) -> Vec<String> {
    let dir = file.crate_dir();
    let crate_name = dir.rsplit('/').next().unwrap_or(dir);
    let inside = file.path.get(dir.len()..).unwrap_or_default();
    let parts = inside.trim_end_matches(".rs").split('/');
    let parts = parts.filter(|part| !["", "src", "lib", "main", "mod"].contains(part));
    std::iter::once(crate_name)
        .chain(parts)
        .map(ToString::to_string)
        .collect()
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The tests of one file: functions that are marked, inside macros too, and the tables of the runners in
/// tests/vm, whose entries are a name and a function.
pub fn tests_in(file: &Source) -> Vec<Test> {
    let place = place(file);
    let named = |name: &str, ignored| Test {
        path: place.iter().cloned().chain([name.to_string()]).collect(),
        ignored,
    };
    let mut tests = Vec::new();
    for (at, _) in file.text.match_indices("fn ") {
        let rest = file.text.get(at + 3..).unwrap_or_default();
        let name = rest.split('(').next().unwrap_or_default();
        let before = file.text.get(..at).unwrap_or_default();
        let attributes = before.rsplit(['}', ';']).next().unwrap_or_default();
        if is_name(name) && attributes.contains("#[test]") {
            tests.push(named(name, attributes.contains("#[ignore")));
        }
    }
    let table = file.text.split("const TESTS: &[(&str, Test)] = &[").nth(1);
    let table = table.and_then(|rest| rest.split("];").next());
    let words = table.into_iter().flat_map(|table| table.split('"'));
    tests.extend(words.skip(1).step_by(2).map(|name| named(name, false)));
    tests
}

/// Tests by their last names.
#[derive(Default)]
pub struct Tests(HashMap<String, Vec<Test>>);

impl Tests {
    pub fn of(tree: &Tree) -> Self {
        let mut by_name = HashMap::<String, Vec<Test>>::new();
        for test in tree.rust().flat_map(tests_in) {
            let name = test.path.last().cloned().unwrap_or_default();
            by_name.entry(name).or_default().push(test);
        }
        Self(by_name)
    }

    /// Whether there is a test of this last name: then a ledger has to cite it by its crate.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// What is wrong with a citation of a test.
    pub fn fault(&self, citation: &str) -> Option<String> {
        let parts: Vec<&str> = citation.split("::").collect();
        let (crate_name, rest) = parts.split_first()?;
        let namesakes = parts.last().and_then(|name| self.0.get(*name));
        let namesakes = namesakes.map(Vec::as_slice).unwrap_or_default();
        let meant: Vec<&Test> = namesakes
            .iter()
            .filter(|test| test.is_cited(crate_name, rest))
            .collect();
        let list = |tests: &[&Test]| {
            let names: Vec<String> = tests.iter().map(|test| test.full()).collect();
            names.join(" or ")
        };
        match meant.as_slice() {
            [test] if test.ignored => Some(format!("{citation} is #[ignore]d: nothing runs it")),
            [_] => None,
            [] if namesakes.is_empty() => Some(format!("no test {citation}")),
            [] => {
                let others: Vec<&Test> = namesakes.iter().collect();
                Some(format!("no test {citation}; write {}", list(&others)))
            }
            several => Some(format!("{citation} means {}", list(several))),
        }
    }
}

#[test]
fn a_citation_means_one_test_that_runs() {
    let same = "#[test]\nfn same() {}\n";
    let tree = Tree::of(&[
        ("host-backends/one/src/a/tests.rs", same),
        ("host-backends/one/src/b.rs", same),
        ("host-backends/one/tests/c.rs", "#[test]\nfn alone() {}\n"),
        (
            "host-backends/two/src/lib.rs",
            "#[test]\n#[ignore = \"never\"]\nfn left_out() {}\nfn no_test() {}\n",
        ),
        (
            "tests/vm/tests/machines/main.rs",
            "const TESTS: &[(&str, Test)] = &[(\"boots\", a::b)];",
        ),
    ]);
    for good in [
        "one::a::tests::same",
        "one::b::same",
        "one::alone",
        "one::tests::c::alone",
        "vm::boots",
    ] {
        assert_eq!(tree.tests().fault(good), None, "{good}");
    }
    for bad in [
        "one::same",
        "one::gone",
        "two::alone",
        "alone",
        "two::left_out",
        "two::no_test",
    ] {
        assert!(tree.tests().fault(bad).is_some(), "{bad}");
    }
}
