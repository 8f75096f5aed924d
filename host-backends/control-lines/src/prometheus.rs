//! Counters as Prometheus text (exposition format 0.0.4), made from flat JSON without knowing what it counts.
//!
//! Rule: a family is announced once, whatever order its samples come in; nothing that is no number becomes a sample, and
//! no name or label breaks the format.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

/// Labels of a sample, in the order in which they are written.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// Samples, gathered by family.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<String, Family>,
}

#[derive(Debug)]
struct Family {
    kind: &'static str,
    samples: Vec<String>,
}

impl Exposition {
    /// Adds each number of `object` as `paravane_<subject>_<key>`: a counter with the ending `_total`, or a gauge if
    /// the key is among `gauges` or the value true or false. Objects inside add their key to the name, arrays a
    /// label of their name with the index; arrays right inside arrays are left out.
    pub fn add(&mut self, subject: &str, labels: Labels<'_>, object: &Value, gauges: &[&str]) {
        let labels = write_labels(labels);
        self.walk(&identifier(subject), "", &labels, object, gauges);
    }

    fn walk(&mut self, subject: &str, key: &str, labels: &str, value: &Value, gauges: &[&str]) {
        match value {
            Value::Number(number) => {
                let gauge = gauges.iter().any(|gauge| identifier(gauge) == key);
                self.sample(subject, key, labels, &number.to_string(), gauge);
            }
            Value::Bool(yes) => {
                self.sample(subject, key, labels, if *yes { "1" } else { "0" }, true);
            }
            Value::Object(object) => {
                for (inner, value) in object {
                    let inner = identifier(inner);
                    let key = if key.is_empty() {
                        inner
                    } else {
                        format!("{key}_{inner}")
                    };
                    self.walk(subject, &key, labels, value, gauges);
                }
            }
            Value::Array(values) => {
                let simple = |value: &&Value| !value.is_array();
                for (index, value) in values.iter().filter(simple).enumerate() {
                    let comma = if labels.is_empty() { "" } else { "," };
                    let labels = format!("{labels}{comma}{key}=\"{index}\"");
                    self.walk(subject, key, &labels, value, gauges);
                }
            }
            Value::Null | Value::String(_) => {}
        }
    }

    fn sample(&mut self, subject: &str, key: &str, labels: &str, number: &str, gauge: bool) {
        let mut name = format!("paravane_{subject}");
        if !key.is_empty() {
            let _ = write!(name, "_{key}");
        }
        if !gauge && !name.ends_with("_total") {
            name.push_str("_total");
        }
        let kind = if gauge { "gauge" } else { "counter" };
        self.push(&name, kind, labels, number);
    }

