//! Identifiers of a file's code, without comments, strings and test modules.
//!
//! One rule: a rule that asks whether code uses something asks here.

use proc_macro2::Delimiter;
use proc_macro2::TokenStream;
use proc_macro2::TokenTree;

use crate::tree::Source;

/// `[cfg(test)]` or `[cfg(all(test, ..))]`, but not `[cfg(not(test))]`.
fn is_for_tests(attribute: &TokenStream) -> bool {
    let words = attribute.to_string().replace(' ', "");
    words == "cfg(test)" || words.starts_with("cfg(all(test,")
}

/// Calls `see` with each identifier and its line; an item that only tests compile is passed over.
fn walk(stream: TokenStream, see: &mut dyn FnMut(&str, usize)) {
    let mut skipping = false;
    let mut hash = false;
    for token in stream {
        let after_hash = std::mem::take(&mut hash);
        match token {
            TokenTree::Punct(punct) => {
                hash = punct.as_char() == '#';
                skipping &= punct.as_char() != ';';
            }
            TokenTree::Group(group) if after_hash && is_for_tests(&group.stream()) => {
                skipping = true;
            }
            TokenTree::Group(group) if skipping => {
                skipping = group.delimiter() != Delimiter::Brace || after_hash;
            }
            TokenTree::Group(group) => walk(group.stream(), see),
            TokenTree::Ident(ident) if !skipping => {
                see(&ident.to_string(), ident.span().start().line);
            }
            _ => {}
        }
    }
}

/// Calls `see` with each identifier of the product code and its line.
pub fn identifiers(file: &Source, see: &mut dyn FnMut(&str, usize)) {
    walk(file.text.parse().expect("a source file is Rust"), see);
}

/// The first line where product code names `identifier`.
pub fn named(file: &Source, identifier: &str) -> Option<usize> {
    // Parsing is slow, and most files do not have the letters at all.
    if !file.text.contains(identifier) {
        return None;
    }
    let mut found = None;
    identifiers(file, &mut |ident, line| {
        if ident == identifier && found.is_none() {
            found = Some(line);
        }
    });
    found
}

#[test]
fn comments_strings_and_tests_are_no_code() {
    let source = |text: &str| Source {
        path: "guest-drivers/one/src/lib.rs".into(),
        text: text.into(),
    };
    let silent = "//! ZONED\n/// ZONED\nfn a() { let b = \"ZONED\"; }\n\
                  #[cfg(test)]\nmod tests { const A: u64 = ZONED; }\n#[cfg(test)]\nuse b::ZONED;\n";
    assert_eq!(named(&source(silent), "ZONED"), None);
    let told = "macro_rules! a { () => { ZONED } }\n";
    assert_eq!(named(&source(told), "ZONED"), Some(1));
    let told = "fn a() {}\nconst A: u64 = b::ZONED;\n";
    assert_eq!(named(&source(told), "ZONED"), Some(2));
    let told = "#[cfg(not(test))]\nconst A: u64 = ZONED;\n";
    assert_eq!(named(&source(told), "ZONED"), Some(2));
}
