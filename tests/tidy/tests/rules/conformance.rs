//! Rules on tests/CONFORMANCE.md: each statement has a verdict, and what a verdict names is there.
//!
//! One rule: a row is checked against the tree, a sum against the rows; whether a verdict is right only a reader sees.

use std::collections::BTreeMap;

use crate::code;
use crate::names;
use crate::report;
use crate::tree;
use crate::tree::Source;

const LEDGER: &str = "tests/CONFORMANCE.md";
const VERDICTS: [&str; 5] = [
    "tested",
    "by construction",
    "not offered",
    "front-end",
    "gap",
];

/// One statement.
struct Row {
    chapter: String,
    number: String,
    side: String,
    strength: String,
    asks: String,
    verdict: String,
    shown: String,
}

impl Row {
    fn id(&self) -> String {
        format!("{}-{}", self.chapter, self.number)
    }

    /// What is in backquotes in the last cell.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.shown.split('`').skip(1).step_by(2)
    }
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.strip_prefix("| ").and_then(|l| l.strip_suffix(" |"));
    let cells = inner.map(|inner| inner.split(" | ").map(ToString::to_string));
    cells.map(Iterator::collect).unwrap_or_default()
}

fn ledger() -> String {
    std::fs::read_to_string(tree::root().join(LEDGER)).expect("the checklist can be read")
}

fn rows() -> Vec<Row> {
    let is_number = |text: &str| text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    let row = |line: &str| {
        let [id, side, strength, asks, verdict, shown] = cells(line).try_into().ok()?;
        let (chapter, number) = id.rsplit_once('-')?;
        is_number(number).then(|| Row {
            chapter: chapter.to_owned(),
            number: number.to_owned(),
            side,
            strength,
            asks,
            verdict,
            shown,
        })
    };
    ledger().lines().filter_map(row).collect()
}

/// Rows by chapter and verdict.
fn counts() -> BTreeMap<String, [usize; 5]> {
    let mut counts = BTreeMap::<String, [usize; 5]>::new();
    for row in rows() {
        let place = VERDICTS.iter().position(|verdict| *verdict == row.verdict);
        for key in [row.chapter, "all".to_owned()] {
            if let Some(place) = place {
                counts.entry(key).or_default()[place] += 1;
            }
        }
    }
    counts
}

