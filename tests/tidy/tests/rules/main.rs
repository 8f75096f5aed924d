//! Every rule of the workspace, each as one test; all violations of a rule are shown at once.
//!
//! One rule: a rule here is a function of the tree's text alone, so it needs no network and no build, and each comes
//! with small trees that break it: one that sees nothing fails before it looks at the real tree.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

mod code;
mod conformance;
mod dependencies;
mod documents;
mod errors;
mod manifests;
mod names;
mod numbers;
mod rings;
mod syntax;
mod text;
mod tree;
mod unsafety;

use tree::Files;
use tree::Tree;

/// A rule of the workspace.
struct Rule {
    /// What it asks for, for those who broke it.
    asks: &'static str,
    /// The places that break it, each with what to do where that is not plain.
    finds: fn(&Tree) -> Vec<String>,
    /// Small trees that break it, each with a part of what is then found.
    breaches: &'static [(Files, &'static str)],
    /// Small trees that come near to it and are well.
    fine: &'static [Files],
}

impl Rule {
    /// Fails where the rule is blind, and then with all violations of the tree at once.
    fn holds(&self) {
        assert!(
            !self.breaches.is_empty(),
            "{}: no breach of it is shown",
            self.asks
        );
        for (files, says) in self.breaches {
            let found = (self.finds)(&Tree::of(files));
            assert!(
                found.iter().any(|place| place.contains(says)),
                "{}: {says:?} is not among {found:?} in {files:?}",
                self.asks
            );
        }
        for files in self.fine {
            let found = (self.finds)(&Tree::of(files));
            assert!(found.is_empty(), "{}: {found:?} in {files:?}", self.asks);
        }
        let found = (self.finds)(tree::real());
        assert!(
            found.is_empty(),
            "{}\n  {}\n({} violations)",
            self.asks,
            found.join("\n  "),
            found.len()
        );
    }
}
