//! Rules on tests/CONFORMANCE.md: each statement has a verdict, and what a verdict names is there.
//!
//! One rule: a row is checked against the tree, a sum against the rows; whether a verdict is right only a reader sees.

use std::collections::BTreeMap;

use crate::Rule;
use crate::code;
use crate::tree::Source;
use crate::tree::Tree;

const LEDGER: &str = "tests/CONFORMANCE.md";
const VERDICTS: [&str; 6] = [
    "tested",
    "by construction",
    "not offered",
    "front-end",
    "shell",
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

fn rows(tree: &Tree) -> Vec<Row> {
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
    tree.text(LEDGER).lines().filter_map(row).collect()
}

/// Rows by chapter and verdict.
fn counts(tree: &Tree) -> BTreeMap<String, [usize; 6]> {
    let mut counts = BTreeMap::<String, [usize; 6]>::new();
    for row in rows(tree) {
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
fn offered(tree: &Tree, side: &str, feature: &str) -> Option<String> {
    let folder = match side {
        "device" => "host-backends/",
        _ => "guest-drivers/",
    };
    // Constants are defined there, whoever uses them.
    let defines = |file: &Source| file.path.starts_with("guest-drivers/virtio-spec/");
    let product = tree.product().filter(|file| file.path.starts_with(folder));
    product.filter(|file| !defines(file)).find_map(|file| {
        let line = code::named(file, feature)?;
        Some(format!("{}:{line}", file.path))
    })
}

/// What is wrong with the last cell of a row.
fn faults(tree: &Tree, row: &Row) -> Vec<String> {
    let mut bad = Vec::new();
    let (mut tests, mut files, mut features) = (0, 0, 0);
    for name in row.names() {
        if name.contains("::") && name.starts_with(|c: char| c.is_ascii_lowercase()) {
            tests += 1;
            bad.extend(tree.tests().fault(name));
        } else if name.contains('/') {
            files += 1;
            if !tree.has(name) {
                bad.push(format!("no file {name}"));
            }
        } else if is_snake(name) {
            if tree.tests().has(name) {
                bad.push(format!("{name}: cite a test as `crate::name`"));
            } else if name.matches('_').count() > 2 {
                // Names of fields and functions are short; tests are sentences.
                bad.push(format!("no test {name}"));
            }
        } else if is_feature(name) && row.verdict == "not offered" {
            features += 1;
            if let Some(place) = offered(tree, &row.side, name) {
                bad.push(format!("{name} is offered or accepted: {place}"));
            }
        }
    }
    let named = match row.verdict.as_str() {
        "tested" => tests > 0,
        "by construction" => files > 0,
        "not offered" => features == 1,
        "front-end" | "shell" => tests + files > 0,
        _ => row.shown.len() > 20,
    };
    if !named {
        bad.push(format!("nothing that shows {:?}", row.verdict));
    }
    bad
}

fn unanswered(tree: &Tree) -> Vec<String> {
    let mut bad = Vec::new();
    for row in rows(tree) {
        let sides = ["driver", "device"].contains(&row.side.as_str());
        let strengths = ["MUST", "SHOULD", "MAY", "SHALL", "RECOMMENDED"];
        let strength = row.strength.trim_end_matches(" NOT");
        if !sides || !strengths.contains(&strength) || row.asks.is_empty() {
            bad.push(format!("{}: side, strength or statement", row.id()));
        }
        if !VERDICTS.contains(&row.verdict.as_str()) {
            bad.push(format!("{}: {:?} is no verdict", row.id(), row.verdict));
        }
        let faults = faults(tree, &row).into_iter();
        bad.extend(faults.map(|fault| format!("{}: {fault}", row.id())));
    }
    bad
}

const TEST: (&str, &str) = ("vmm/kvm/src/tests.rs", "#[test]\nfn a_is_b() {}\n");
const DEVICE: (&str, &str) = (
    "host-backends/one/src/lib.rs",
    "const A: u64 = feature::ZONED;\n",
);
const SAYS: (&str, &str) = ("host-backends/one/src/lib.rs", "//! No ZONED.\n");
/// A row with this verdict, shown by this.
macro_rules! row {
    ($verdict:literal, $shown:literal) => {
        (
            LEDGER,
            concat!(
                "| net-001 | device | MUST | something | ",
                $verdict,
                " | ",
                $shown,
                " |\n"
            ),
        )
    };
}
const FALSE_ROWS: &[(crate::tree::Files, &str)] = &[
    (&[TEST, row!("tested", "nothing")], "nothing that shows"),
    (
        &[TEST, row!("tested", "`kvm::no_such_test`")],
        "no test kvm::no_such_test",
    ),
    (
        &[TEST, row!("tested", "`a_is_b`")],
        "cite a test as `crate::name`",
    ),
    (
        &[
            TEST,
            row!("tested", "`kvm::a_is_b`, `a_long_name_of_nothing`"),
        ],
        "no test a_long_name",
    ),
    (
        &[TEST, row!("by construction", "`vmm/no-such-file.rs`")],
        "no file vmm/no-such-file.rs",
    ),
    (
        &[TEST, row!("by construction", "by nature")],
        "nothing that shows",
    ),
    (
        &[DEVICE, row!("not offered", "`ZONED`")],
        "ZONED is offered or accepted: host-backends/one/src/lib.rs:1",
    ),
    (
        &[DEVICE, row!("not offered", "nothing")],
        "nothing that shows",
    ),
    (
        &[TEST, row!("front-end", "`short_name`")],
        "nothing that shows",
    ),
    (
        &[TEST, row!("shell", "its network stack")],
        "nothing that shows",
    ),
    (&[TEST, row!("gap", "short")], "nothing that shows"),
    (&[TEST, row!("perhaps", "`kvm::a_is_b`")], "is no verdict"),
    (
        &[
            TEST,
            (
                LEDGER,
                "| net-001 | nobody | MUST | something | tested | `kvm::a_is_b` |\n",
            ),
        ],
        "side, strength",
    ),
];

#[test]
fn every_statement_has_a_verdict_and_what_it_names_is_there() {
    Rule {
        asks: "tests/CONFORMANCE.md says what is so",
        finds: unanswered,
        breaches: FALSE_ROWS,
        fine: &[
            &[TEST, row!("tested", "`kvm::a_is_b`, `field`")],
            &[
                TEST,
                row!("shell", "`vmm/kvm/src/tests.rs`: its network stack"),
            ],
            &[SAYS, row!("not offered", "`ZONED`")],
            &[
                ("host-backends/one/src/tests.rs", "const A: u64 = ZONED;\n"),
                row!("not offered", "`ZONED`"),
            ],
            &[
                ("guest-drivers/one/src/lib.rs", "const A: u64 = ZONED;\n"),
                row!("not offered", "`ZONED`"),
            ],
        ],
    }
    .holds();
    let count = rows(crate::tree::real()).len();
    assert!(count > 700, "the checklist was read: {count}");
}

fn left_out(tree: &Tree) -> Vec<String> {
    let mut next = BTreeMap::<String, usize>::new();
    let mut bad = Vec::new();
    for row in rows(tree) {
        let expected = next.entry(row.chapter.clone()).or_default();
        *expected += 1;
        if row.number != format!("{expected:03}") {
            bad.push(format!("{} where {expected:03} comes next", row.id()));
            *expected = row.number.parse().expect("three digits");
        }
    }
    bad
}

#[test]
fn no_statement_is_left_out() {
    Rule {
        asks: "Statements are numbered without gaps",
        finds: left_out,
        breaches: &[
            (
                &[(LEDGER, "| net-001 | device | MUST | a | gap | b |\n| net-003 | device | MUST | a | gap | b |\n")],
                "net-003 where 002 comes next",
            ),
            (&[(LEDGER, "| net-002 | device | MUST | a | gap | b |\n")], "net-002 where 001 comes next"),
        ],
        fine: &[&[(LEDGER, "| net-001 | device | MUST | a | gap | b |\n| pci-001 | device | MUST | a | gap | b |\n")]],
    }
    .holds();
}

fn wrong_sums(tree: &Tree) -> Vec<String> {
    let counts = counts(tree);
    let text = tree.text(LEDGER);
    let mut bad = Vec::new();
    for (chapter, counts) in &counts {
        let sum: usize = counts.iter().sum();
        let numbers = counts.map(|count| count.to_string()).join(" | ");
        let line = format!("| {chapter} | {sum} | {numbers} |");
        if !text.lines().any(|known| known == line) {
            bad.push(format!("{LEDGER} should say {line}"));
        }
    }
    let [tested, made, without, front_end, shells, gaps] =
        counts.get("all").copied().unwrap_or_default();
    let line = format!(
        "{tested} tested, {made} by construction, {without} not offered, {front_end} the front-end's, {shells} the shells', {gaps} gaps"
    );
    if !tree.text("README.md").contains(&line) {
        bad.push(format!("README.md should say {line}"));
    }
    bad
}

#[test]
fn the_sums_of_the_checklist_are_true() {
    const ROWS: &str =
        "| net-001 | device | MUST | a | gap | b |\n| net-002 | device | MUST | a | shell | b |\n";
    const GOOD: &str = concat!(
        "| net | 2 | 0 | 0 | 0 | 0 | 1 | 1 |\n| all | 2 | 0 | 0 | 0 | 0 | 1 | 1 |\n",
        "| net-001 | device | MUST | a | gap | b |\n| net-002 | device | MUST | a | shell | b |\n"
    );
    const README: (&str, &str) = (
        "README.md",
        "0 tested, 0 by construction, 0 not offered, 0 the front-end's, 1 the shells', 1 gaps",
    );
    Rule {
        asks: "Sums are those of the rows",
        finds: wrong_sums,
        breaches: &[
            (
                &[README, (LEDGER, ROWS)],
                "should say | net | 2 | 0 | 0 | 0 | 0 | 1 | 1 |",
            ),
            (&[("README.md", ""), (LEDGER, GOOD)], "README.md should say"),
        ],
        fine: &[&[README, (LEDGER, GOOD)]],
    }
    .holds();
}