fn is_snake(name: &str) -> bool {
    name.bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn is_feature(name: &str) -> bool {
    name.bytes()
        .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// Where one side's product code names this feature. A side that does not offer or accept it has no use for
/// the name; what is done with it is not looked at, and a bare bit number is not seen.
fn offered(sources: &[Source], side: &str, feature: &str) -> Option<String> {
    let folder = match side {
        "device" => "host-backends/",
        _ => "guest-drivers/",
    };
    // Constants are defined there, whoever uses them.
    let defines = |file: &Source| file.path.starts_with("guest-drivers/virtio-spec/");
    let product = sources.iter().filter(|file| file.path.starts_with(folder));
    product
        .filter(|file| !file.is_test() && !defines(file))
        .find_map(|file| {
            let line = code::named(file, feature)?;
            Some(format!("{}:{line}", file.path))
        })
}

/// What is wrong with the last cell of a row.
fn faults(row: &Row) -> Vec<String> {
    let mut bad = Vec::new();
    let (mut tests, mut files, mut features) = (0, 0, 0);
    for name in row.names() {
        if name.contains("::") && name.starts_with(|c: char| c.is_ascii_lowercase()) {
            tests += 1;
            bad.extend(names::fault(name));
        } else if name.contains('/') {
            files += 1;
            if !tree::root().join(name).exists() {
                bad.push(format!("no file {name}"));
            }
        } else if is_snake(name) {
            if names::is_a_tests(name) {
                bad.push(format!("{name}: cite a test as `crate::name`"));
            } else if name.matches('_').count() > 2 {
                // Names of fields and functions are short; tests are sentences.
                bad.push(format!("no test {name}"));
            }
        } else if is_feature(name) && row.verdict == "not offered" {
            features += 1;
            if let Some(place) = offered(tree::rust(), &row.side, name) {
                bad.push(format!("{name} is offered or accepted: {place}"));
            }
        }
    }
    let named = match row.verdict.as_str() {
        "tested" => tests > 0,
        "by construction" => files > 0,
        "not offered" => features == 1,
        "front-end" => tests + files > 0,
        _ => row.shown.len() > 20,
    };
    if !named {
        bad.push(format!("nothing that shows {:?}", row.verdict));
    }
    bad
}

#[test]
fn every_statement_has_a_verdict_and_what_it_names_is_there() {
    let rows = rows();
    assert!(rows.len() > 300, "the checklist was read: {}", rows.len());
    let mut bad = Vec::new();
    for row in &rows {
        let sides = ["driver", "device"].contains(&row.side.as_str());
        let strengths = ["MUST", "SHOULD", "MAY", "SHALL", "RECOMMENDED"];
        let strength = row.strength.trim_end_matches(" NOT");
        if !sides || !strengths.contains(&strength) || row.asks.is_empty() {
            bad.push(format!("{}: side, strength or statement", row.id()));
        }
        if !VERDICTS.contains(&row.verdict.as_str()) {
            bad.push(format!("{}: {:?} is no verdict", row.id(), row.verdict));
        }
        let faults = faults(row).into_iter();
        bad.extend(faults.map(|fault| format!("{}: {fault}", row.id())));
    }
    report("tests/CONFORMANCE.md says what is so", &bad);
}

#[test]
fn no_statement_is_left_out() {
    let mut next = BTreeMap::<String, usize>::new();
    let mut bad = Vec::new();
    for row in rows() {
        let expected = next.entry(row.chapter.clone()).or_default();
        *expected += 1;
        if row.number != format!("{expected:03}") {
            bad.push(format!("{} where {expected:03} comes next", row.id()));
            *expected = row.number.parse().expect("three digits");
        }
    }
    report("Statements are numbered without gaps", &bad);
}

#[test]
fn the_sums_of_the_checklist_are_true() {
    let counts = counts();
    let text = ledger();
    let mut bad = Vec::new();
    for (chapter, counts) in &counts {
        let sum: usize = counts.iter().sum();
        let numbers = counts.map(|count| count.to_string()).join(" | ");
        let line = format!("| {chapter} | {sum} | {numbers} |");
        if !text.lines().any(|known| known == line) {
            bad.push(format!("{LEDGER} should say {line}"));
        }
    }
    let [tested, made, without, front_end, gaps] = counts["all"];
    let line = format!(
        "{tested} tested, {made} by construction, {without} not offered, {front_end} the front-end's, {gaps} gaps"
    );
    let readme = std::fs::read_to_string(tree::root().join("README.md")).expect("a README");
    if !readme.contains(&line) {
        bad.push(format!("README.md should say {line}"));
    }
    report("Sums are those of the rows", &bad);
}

#[test]
fn a_feature_is_offered_where_any_product_file_names_it() {
    let source = |path: &str, text: &str| Source {
        path: path.into(),
        text: text.into(),
    };
    let uses = "const OFFER: u64 = feature::ZONED | feature::RO;\n";
    for (path, side, expected) in [
        ("host-backends/block-backend/src/device.rs", "device", true),
        ("host-backends/block-backend/src/device.rs", "driver", false),
        ("guest-drivers/block-driver/src/any.rs", "driver", true),
        ("guest-drivers/virtio-spec/src/block.rs", "driver", false),
        ("host-backends/block-backend/src/tests.rs", "device", false),
    ] {
        let files = [source(path, uses)];
        let found = offered(&files, side, "ZONED").is_some();
        assert_eq!(found, expected, "{path} for the {side}");
    }
    let says = "//! No ZONED.\n";
    let files = [source("host-backends/block-backend/src/lib.rs", says)];
    assert_eq!(offered(&files, "device", "ZONED"), None);
}

#[test]
fn a_verdict_without_what_it_names_is_a_fault() {
    let row = |verdict: &str, shown: &str| Row {
        chapter: "net".into(),
        number: "001".into(),
        side: "device".into(),
        strength: "MUST".into(),
        asks: "something".into(),
        verdict: verdict.into(),
        shown: shown.into(),
    };
    for (verdict, shown) in [
        ("tested", "nothing"),
        ("tested", "`tidy::no_such_test`"),
        ("tested", "`a_verdict_without_what_it_names_is_a_fault`"),
        ("tested", "`the_sums_of_the_checklist_are_true_and_more`"),
        ("by construction", "`host-backends/no-such-file.rs`"),
        ("not offered", "`RO`"),
        ("not offered", "nothing"),
        ("front-end", "`short_name`"),
        ("gap", "short"),
    ] {
        assert!(
            !faults(&row(verdict, shown)).is_empty(),
            "{verdict}: {shown}"
        );
    }
    let good = "`tidy::a_verdict_without_what_it_names_is_a_fault`, `field`";
    assert!(faults(&row("tested", good)).is_empty());
}
