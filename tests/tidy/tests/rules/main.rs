//! Every rule of the workspace, each as one test; all violations of a rule are shown at once.
//!
//! One rule: a test here reads the tree and the manifests only, so it needs no network and no build.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

mod code;
mod conformance;
mod dependencies;
mod documents;
mod names;
mod syntax;
mod text;
mod tree;
mod unsafety;

/// Fails with all violations at once.
fn report(rule: &str, violations: &[String]) {
    assert!(
        violations.is_empty(),
        "{rule}\n  {}\n({} violations)",
        violations.join("\n  "),
        violations.len()
    );
}
