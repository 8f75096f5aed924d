//! A table with its positions.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

use crate::Error;
use crate::ORIGIN;
use crate::Places;

/// What all tables of a file share.
#[derive(Clone, Copy, Debug)]
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

/// A table of a file.
#[derive(Debug)]
pub struct Section<'a> {
    source: Source<'a>,
    /// Where keys come from, by their path in the file.
    origin: BTreeMap<String, String>,
    /// Of this table in the file, empty for the root.
    path: String,
    span: Range<usize>,
    table: DeTable<'a>,
}

impl<'a> Section<'a> {
    pub(crate) fn root(path: &'a Path, text: &'a str) -> Result<Self, Error> {
        let source = Source { path, text };
        let root = DeTable::parse(text).map_err(|error| source.fault("", &error))?;
        let span = root.span();
        let mut section = Self {
            source,
            origin: BTreeMap::new(),
            path: String::new(),
            span,
            table: root.into_inner(),
        };
        section.origin = section.take(&[ORIGIN]).read::<Origin>()?.origin;
        Ok(section)
    }

    /// Takes `keys` out, as a table of their own.
    #[must_use]
    pub fn take(&mut self, keys: &[&str]) -> Self {
        let mut table = DeTable::new();
        for key in keys {
            if let Some((key, value)) = self.table.remove_entry(*key) {
                table.insert(key, value);
            }
        }
        Self {
            source: self.source,
            origin: self.origin.clone(),
            path: self.path.clone(),
            span: self.span.clone(),
            table,
        }
    }

    /// Takes the tables `[[key]]` out, in their order.
    ///
    /// # Errors
    /// `key` is something else.
    pub fn take_tables(&mut self, key: &str) -> Result<Vec<Self>, Error> {
        let Some(value) = self.table.remove(key) else {
            return Ok(Vec::new());
        };
        let path = join(&self.path, key);
        let span = value.span();
        let wrong = || {
            let message = format!("write [[{key}]] tables");
            Error::Fault {
                place: self.place(&path, &span),
                message,
            }
        };
        let DeValue::Array(values) = value.into_inner() else {
            return Err(wrong());
        };
        let tables = values.into_iter().enumerate().map(|(index, value)| {
            let span = value.span();
            match value.into_inner() {
                DeValue::Table(table) => Ok(Self {
                    source: self.source,
                    origin: self.origin.clone(),
                    path: join(&path, &index.to_string()),
                    span,
                    table,
                }),
                _ => Err(wrong()),
            }
        });
        tables.collect()
    }

    /// All that is left as a `T`.
    ///
    /// # Errors
    /// It is none.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, Error> {
        let positions = self.positions();
        let (source, origin, path) = (self.source, self.origin, self.path);
        let table = Spanned::new(self.span.clone(), self.table);
        T::deserialize(toml::de::Deserializer::from(table)).map_err(|error| {
            let span = error.span().unwrap_or(self.span);
            // The innermost key that the error is in; a later one begins later.
            let mut around = positions.iter();
            let key =
                around.rfind(|(_, known)| known.start <= span.start && span.start < known.end);
            let key = key.map_or(path.as_str(), |(key, _)| key.as_str());
            Error::Fault {
                place: place(source, &origin, &path, key, &span),
                message: error.message().trim_end().replace('\n', " "),
            }
        })
    }

    /// Where this table and all that is in it stand.
    pub fn places(&self) -> Places {
        let mut places = Places::new(self.place(&self.path, &self.span));
        for (path, span) in self.positions() {
            let inside = path.strip_prefix(&self.path).unwrap_or(&path);
            let key = inside.trim_start_matches('.').to_owned();
            places.add(key, self.place(&path, &span));
        }
        places
    }

    /// The paths of all keys in the file and where they and their values are, in the order of the text.
    fn positions(&self) -> Vec<(String, Range<usize>)> {
        let mut positions = Vec::new();
        walk(&self.path, &self.table, &mut positions);
        positions.sort_by_key(|(_, span)| span.start);
        positions
    }

    fn place(&self, key: &str, span: &Range<usize>) -> String {
        place(self.source, &self.origin, &self.path, key, span)
    }
}

/// The table [`ORIGIN`].
#[derive(serde::Deserialize)]
struct Origin {
    #[serde(default)]
    origin: BTreeMap<String, String>,
}

impl Source<'_> {
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        before.filter(|byte| **byte == b'\n').count() + 1
    }

    fn fault(&self, key: &str, error: &toml::de::Error) -> Error {
        let span = error.span().unwrap_or_default();
        Error::Fault {
            place: place(*self, &BTreeMap::new(), "", key, &span),
            message: error.message().trim_end().replace('\n', " "),
        }
    }
}

/// The place of `key`, which is `table` or in it: where it comes from, or file, line and key.
fn place(
    source: Source<'_>,
    origin: &BTreeMap<String, String>,
    table: &str,
    key: &str,
    span: &Range<usize>,
) -> String {
    let mut around = key;
    loop {
        if let Some(place) = origin.get(around) {
            let inside = key.strip_prefix(around).unwrap_or_default();
            return match inside.strip_prefix('.') {
                Some(inside) => format!("{place}, key {inside}"),
                None => place.clone(),
            };
        }
        match around.rsplit_once('.') {
            Some((outer, _)) => around = outer,
            None => break,
        }
    }
    let file = source.path.display();
    let line = source.line(span.start);
    let inside = key.strip_prefix(table).unwrap_or(key);
    match inside.trim_start_matches('.') {
        "" => format!("{file}, line {line}"),
        inside => format!("{file}, line {line}, key {inside}"),
    }
}

fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

fn walk(path: &str, table: &DeTable<'_>, positions: &mut Vec<(String, Range<usize>)>) {
    for (key, value) in table {
        let path = join(path, key.get_ref());
        positions.push((
            path.clone(),
            key.span().start..key.span().end.max(value.span().end),
        ));
        walk_value(&path, value.get_ref(), positions);
    }
}

fn walk_value(path: &str, value: &DeValue<'_>, positions: &mut Vec<(String, Range<usize>)>) {
    match value {
        DeValue::Table(table) => walk(path, table, positions),
        DeValue::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                let path = join(path, &index.to_string());
                positions.push((path.clone(), value.span()));
                walk_value(&path, value.get_ref(), positions);
            }
        }
        _ => {}
    }
}
