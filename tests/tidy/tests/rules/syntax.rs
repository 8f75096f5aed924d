//! Rules on the syntax tree: sizes, error enums, attributes, and where ring indices are compared.
//!
//! One rule: a rule here sees code, never comments or strings.

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::Visit;

use crate::report;
use crate::tree;

const FUNCTION_LINES: usize = 70;
const PRODUCT_LINES: usize = 500;
const INLINE_TEST_LINES: usize = 120;

/// Collects violations of one file.
struct Visitor<'a> {
    path: &'a str,
    long_functions: Vec<String>,
    ring_comparisons: Vec<String>,
    error_enums: Vec<String>,
    error_messages: Vec<String>,
    bare_allows: Vec<String>,
    inline_tests: Vec<String>,
    test_prefixes: Vec<String>,
}

impl<'a> Visitor<'a> {
    fn new(path: &'a str) -> Self {
        Self {
            path,
            long_functions: Vec::new(),
            ring_comparisons: Vec::new(),
            error_enums: Vec::new(),
            error_messages: Vec::new(),
            bare_allows: Vec::new(),
            inline_tests: Vec::new(),
            test_prefixes: Vec::new(),
        }
    }

    fn at(&self, span: Span, what: &str) -> String {
        format!("{}:{}: {what}", self.path, span.start().line)
    }

    fn function(&mut self, name: &syn::Ident, attributes: &[syn::Attribute], whole: Span) {
        let lines = whole.end().line - name.span().start().line + 1;
        if lines > FUNCTION_LINES {
            self.long_functions
                .push(self.at(name.span(), &format!("{name}: {lines} lines")));
        }
        let is_test = attributes.iter().any(|a| a.path().is_ident("test"));
        if is_test && name.to_string().starts_with("test_") {
            self.test_prefixes
                .push(self.at(name.span(), &name.to_string()));
        }
    }
}

/// Names that hold a position in a ring. Comparing two of them must respect the wrap.
fn is_ring_index(expression: &syn::Expr) -> bool {
    let name = match expression {
        syn::Expr::Path(path) => path.path.segments.last().map(|s| s.ident.to_string()),
        syn::Expr::Field(field) => match &field.member {
            syn::Member::Named(name) => Some(name.to_string()),
            syn::Member::Unnamed(_) => None,
        },
        syn::Expr::MethodCall(call) => Some(call.method.to_string()),
        syn::Expr::Paren(inner) => return is_ring_index(&inner.expr),
        syn::Expr::Reference(inner) => return is_ring_index(&inner.expr),
        _ => None,
    };
    let Some(name) = name else { return false };
    const EXACT: &[&str] = &[
        "avail_idx",
        "used_idx",
        "avail_index",
        "used_index",
        "next_avail",
        "next_used",
        "last_avail",
        "last_used",
        "avail_event",
        "used_event",
        "shadow_idx",
        "last_used_idx",
        "last_avail_idx",
        "old_idx",
        "new_idx",
    ];
    EXACT.contains(&name.as_str())
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
        let test = item.attrs.iter().any(|attribute| {
            let syn::Meta::List(list) = &attribute.meta else {
                return false;
            };
            list.path.is_ident("cfg") && list.tokens.to_string().contains("test")
        });
        if test && item.content.is_some() && lines > INLINE_TEST_LINES {
            let what = format!("{}: {lines} lines, move it to a sibling file", item.ident);
            self.inline_tests.push(self.at(item.ident.span(), &what));
        }
        syn::visit::visit_item_mod(self, item);
    }

    fn visit_expr_binary(&mut self, item: &'ast syn::ExprBinary) {
        use syn::BinOp::{Ge, Gt, Le, Lt};
        let ordered = matches!(item.op, Lt(_) | Gt(_) | Le(_) | Ge(_));
        if ordered && (is_ring_index(&item.left) || is_ring_index(&item.right)) {
            self.ring_comparisons
                .push(self.at(item.span(), "ordered comparison of a ring index"));
        }
        syn::visit::visit_expr_binary(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        if derives_error(&item.attrs) {
            if matches!(item.vis, syn::Visibility::Public(_)) {
                self.error_enums
                    .push(self.at(item.ident.span(), &item.ident.to_string()));
            }
            for variant in &item.variants {
                if let Some(message) = error_message(&variant.attrs).filter(|m| !well_formed(m)) {
                    self.error_messages
                        .push(self.at(variant.ident.span(), &message));
                }
            }
        }
        syn::visit::visit_item_enum(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let nested = match &attribute.meta {
            syn::Meta::List(list) => list.tokens.to_string(),
            _ => String::new(),
        };
        let allow = attribute.path().is_ident("allow")
            || (attribute.path().is_ident("cfg_attr") && nested.contains("allow ("));
        // `allow` with a reason is for what only some builds of a shared file need.
        if allow && !nested.contains("reason") {
            self.bare_allows
                .push(self.at(attribute.span(), "use #[expect(.., reason = \"..\")]"));
        }
        if attribute.path().is_ident("expect") && !nested.contains("reason") {
            self.bare_allows
                .push(self.at(attribute.span(), "expect without a reason"));
        }
        syn::visit::visit_attribute(self, attribute);
    }
}

fn derives_error(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("derive") => {
            let derived = list.tokens.to_string().replace(' ', "");
            derived
                .split(',')
                .any(|name| name == "Error" || name == "thiserror::Error")
        }
        _ => false,
    })
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

