//! Logs to standard error, with a bound on what a guest can make us write.
//!
//! Rule: each place in the code that warns may do so [`BURST`] times in [`PERIOD`]; the first line after a silence says
//! how many were left out.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use clap::ValueEnum;
use host_os::output::StandardError;
use host_os::sync::lock;
use serde::Deserialize;
use serde::Serialize;
use tracing::Event;
use tracing::Level;
use tracing::Metadata;
use tracing::Subscriber;
use tracing::callsite::Identifier;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::layer::Filter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::Error;

/// Lines that one place in the code may log in [`PERIOD`].
const BURST: u32 = 10;
/// See [`BURST`].
const PERIOD: Duration = Duration::from_secs(5);

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text each; without time under systemd, whose journal adds it.
    #[default]
    Text,
    /// One JSON object each.
    Json,
}

/// Starts logging with `directives` (`info`, `warn,block_backend=debug`), once per process.
///
/// # Errors
/// The directives are malformed.
pub fn start(directives: &str, format: LogFormat) -> Result<(), Error> {
    let filter = EnvFilter::try_new(directives).map_err(|source| Error::Log {
        directives: directives.to_owned(),
        source: Box::new(source),
    })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(|| StandardError);
    let limit = RateLimit::default();
    let registry = tracing_subscriber::registry().with(filter);
    let started = match format {
        LogFormat::Json => registry.with(lines.json().with_filter(limit)).try_init(),
        LogFormat::Text if std::env::var_os("JOURNAL_STREAM").is_some() => registry
            .with(lines.without_time().with_ansi(false).with_filter(limit))
            .try_init(),
        LogFormat::Text => registry
            .with(lines.with_ansi(is_terminal()).with_filter(limit))
            .try_init(),
    };
    // A second start in one process (tests) keeps the first.
    drop(started);
    Ok(())
}

fn is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}

/// Lets each place in the code log only so often, from warnings up; what is below is off in production anyway.
#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    seen: Mutex<HashMap<Identifier, Window>>,
}

#[derive(Debug)]
struct Window {
    start: Instant,
    count: u32,
}

impl RateLimit {
    /// Whether a line of `callsite` may go out at `now`, and how many were left out before it.
    fn admit(&self, callsite: Identifier, now: Instant) -> (bool, u32) {
        let mut seen = lock(&self.seen);
        let window = seen.entry(callsite).or_insert(Window {
            start: now,
            count: 0,
        });
        let mut left_out = 0;
        if now.duration_since(window.start) >= PERIOD {
            left_out = window.count.saturating_sub(BURST);
            *window = Window {
                start: now,
                count: 0,
            };
        }
        window.count = window.count.saturating_add(1);
        (window.count <= BURST, left_out)
    }
}

impl<S: Subscriber> Filter<S> for RateLimit {
    fn enabled(&self, _meta: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        let meta = event.metadata();
        if *meta.level() > Level::WARN {
            return true;
        }
        let (admitted, left_out) = self.admit(meta.callsite(), Instant::now());
        if left_out != 0 {
            let place = meta.target();
            host_os::tell!("({left_out} lines like the next from {place} were left out)");
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    //! What the rate limit lets through.

    use super::*;

    #[test]
    fn a_flood_from_one_place_is_cut_and_counted() {
        let _guard = tracing::subscriber::set_default(tracing_subscriber::registry());
        let limit = RateLimit::default();
        let here = Identifier(&PLACE);
        let start = Instant::now();
        let admitted = (0..1000)
            .filter(|_| limit.admit(here.clone(), start).0)
            .count();
        assert_eq!(admitted, BURST as usize);
        let (admitted, left_out) = limit.admit(here, start + PERIOD);
        assert!(admitted);
        assert_eq!(left_out, 1000 - BURST);
    }

    struct Place;
    static PLACE: Place = Place;
    impl tracing::callsite::Callsite for Place {
        fn set_interest(&self, _: tracing::subscriber::Interest) {}
        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("the limit looks only at the identity")
        }
    }
}
