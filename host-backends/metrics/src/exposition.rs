//! Metrics as Prometheus text (exposition format 0.0.4).
//!
//! Rule: a family is announced once, whatever order its samples come in; no name, label or help breaks the format.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::sample::Number;
use crate::sample::Samples;

/// Labels of a sample, in the order in which they are written.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// Samples, gathered by family.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<String, Family>,
}

#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    samples: Vec<String>,
}

impl Exposition {
    /// Adds each value of `samples` as `paravane_<subject>_<name>`.
    pub fn add(&mut self, subject: &str, labels: Labels<'_>, samples: &Samples) {
        let labels = write_labels(labels);
        for sample in &samples.0 {
            let Some(number) = sample.number else {
                continue;
            };
            let number = match number {
                Number::Integer(number) => number.to_string(),
                Number::Float(number) => number.to_string(),
                Number::Flag(flag) => u8::from(flag).to_string(),
            };
            let metric = sample.metric;
            let name = format!("paravane_{}_{}", identifier(subject), metric.name);
            let family = self.families.entry(name.clone()).or_default();
            metric.kind.word().clone_into(&mut family.kind);
            family.help = escape_help(metric.help.trim());
            family.push(&name, &labels, &number);
        }
    }

    /// Adds what another process has written, each sample with `labels` before its own. Lines that are not as this
    /// module writes them are left out.
    pub fn absorb(&mut self, text: &str, labels: Labels<'_>) {
        let added = write_labels(labels);
        let mut announced: BTreeMap<&str, Family> = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words.as_slice() {
                ["#", "TYPE", name, kind @ ("counter" | "gauge")] if is_name(name) => {
                    (*kind).clone_into(&mut announced.entry(name).or_default().kind);
                }
                ["#", "HELP", name, help] if is_name(name) => {
                    (*help).clone_into(&mut announced.entry(name).or_default().help);
                }
                _ => self.absorb_sample(line, &added, &announced),
            }
        }
    }

    fn absorb_sample(&mut self, line: &str, added: &str, announced: &BTreeMap<&str, Family>) {
        let Some((sample, number)) = line.rsplit_once(' ') else {
            return;
        };
        let (name, own) = match sample.split_once('{') {
            Some((name, rest)) => match rest.strip_suffix('}') {
                Some(own) => (name, own),
                None => return,
            },
            None => (sample, ""),
        };
        let known = announced.get(name).filter(|family| !family.kind.is_empty());
        let (Some(known), true) = (known, number.parse::<f64>().is_ok()) else {
            return;
        };
        let comma = if added.is_empty() || own.is_empty() {
            ""
        } else {
            ","
        };
        let family = self.families.entry(name.to_owned()).or_default();
        family.kind.clone_from(&known.kind);
        family.help.clone_from(&known.help);
        family.push(name, &format!("{added}{comma}{own}"), number);
    }

    /// The text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, family) in &self.families {
            if !family.help.is_empty() {
                let _ = writeln!(text, "# HELP {name} {}", family.help);
            }
            let _ = writeln!(text, "# TYPE {name} {}", family.kind);
            text.extend(family.samples.iter().map(String::as_str));
        }
        text
    }
}

impl Family {
    fn push(&mut self, name: &str, labels: &str, number: &str) {
        self.samples.push(if labels.is_empty() {
            format!("{name} {number}\n")
        } else {
            format!("{name}{{{labels}}} {number}\n")
        });
    }
}

fn write_labels(labels: Labels<'_>) -> String {
    let mut written = String::new();
    for (name, value) in labels {
        let comma = if written.is_empty() { "" } else { "," };
        let _ = write!(written, "{comma}{}=\"{}\"", identifier(name), escape(value));
    }
    written
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && identifier(name) == name
}

/// `name` with what the format does not allow in names made `_`.
fn identifier(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}

/// A label's value between its quotes.
fn escape(value: &str) -> String {
    escape_help(value).replace('"', "\\\"")
}

fn escape_help(help: &str) -> String {
    help.replace('\\', "\\\\").replace('\n', "\\n")
}

#[cfg(test)]
#[path = "exposition_tests.rs"]
mod tests;