fn collect(pick: impl Fn(Visitor<'_>) -> Vec<String>, product_only: bool) -> Vec<String> {
    let mut all = Vec::new();
    for file in tree::rust() {
        if product_only && file.is_test() {
            continue;
        }
        let parsed = syn::parse_file(&file.text)
            .unwrap_or_else(|error| panic!("{} is not Rust: {error}", file.path));
        let mut visitor = Visitor::new(&file.path);
        visitor.visit_file(&parsed);
        all.extend(pick(visitor));
    }
    all
}

#[test]
fn functions_fit_on_a_screen() {
    let bad = collect(|v| v.long_functions, false);
    report("A function has at most 70 lines", &bad);
}

#[test]
fn product_files_are_short() {
    let bad: Vec<String> = tree::rust()
        .iter()
        .filter(|file| !file.is_test())
        .map(|file| (file, file.text.lines().count()))
        .filter(|(_, lines)| *lines > PRODUCT_LINES)
        .map(|(file, lines)| format!("{}: {lines} lines", file.path))
        .collect();
    report("A product file has at most 500 lines", &bad);
}

#[test]
fn long_tests_stand_in_a_sibling_file() {
    let bad = collect(|v| v.inline_tests, true);
    report("Inline test modules are short", &bad);
}

#[test]
fn ring_indices_are_compared_in_one_module() {
    let mut bad = collect(|v| v.ring_comparisons, true);
    bad.retain(|place| !place.starts_with("guest-drivers/virtqueue/src/index"));
    report(
        "Ring indices wrap: compare them through virtqueue::index",
        &bad,
    );
}

#[test]
fn a_library_has_one_error_enum() {
    let mut bad = Vec::new();
    for (_, dir, package) in tree::members() {
        if !package.targets.iter().any(cargo_metadata::Target::is_lib) || dir.starts_with("tests/")
        {
            continue;
        }
        let mut enums = collect(|v| v.error_enums, true);
        enums.retain(|place| place.starts_with(&format!("{dir}/")));
        if enums.len() > 1 {
            bad.extend(enums);
        }
    }
    report("A library shows one thiserror enum", &bad);
}

#[test]
fn error_messages_start_with_a_capital_and_have_no_full_stop() {
    let bad = collect(|v| v.error_messages, true);
    report("Error messages: capital first, no full stop", &bad);
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() {
    let bad = collect(|v| v.bare_allows, false);
    report("`#[expect(lint, reason = ..)]`, not `allow`", &bad);
}

#[test]
fn names_of_tests_are_sentences() {
    let bad = collect(|v| v.test_prefixes, false);
    report("Test names carry no `test_` prefix", &bad);
}
