//! The configuration space across backends: its length, and what the driver wrote into it. Rule: what a driver wrote is
//! recorded first and sent second, so that a backend that comes back learns of it before it serves a queue.

use std::collections::BTreeMap;

use vhost_user_protocol::feature::protocol;

use super::SessionSpec;
use super::connection::Connection;
use super::establish::Link;
use crate::Error;
use crate::Result;

/// Fields that the driver wrote in this life of the device. They do not overlap, so there are never more bytes here than
/// in the configuration space.
#[derive(Debug, Default)]
pub(crate) struct Written(BTreeMap<u32, Vec<u8>>);

impl Written {
    pub(crate) fn record(&mut self, offset: u32, data: &[u8]) {
        let end = |offset: u32, data: &[u8]| u64::from(offset) + data.len() as u64;
        let (from, to) = (u64::from(offset), end(offset, data));
        self.0
            .retain(|old, bytes| end(*old, bytes) <= from || u64::from(*old) >= to);
        self.0.insert(offset, data.to_vec());
    }

    /// Forgets everything; says whether there was anything.
    pub(crate) fn clear(&mut self) -> bool {
        let any = !self.0.is_empty();
        self.0.clear();
        any
    }

    /// Shows in `config` what a backend that has been told of it would show.
    pub(crate) fn overlay(&self, config: &mut [u8]) {
        for (offset, data) in &self.0 {
            let start = usize::try_from(*offset).unwrap_or(usize::MAX);
            let place = config.get_mut(start..start.saturating_add(data.len()));
            if let Some(place) = place {
                place.copy_from_slice(data);
            }
        }
    }

    /// Tells a new backend. One that refuses a field is not the device's end; it stays what it was.
    pub(crate) fn send(&mut self, link: &Link) -> Result<()> {
        if !link.connection.has(protocol::CONFIG) {
            return Ok(());
        }
        let mut refused = Vec::new();
        for (offset, data) in &self.0 {
            match link.connection.set_config(*offset, data) {
                Err(Error::Refused(_)) => {
                    tracing::warn!(offset, "the backend refuses what the driver wrote");
                    refused.push(*offset);
                }
                other => other?,
            }
        }
        self.0.retain(|offset, _| !refused.contains(offset));
        Ok(())
    }
}

/// Reads the configuration space: as long as the guest knows it, or at first as long as the backend has it.
pub(crate) fn read(spec: &SessionSpec, known: usize, connection: &Connection) -> Result<Vec<u8>> {
    if spec.config_len == 0 {
        return Ok(Vec::new());
    }
    if !connection.has(protocol::CONFIG) {
        let own = spec.config_own.clone();
        return own.ok_or(Error::Missing("a configuration space (CONFIG)"));
    }
    if known != 0 {
        return connection.config(u32::try_from(known).unwrap_or(0));
    }
    let mut answer = connection.config(spec.config_len);
    for shorter in spec.config_shorter {
        if !matches!(answer, Err(Error::Refused(_))) {
            break;
        }
        answer = connection.config(*shorter);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_twice_is_kept_once() {
        let mut written = Written::default();
        written.record(4, &[1; 4]);
        written.record(12, &[2; 4]);
        written.record(4, &[3; 4]);
        written.record(6, &[4; 1]);
        let mut config = [0; 16];
        written.overlay(&mut config);
        assert_eq!(config, [0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 2, 2, 2, 2]);
        for offset in 0..10_000u32 {
            written.record(offset % 13, &[5; 4]);
        }
        assert!(written.0.len() <= 4);
        assert!(written.clear() && !written.clear());
    }

    #[test]
    fn what_lies_outside_changes_nothing() {
        let mut written = Written::default();
        written.record(u32::MAX, &[1; 4]);
        written.record(6, &[1; 4]);
        let mut config = [0; 8];
        written.overlay(&mut config);
        assert_eq!(config, [0; 8]);
    }
}
