//! Rules on the syntax tree: sizes, error messages, attributes; and what other rules ask of it.
//!
//! One rule: a rule here sees code, never comments or strings; each file is parsed once.

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::Visit;

use crate::Rule;
use crate::errors;
use crate::numbers;
use crate::rings;
use crate::tree::Source;
use crate::tree::Tree;

const FUNCTION_LINES: usize = 70;
const PRODUCT_LINES: usize = 500;
const TEST_LINES: usize = 900;
const INLINE_TEST_LINES: usize = 120;

/// What the files of a tree show, each with its place.
#[derive(Default)]
pub struct Findings {
    long_functions: Vec<String>,
    error_messages: Vec<String>,
    bare_allows: Vec<String>,
    inline_tests: Vec<String>,
    test_prefixes: Vec<String>,
    /// Ordered comparisons of ring positions in product code.
    pub ring_comparisons: Vec<String>,
    /// Public errors of product code.
    pub errors: Vec<errors::Found>,
    /// Places in wire structures, as numbers, in product code.
    pub wire_numbers: Vec<numbers::Found>,
}

impl Findings {
    pub fn of(tree: &Tree) -> Self {
        let mut findings = Self::default();
        for file in tree.rust() {
            let parsed = syn::parse_file(&file.text)
                .unwrap_or_else(|error| panic!("{} is not Rust: {error}", file.path));
            let mut visitor = Visitor {
                file,
                product: !file.is_test(),
                in_tests: false,
                findings: &mut findings,
            };
            visitor.visit_file(&parsed);
        }
        findings
    }
}

/// Notes what one file shows.
struct Visitor<'a> {
    file: &'a Source,
    product: bool,
    in_tests: bool,
    findings: &'a mut Findings,
}

impl Visitor<'_> {
    fn at(&self, span: Span, what: &str) -> String {
        format!("{}:{}: {what}", self.file.path, span.start().line)
    }

    /// Whether this is code that ships.
    fn ships(&self) -> bool {
        self.product && !self.in_tests
    }

    fn function(&mut self, name: &syn::Ident, attributes: &[syn::Attribute], whole: Span) {
        let lines = whole.end().line - name.span().start().line + 1;
        if lines > FUNCTION_LINES {
            let place = self.at(name.span(), &format!("{name}: {lines} lines"));
            self.findings.long_functions.push(place);
        }
        let is_test = attributes.iter().any(|a| a.path().is_ident("test"));
        if is_test && name.to_string().starts_with("test_") {
            let place = self.at(name.span(), &name.to_string());
            self.findings.test_prefixes.push(place);
        }
    }
}

