//! Commands as the documents and the programs' `--help` show them.
//!
//! One rule: what is run is the text itself, taken from where a reader finds it.

use std::path::Path;
use std::process::Command;

use anyhow::Context;
use anyhow::ensure;

use crate::paths;
use crate::process;

/// Commands under one heading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Where a reader finds it: a file, or a program with its words.
    pub place: String,
    /// The sentence above it.
    pub title: String,
    /// The commands, each with its continuation lines and here-document, as written.
    pub commands: Vec<String>,
    /// Lines that are no commands: the content of the file that the first command names.
    pub content: String,
}

/// All Markdown files of the tree, by their paths in it.
///
/// # Errors
/// When the tree cannot be read.
pub fn markdown() -> anyhow::Result<Vec<(String, String)>> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<(String, String)>) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let output = ["target", "artifacts"].contains(&&*name) || name.starts_with('.');
            if path.is_dir() && !path.is_symlink() && !output {
                walk(&path, root, found)?;
            } else if name.ends_with(".md") {
                let place = path.strip_prefix(root)?.display().to_string();
                found.push((place, std::fs::read_to_string(&path)?));
            }
        }
        Ok(())
    }
    let root = paths::root();
    let mut found = Vec::new();
    walk(&root, &root, &mut found)?;
    found.sort();
    Ok(found)
}

/// The `sh` blocks of a Markdown text.
///
/// # Errors
/// When a block does not say what it is.
pub fn blocks(place: &str, text: &str) -> anyhow::Result<Vec<Example>> {
    let mut found = Vec::new();
    let mut title = String::new();
    let mut ended = false;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            if line.trim().is_empty() {
                ended = true;
                continue;
            }
            // The paragraph above a block, in one line.
            if std::mem::take(&mut ended) {
                title.clear();
            }
            title.push_str(if title.is_empty() { "" } else { " " });
            title.push_str(line.trim());
            continue;
        };
        let mut inside = lines
            .by_ref()
            .take_while(|line| !line.trim().starts_with("```"));
        match language {
            "sh" => found.push(Example {
                place: place.into(),
                title: title.clone(),
                commands: commands(&mut inside),
                content: String::new(),
            }),
            "" => anyhow::bail!("{place}: a block after {title:?} without a language: sh or text"),
            _ => inside.for_each(drop),
        }
    }
    Ok(found)
}

/// Joins what belongs to one command: continued lines, here-documents, loops.
fn commands(lines: &mut dyn Iterator<Item = &str>) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut goes_on = false;
    let mut until: Option<String> = None;
    for line in lines {
        if goes_on || until.is_some() {
            if let Some(command) = commands.last_mut() {
                command.push('\n');
                command.push_str(line);
            }
        } else if !line.trim().is_empty() {
            commands.push(line.to_string());
        }
        if until.as_deref().is_some_and(|end| line.trim() == end) {
            until = None;
        } else if let Some((_, end)) = line.split_once("<<") {
            until = Some(end.trim().trim_matches('\'').to_string());
        } else if line.starts_with("for ") {
            until = Some("done".into());
        }
        goes_on = until.is_none() && line.ends_with('\\');
    }
    commands
}

/// The examples of a help text: after "Examples:", sentences at two blanks, their commands at four, and what is
/// at six is the content of the file that the command names.
pub fn examples(place: &str, help: &str) -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    let Some((_, text)) = help.split_once("\nExamples:\n") else {
        return found;
    };
    let mut paragraph: Vec<String> = Vec::new();
    let mut continued = false;
    for line in text.lines() {
        let depth = line.len() - line.trim_start().len();
        let Some(words) = line.get(depth..).filter(|words| !words.is_empty()) else {
            // Sentences that no command follows are none's title.
            if found.last().is_some_and(|last| last.commands.is_empty()) {
                paragraph.clear();
            }
            continue;
        };
        match depth {
            0 => break,
            1..4 if !continued => {
                if found.last().is_some_and(|last| !last.commands.is_empty()) || found.is_empty() {
                    paragraph.clear();
                    found.push(Example {
                        place: place.into(),
                        title: String::new(),
                        commands: Vec::new(),
                        content: String::new(),
                    });
                }
                paragraph.push(words.into());
            }
            _ => {}
        }
        let Some(last) = found.last_mut() else {
            continue;
        };
        last.title = paragraph.join(" ");
        match (depth, last.commands.last_mut()) {
            (4.., Some(command)) if continued => {
                command.push('\n');
                command.push_str(line);
            }
            (4, _) => last.commands.push(words.into()),
            (5.., _) => {
                last.content.push_str(words);
                last.content.push('\n');
            }
            _ => {}
        }
        continued = depth >= 4 && line.ends_with('\\');
    }
    found.retain(|example| !example.commands.is_empty());
    found
}

/// What a program says to these words.
///
/// # Errors
/// When it does not end with 0.
pub fn help(program: &Path, words: &[&str]) -> anyhow::Result<String> {
    let text = process::run(Command::new(program).args(words))?;
    ensure!(!text.is_empty(), "{} is silent", program.display());
    Ok(text)
}

/// Each `cargo xtask ...` of the documents: in blocks, and in a line between backquotes.
///
/// # Errors
/// When the documents cannot be read.
pub fn tasks() -> anyhow::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for (place, text) in markdown()? {
        let of_blocks = blocks(&place, &text)?
            .into_iter()
            .flat_map(|block| block.commands);
        let lines: Vec<String> = of_blocks.collect();
        let between = text.split('`').skip(1).step_by(2).map(ToString::to_string);
        for line in lines.into_iter().chain(between) {
            let words = line.split(" #").next().unwrap_or_default().trim();
            if words == "cargo xtask" || !words.starts_with("cargo xtask") {
                continue;
            }
            found.push((place.clone(), words.to_string()));
        }
    }
    found.dedup();
    Ok(found).and_then(|found| {
        let first: Option<&(String, String)> = found.first();
        first.context("no document names a task").map(drop)?;
        Ok(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_a_block_keep_their_continuations_and_here_documents() -> anyhow::Result<()> {
        let text = "One:\n\n```sh\na \\\n  b\ncat > c <<END\nd\n\ne\nEND\nf &\n```\nTwo:\n```text\ng\n```\n";
        let blocks = blocks("x.md", text)?;
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks[0].title, "One:");
        let expected = ["a \\\n  b", "cat > c <<END\nd\n\ne\nEND", "f &"];
        assert_eq!(blocks[0].commands, expected);
        assert!(super::blocks("x.md", "```\na\n```\n").is_err());
        Ok(())
    }

    #[test]
    fn examples_of_a_help_text_are_found_with_the_files_they_name() {
        let help = "What it does.\n\nExamples:\n  First:\n    a \\\n      b\n    c\n\n  Said by the way.\n\n  Second, over\n  two lines:\n    \
                    d --config e.toml\n\n      f = 1\n      [g]\n\nExit codes:\n    0\n";
        let found = examples("p", help);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].commands, ["a \\\n      b", "c"]);
        assert_eq!(found[1].title, "Second, over two lines:");
        assert_eq!(found[1].content, "f = 1\n[g]\n");
    }
}
