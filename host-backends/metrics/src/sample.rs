//! What a metric is, and what it has come to.

use serde_json::Map;
use serde_json::Value;

use crate::declare::MetricSet;

/// How a number changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 when the process started.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Kind {
    /// As Prometheus text has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// What a number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its key in JSON, and its name in Prometheus text behind `paravane_` and a subject.
    pub name: &'static str,
    /// What it counts, in a sentence.
    pub help: &'static str,
    /// How it changes.
    pub kind: Kind,
}

/// A value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A count, or whole units.
    Integer(u64),
    /// Parts of units too.
    Float(f64),
    /// Yes or no; 1 or 0 in Prometheus text.
    Flag(bool),
}

impl From<Number> for Value {
    fn from(number: Number) -> Self {
        match number {
            Number::Integer(number) => number.into(),
            Number::Float(number) => number.into(),
            Number::Flag(flag) => flag.into(),
        }
    }
}

/// What a field of a set of metrics can be. Nothing, if there is no value now.
pub trait Measured {
    /// Its value.
    fn number(self) -> Option<Number>;
}

impl Measured for u64 {
    fn number(self) -> Option<Number> {
        Some(Number::Integer(self))
    }
}

impl Measured for f64 {
    fn number(self) -> Option<Number> {
        Some(Number::Float(self))
    }
}

impl Measured for bool {
    fn number(self) -> Option<Number> {
        Some(Number::Flag(self))
    }
}

impl<T: Measured> Measured for Option<T> {
    fn number(self) -> Option<Number> {
        self.and_then(Measured::number)
    }
}

/// One metric with its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// What it is.
    pub metric: &'static Metric,
    /// What it has come to. Nothing, if there is no value now.
    pub number: Option<Number>,
}

/// The values of one or more sets of metrics at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(pub(crate) Vec<Sample>);

impl Samples {
    /// The values of `set`.
    pub fn of<S: MetricSet>(set: &S) -> Self {
        Self::default().and(set)
    }

    /// These, and the values of `set`.
    #[must_use]
    pub fn and<S: MetricSet>(mut self, set: &S) -> Self {
        let values = S::METRICS.iter().zip(set.numbers());
        let samples = values.map(|(metric, number)| Sample { metric, number });
        self.0.extend(samples);
        self
    }

    /// As a JSON object; null where there is no value now.
    pub fn json(&self) -> Value {
        let pairs = self.0.iter().map(|sample| {
            let value = sample.number.map_or(Value::Null, Value::from);
            (sample.metric.name.to_owned(), value)
        });
        Value::Object(pairs.collect::<Map<_, _>>())
    }
}