/// `#[cfg(test)]` or `#[cfg(all(test, ..))]`.
fn only_in_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else {
            return false;
        };
        let words = list.tokens.to_string().replace(' ', "");
        list.path.is_ident("cfg") && (words == "test" || words.starts_with("all(test,"))
    })
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig.ident, &item.attrs, item.span());
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig.ident, &item.attrs, item.span());
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.function(&item.sig.ident, &item.attrs, item.span());
        syn::visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let lines = item.span().end().line - item.mod_token.span().start().line;
        let test = only_in_tests(&item.attrs);
        if self.product && test && item.content.is_some() && lines > INLINE_TEST_LINES {
            let what = format!("{}: {lines} lines, move it to a sibling file", item.ident);
            self.findings
                .inline_tests
                .push(self.at(item.ident.span(), &what));
        }
        let before = self.in_tests;
        self.in_tests |= test;
        syn::visit::visit_item_mod(self, item);
        self.in_tests = before;
    }

    fn visit_expr_binary(&mut self, item: &'ast syn::ExprBinary) {
        if self.product && rings::is_ordered_comparison(&self.file.path, item) {
            let place = self.at(item.span(), "ordered comparison of a ring index");
            self.findings.ring_comparisons.push(place);
        }
        syn::visit::visit_expr_binary(self, item);
    }

    fn visit_expr_range(&mut self, item: &'ast syn::ExprRange) {
        if self.ships() {
            let found = numbers::range(self.file, item);
            self.findings.wire_numbers.extend(found);
        }
        syn::visit::visit_expr_range(self, item);
    }

    fn visit_expr_call(&mut self, item: &'ast syn::ExprCall) {
        if self.ships() {
            let found = numbers::call(self.file, item);
            self.findings.wire_numbers.extend(found);
        }
        syn::visit::visit_expr_call(self, item);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        if self.ships() {
            let found = numbers::constant(self.file, item);
            self.findings.wire_numbers.extend(found);
        }
        syn::visit::visit_item_const(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        if self.ships() && errors::is_derived(&item.attrs) {
            let found = errors::derived(self.file, &item.ident, &item.vis);
            self.findings.errors.extend(found);
            for variant in &item.variants {
                let message = error_message(&variant.attrs).filter(|m| !well_formed(m));
                if let Some(message) = message {
                    let place = self.at(variant.ident.span(), &message);
                    self.findings.error_messages.push(place);
                }
            }
        }
        syn::visit::visit_item_enum(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        if self.ships() && errors::is_derived(&item.attrs) {
            let found = errors::derived(self.file, &item.ident, &item.vis);
            self.findings.errors.extend(found);
        }
        syn::visit::visit_item_struct(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if self.ships() {
            let found = errors::implemented(self.file, item);
            self.findings.errors.extend(found);
        }
        syn::visit::visit_item_impl(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let nested = match &attribute.meta {
            syn::Meta::List(list) => list.tokens.to_string(),
            _ => String::new(),
        };
        let allow = attribute.path().is_ident("allow")
            || (attribute.path().is_ident("cfg_attr") && nested.contains("allow ("));
        // `allow` with a reason is for what only some builds of a shared file need.
        let what = if allow {
            "use #[expect(.., reason = \"..\")]"
        } else {
            "expect without a reason"
        };
        if (allow || attribute.path().is_ident("expect")) && !nested.contains("reason") {
            let place = self.at(attribute.span(), what);
            self.findings.bare_allows.push(place);
        }
        syn::visit::visit_attribute(self, attribute);
    }
}

/// The literal of `#[error("...")]`.
fn error_message(attributes: &[syn::Attribute]) -> Option<String> {
    let attribute = attributes
        .iter()
        .find(|attribute| attribute.path().is_ident("error"))?;
    let syn::Meta::List(list) = &attribute.meta else {
        return None;
    };
    let first = list.tokens.clone().into_iter().next()?;
    let literal: syn::LitStr = syn::parse2(first.into()).ok()?;
    Some(literal.value())
}

/// Capital first, no full stop.
fn well_formed(message: &str) -> bool {
    let first = message.chars().next();
    !message.ends_with('.') && first.is_some_and(|c| !c.is_lowercase())
}

/// So many empty lines.
macro_rules! lines {
    (901) => {
        concat!($crate::syntax::lines!(501), $crate::syntax::lines!(400))
    };
    (900) => {
        concat!($crate::syntax::lines!(500), $crate::syntax::lines!(400))
    };
    (501) => {
        concat!($crate::syntax::lines!(401), $crate::syntax::lines!(100))
    };
    (500) => {
        concat!($crate::syntax::lines!(400), $crate::syntax::lines!(100))
    };
    (401) => {
        concat!($crate::syntax::lines!(400), "\n")
    };
    (400) => {
        concat!(
            $crate::syntax::lines!(100),
            $crate::syntax::lines!(100),
            $crate::syntax::lines!(100),
            $crate::syntax::lines!(100)
        )
    };
    (100) => {
        concat!(
            $crate::syntax::lines!(20),
            $crate::syntax::lines!(20),
            $crate::syntax::lines!(20),
            $crate::syntax::lines!(20),
            $crate::syntax::lines!(20)
        )
    };
    (69) => {
        concat!(
            $crate::syntax::lines!(20),
            $crate::syntax::lines!(20),
            $crate::syntax::lines!(20),
            "\n\n\n\n\n\n\n\n\n"
        )
    };
    (70) => {
        concat!($crate::syntax::lines!(69), "\n")
    };
    (20) => {
        "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n"
    };
}
pub(crate) use lines;

/// A function of 71 lines, and one of 70.
const LONG: &str = concat!("pub fn a() {", lines!(70), "}\n");
const LAST: &str = concat!("pub fn a() {", lines!(69), "}\n");

#[test]
fn functions_fit_on_a_screen() {
    Rule {
        asks: "A function has at most 70 lines",
        finds: |tree| tree.findings().long_functions.clone(),
        breaches: &[
            (&[("vmm/kvm/src/lib.rs", LONG)], "a: 71 lines"),
            (&[("vmm/kvm/src/tests.rs", LONG)], "a: 71 lines"),
        ],
        fine: &[&[("vmm/kvm/src/lib.rs", LAST)]],
    }
    .holds();
}

fn long_files(tree: &Tree) -> Vec<String> {
    let limit = |file: &Source| {
        if file.is_test() && !file.is_helper() {
            TEST_LINES
        } else {
            PRODUCT_LINES
        }
    };
    let files = tree.rust().map(|file| (file, file.text.lines().count()));
    let long = files.filter(|(file, lines)| *lines > limit(file));
    long.map(|(file, lines)| format!("{}: {lines} lines, at most {}", file.path, limit(file)))
        .collect()
}

#[test]
fn files_are_short() {
    Rule {
        asks: "A file of a product has at most 500 lines, and so has one of a program for tests; one of tests has 900",
        finds: long_files,
        breaches: &[
            (&[("vmm/kvm/src/lib.rs", lines!(501))], "501 lines, at most 500"),
            (&[("tests/vm/src/qemu.rs", lines!(501))], "501 lines, at most 500"),
            (&[("tests/vm/tests/boots.rs", lines!(901))], "901 lines, at most 900"),
            (&[("vmm/kvm/src/tests.rs", lines!(901))], "901 lines, at most 900"),
        ],
        fine: &[&[
            ("vmm/kvm/src/lib.rs", lines!(500)),
            ("tests/vm/src/qemu.rs", lines!(500)),
            ("tests/vm/tests/boots.rs", lines!(900)),
            ("vmm/kvm/src/vcpu_tests.rs", lines!(900)),
        ]],
    }
    .holds();
}

#[test]
fn long_tests_stand_in_a_sibling_file() {
    const TESTS: &str = concat!(
        "#[cfg(test)]\nmod tests {",
        lines!(100),
        lines!(20),
        "\n}\n"
    );
    Rule {
        asks: "Inline test modules are short",
        finds: |tree| tree.findings().inline_tests.clone(),
        breaches: &[(&[("vmm/kvm/src/lib.rs", TESTS)], "tests: 121 lines")],
        fine: &[
            &[("vmm/kvm/src/tests.rs", TESTS)],
            &[(
                "vmm/kvm/src/lib.rs",
                "#[cfg(test)]\nmod tests { fn a() {} }\n",
            )],
        ],
    }
    .holds();
}

#[test]
fn error_messages_start_with_a_capital_and_have_no_full_stop() {
    Rule {
        asks: "Error messages: capital first, no full stop",
        finds: |tree| tree.findings().error_messages.clone(),
        breaches: &[
            (&[("vmm/kvm/src/error.rs", "#[derive(Debug, thiserror::Error)]\nenum E {\n#[error(\"no good\")]\nA }\n")], "no good"),
            (&[("vmm/kvm/src/error.rs", "#[derive(Error)]\nenum E {\n#[error(\"No good.\")]\nA }\n")], "No good."),
        ],
        fine: &[&[("vmm/kvm/src/error.rs", "#[derive(Error)]\nenum E {\n#[error(\"No good: {0}\")]\nA(u8),\n#[error(transparent)]\nB(F) }\n")]],
    }
    .holds();
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() {
    Rule {
        asks: "`#[expect(lint, reason = ..)]`, not `allow`",
        finds: |tree| tree.findings().bare_allows.clone(),
        breaches: &[
            (
                &[("vmm/kvm/src/lib.rs", "#[allow(dead_code)]\nfn a() {}\n")],
                "use #[expect",
            ),
            (
                &[(
                    "vmm/kvm/src/lib.rs",
                    "#![cfg_attr(test, allow(dead_code))]\n",
                )],
                "use #[expect",
            ),
            (
                &[("vmm/kvm/src/tests.rs", "#[expect(dead_code)]\nfn a() {}\n")],
                "without a reason",
            ),
        ],
        fine: &[&[(
            "vmm/kvm/src/lib.rs",
            "#[expect(dead_code, reason = \"later\")]\nfn a() {}\n",
        )]],
    }
    .holds();
}

#[test]
fn names_of_tests_are_sentences() {
    Rule {
        asks: "Test names carry no `test_` prefix",
        finds: |tree| tree.findings().test_prefixes.clone(),
        breaches: &[(
            &[("vmm/kvm/src/tests.rs", "#[test]\nfn test_a() {}\n")],
            "test_a",
        )],
        fine: &[&[(
            "vmm/kvm/src/tests.rs",
            "#[test]\nfn a_is_b() {}\nfn test_helper() {}\n",
        )]],
    }
    .holds();
}
