//! The commands of the documents and of each program's `--help`, run as they are written.
//!
//! One rule: each command that a reader finds has an entry in [`recipes::RECIPES`], and one without fails the first
//! test here. `cargo xtask ...` lines are parsed by a test of xtask itself, which cannot run inside itself.

mod recipes;
mod scene;

use std::collections::BTreeSet;

use anyhow::ensure;
use libtest_mimic::Arguments;
use vm::binaries;
use vm::documents;
use vm::documents::Example;

use crate::recipes::RECIPES;
use crate::recipes::Recipe;

/// Programs, and the words that show their examples.
const HELP: &[(&str, &[&str])] = &[
    ("paravane-blockd", &["--help"]),
    ("paravane-netd", &["--help"]),
    ("paravane-balloond", &["--help"]),
    ("paravane", &["--help"]),
    ("paravane", &["run", "--help"]),
    ("paravane", &["status", "--help"]),
    ("paravane", &["ctl", "--help"]),
];

fn main() {
    let mut arguments = Arguments::from_args();
    if arguments.test_threads.is_none() {
        arguments.test_threads = Some(1);
    }
    let name = "every_command_in_the_documents_and_help_texts_has_a_runner";
    let mut trials = vec![vm::trial(name, every_command_has_a_runner)];
    let starts = RECIPES.iter().enumerate().filter(|(_, r)| !r.continues);
    for (at, first) in starts {
        let rest = RECIPES.get(at + 1..).unwrap_or_default();
        let following = rest.iter().take_while(|recipe| recipe.continues);
        let chain: Vec<&Recipe> = std::iter::once(first).chain(following).collect();
        let name = format!("the_commands_work_{}", first.name);
        trials.push(vm::trial(&name, move || {
            scene::run(first.name, &chain, &all_examples()?)
        }));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// Whatever a reader finds, without lines that are tasks of xtask.
fn all_examples() -> anyhow::Result<Vec<Example>> {
    let mut all = Vec::new();
    for (place, text) in documents::markdown()? {
        all.extend(documents::blocks(&place, &text)?);
    }
    for (program, words) in HELP {
        let text = documents::help(&binaries::folder()?.join(program), words)?;
        let place = format!("{program} {}", words.join(" "));
        all.extend(documents::examples(&place, &text));
    }
    for example in &mut all {
        example
            .commands
            .retain(|command| !command.starts_with("cargo xtask "));
    }
    all.retain(|example| !example.commands.is_empty());
    Ok(all)
}

fn every_command_has_a_runner() -> anyhow::Result<()> {
    let examples = all_examples()?;
    let mut used = BTreeSet::new();
    let mut bad = Vec::new();
    for example in &examples {
        let mut found = RECIPES
            .iter()
            .enumerate()
            .filter(|(_, r)| r.is_for(example));
        match (found.next(), found.next()) {
            (Some((at, _)), None) => drop(used.insert(at)),
            (None, _) => bad.push(format!(
                "no runner: {} under {:?}",
                example.place, example.title
            )),
            _ => bad.push(format!("several runners: {:?}", example.title)),
        }
    }
    let unused = RECIPES
        .iter()
        .enumerate()
        .filter(|(at, _)| !used.contains(at));
    bad.extend(unused.map(|(_, r)| format!("nothing to run: {} {:?}", r.place, r.title)));
    ensure!(examples.len() > 15, "{} examples", examples.len());
    ensure!(bad.is_empty(), "\n  {}", bad.join("\n  "));
    Ok(())
}