    /// Adds what another process has written, each sample with `labels` before its own. Lines that are not as this
    /// module writes them are left out.
    pub fn absorb(&mut self, text: &str, labels: Labels<'_>) {
        let added = write_labels(labels);
        let mut kinds = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["#", "TYPE", name, "counter"] if is_name(name) => kinds.insert(*name, "counter"),
                ["#", "TYPE", name, "gauge"] if is_name(name) => kinds.insert(*name, "gauge"),
                _ => {
                    self.absorb_sample(line, &added, &kinds);
                    None
                }
            };
        }
    }

    fn absorb_sample(&mut self, line: &str, added: &str, kinds: &BTreeMap<&str, &'static str>) {
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
        let (Some(kind), true) = (kinds.get(name), number.parse::<f64>().is_ok()) else {
            return;
        };
        let comma = if added.is_empty() || own.is_empty() {
            ""
        } else {
            ","
        };
        self.push(name, kind, &format!("{added}{comma}{own}"), number);
    }

    fn push(&mut self, name: &str, kind: &'static str, labels: &str, number: &str) {
        let line = if labels.is_empty() {
            format!("{name} {number}\n")
        } else {
            format!("{name}{{{labels}}} {number}\n")
        };
        self.families
            .entry(name.to_owned())
            .or_insert(Family {
                kind,
                samples: Vec::new(),
            })
            .samples
            .push(line);
    }

    /// The text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, family) in &self.families {
            let _ = writeln!(text, "# TYPE {name} {}", family.kind);
            text.extend(family.samples.iter().map(String::as_str));
        }
        text
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
    let mut text = String::new();
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn families_are_announced_once_and_kinds_follow_the_rule() {
        let mut text = Exposition::default();
        for name in ["net0", "net1"] {
            let object = json!({
                "receive_frames": 7,
                "mtu_bytes": 1500,
                "link": true,
                "name": "x",
                "nothing": null,
                "drops_total": 2,
                "reads": {"from-cache": 1},
                "lengths": [3, {"odd": 4}, [5]],
            });
            text.add("net", &[("device", name)], &object, &["mtu_bytes"]);
        }
        assert_eq!(
            text.text(),
            "# TYPE paravane_net_drops_total counter\n\
             paravane_net_drops_total{device=\"net0\"} 2\n\
             paravane_net_drops_total{device=\"net1\"} 2\n\
             # TYPE paravane_net_lengths_odd_total counter\n\
             paravane_net_lengths_odd_total{device=\"net0\",lengths=\"1\"} 4\n\
             paravane_net_lengths_odd_total{device=\"net1\",lengths=\"1\"} 4\n\
             # TYPE paravane_net_lengths_total counter\n\
             paravane_net_lengths_total{device=\"net0\",lengths=\"0\"} 3\n\
             paravane_net_lengths_total{device=\"net1\",lengths=\"0\"} 3\n\
             # TYPE paravane_net_link gauge\n\
             paravane_net_link{device=\"net0\"} 1\n\
             paravane_net_link{device=\"net1\"} 1\n\
             # TYPE paravane_net_mtu_bytes gauge\n\
             paravane_net_mtu_bytes{device=\"net0\"} 1500\n\
             paravane_net_mtu_bytes{device=\"net1\"} 1500\n\
             # TYPE paravane_net_reads_from_cache_total counter\n\
             paravane_net_reads_from_cache_total{device=\"net0\"} 1\n\
             paravane_net_reads_from_cache_total{device=\"net1\"} 1\n\
             # TYPE paravane_net_receive_frames_total counter\n\
             paravane_net_receive_frames_total{device=\"net0\"} 7\n\
             paravane_net_receive_frames_total{device=\"net1\"} 7\n"
        );
    }

    #[test]
    fn what_others_wrote_keeps_its_families_and_gains_labels() {
        let mut daemon = Exposition::default();
        daemon.add("net", &[("device", "a b\"")], &json!({"frames": 7}), &[]);
        daemon.add("pool", &[], &json!({"bytes": 5}), &["bytes"]);
        let mut text = Exposition::default();
        for vm in ["web", "db"] {
            let more =
                "rubbish\nparavane_x_total 1\n# TYPE a{ counter\n# TYPE y gauge\ny{ 1\ny z\n";
            text.absorb(&(daemon.text() + more), &[("vm", vm)]);
        }
        text.absorb(
            "# TYPE paravane_pool_bytes gauge\nparavane_pool_bytes 6\n",
            &[],
        );
        assert_eq!(
            text.text(),
            "# TYPE paravane_net_frames_total counter\n\
             paravane_net_frames_total{vm=\"web\",device=\"a b\\\"\"} 7\n\
             paravane_net_frames_total{vm=\"db\",device=\"a b\\\"\"} 7\n\
             # TYPE paravane_pool_bytes gauge\n\
             paravane_pool_bytes{vm=\"web\"} 5\n\
             paravane_pool_bytes{vm=\"db\"} 5\n\
             paravane_pool_bytes 6\n"
        );
    }

    #[test]
    fn names_and_labels_cannot_break_the_format() {
        let mut text = Exposition::default();
        text.add("a b", &[("d", "q\"\\\n}")], &json!({"x{y\n": 1}), &[]);
        assert_eq!(
            text.text(),
            "# TYPE paravane_a_b_x_y__total counter\nparavane_a_b_x_y__total{d=\"q\\\"\\\\\\n}\"} 1\n"
        );
    }
}
