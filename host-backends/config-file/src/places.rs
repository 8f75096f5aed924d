//! Where the keys of a table stand, in words.

use std::collections::BTreeMap;

use crate::Error;

/// Places of a table and of the keys in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Of the table: nothing for what stands in no file.
    table: Option<String>,
    keys: BTreeMap<String, String>,
}

impl Places {
    /// Those of a table that stands at `table`, without any of keys.
    pub fn new(table: impl Into<String>) -> Self {
        let (table, keys) = (Some(table.into()), BTreeMap::new());
        Self { table, keys }
    }

    /// Adds the place of a key.
    pub fn add(&mut self, key: impl Into<String>, place: impl Into<String>) {
        self.keys.insert(key.into(), place.into());
    }

    /// Forgets the places of a key and of all below it, as it counts no longer.
    pub fn forget(&mut self, key: &str) {
        let below = |path: &str| {
            path.strip_prefix(key)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        self.keys.retain(|path, _| path != key && !below(path));
    }

    /// The place of the table.
    pub fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    /// Keys, those of tables inside joined by dots, with their places.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.keys.iter();
        pairs.map(|(key, place)| (key.as_str(), place.as_str()))
    }

    /// The place of `key`, or of the table if it has none.
    pub fn of(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(String::as_str).or(self.table())
    }

    /// What is below `key`, as places of its own.
    #[must_use]
    pub fn below(&self, key: &str) -> Self {
        let inside = self.keys.iter().filter_map(|(path, place)| {
            let path = path.strip_prefix(key)?.strip_prefix('.')?;
            Some((path.to_owned(), place.clone()))
        });
        Self {
            table: self.of(key).map(str::to_owned),
            keys: inside.collect(),
        }
    }

    /// `fault`, which begins with the key that it is about if it is about one, behind its place.
    pub fn locate(&self, fault: &str) -> String {
        let word = |c: char| c.is_whitespace() || c == ':' || c == '=';
        let key = fault.split(word).next().unwrap_or_default();
        let key = key.trim_matches(['"', '`']);
        match (self.keys.get(key), self.table()) {
            (Some(place), _) => {
                let rest = fault.strip_prefix(key).unwrap_or_default();
                format!("{place}: {}", rest.strip_prefix(": ").unwrap_or(fault))
            }
            (None, Some(place)) => format!("{place}: {fault}"),
            (None, None) => fault.to_owned(),
        }
    }

    /// An error of `message` at the place of `key`.
    pub fn fault(&self, key: &str, message: impl Into<String>) -> Error {
        Error::Fault {
            place: self.of(key).unwrap_or("The command line").to_owned(),
            message: message.into(),
        }
    }
}
