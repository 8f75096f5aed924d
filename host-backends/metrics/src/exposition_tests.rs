//! Metrics as JSON and as text, from one declaration.

use super::*;
use crate::CounterSet;
use crate::MetricSet;
use crate::SharedCounter;
use serde_json::json;

crate::counters! {
    /// Frames.
    struct Frames named "receive_",
    /// Where they are counted.
    struct FrameCells of SharedCounter {
        /// Frames that came.
        frames,
        /// Their bytes.
        bytes_moved,
        /// Bytes dropped,
        /// for whatever reason.
        dropped_bytes in bytes,
    }
}

crate::metrics! {
    /// A card.
    struct Card {
        /// Whether the cable is in.
        link_up: bool as gauge,
        /// Largest frame.
        mtu_bytes: Option<u64> as gauge in bytes,
        /// Since the start.
        uptime_seconds: f64 as gauge in seconds,
    }
}

fn card(mtu_bytes: Option<u64>) -> Card {
    Card {
        link_up: true,
        mtu_bytes,
        uptime_seconds: 1.5,
    }
}

#[test]
fn json_and_text_have_each_metric_under_one_name() {
    let cells = FrameCells::default();
    cells.frames.add(7);
    cells.dropped_bytes.add(2);
    let samples = cells.sums().samples().and(&card(None));
    assert_eq!(
        samples.json(),
        json!({
            "receive_frames_total": 7,
            "receive_bytes_moved_total": 0,
            "receive_dropped_bytes_total": 2,
            "link_up": true,
            "mtu_bytes": null,
            "uptime_seconds": 1.5,
        })
    );
    let mut text = Exposition::default();
    text.add("net", &[("device", "net0")], &samples);
    let more = card(Some(1500)).samples();
    text.add("net", &[("device", "net1")], &more);
    assert_eq!(
        text.text(),
        "# HELP paravane_net_link_up Whether the cable is in.\n\
         # TYPE paravane_net_link_up gauge\n\
         paravane_net_link_up{device=\"net0\"} 1\n\
         paravane_net_link_up{device=\"net1\"} 1\n\
         # HELP paravane_net_mtu_bytes Largest frame.\n\
         # TYPE paravane_net_mtu_bytes gauge\n\
         paravane_net_mtu_bytes{device=\"net1\"} 1500\n\
         # HELP paravane_net_receive_bytes_moved_total Their bytes.\n\
         # TYPE paravane_net_receive_bytes_moved_total counter\n\
         paravane_net_receive_bytes_moved_total{device=\"net0\"} 0\n\
         # HELP paravane_net_receive_dropped_bytes_total Bytes dropped, for whatever reason.\n\
         # TYPE paravane_net_receive_dropped_bytes_total counter\n\
         paravane_net_receive_dropped_bytes_total{device=\"net0\"} 2\n\
         # HELP paravane_net_receive_frames_total Frames that came.\n\
         # TYPE paravane_net_receive_frames_total counter\n\
         paravane_net_receive_frames_total{device=\"net0\"} 7\n\
         # HELP paravane_net_uptime_seconds Since the start.\n\
         # TYPE paravane_net_uptime_seconds gauge\n\
         paravane_net_uptime_seconds{device=\"net0\"} 1.5\n\
         paravane_net_uptime_seconds{device=\"net1\"} 1.5\n"
    );
}

#[test]
fn what_others_wrote_keeps_its_families_and_gains_labels() {
    let mut daemon = Exposition::default();
    let link = card(None).samples();
    daemon.add("net", &[("device", "a b\"")], &link);
    let mut text = Exposition::default();
    for vm in ["web", "db"] {
        let more = "rubbish\nparavane_x_total 1\n# TYPE a{ counter\n# TYPE y gauge\ny{ 1\ny z\n# TYPE z histogram\nz 1\n";
        text.absorb(&(daemon.text() + more), &[("vm", vm)]);
    }
    text.absorb(
        "# TYPE paravane_pool_bytes gauge\nparavane_pool_bytes 6\n",
        &[],
    );
    assert_eq!(
        text.text(),
        "# HELP paravane_net_link_up Whether the cable is in.\n\
         # TYPE paravane_net_link_up gauge\n\
         paravane_net_link_up{vm=\"web\",device=\"a b\\\"\"} 1\n\
         paravane_net_link_up{vm=\"db\",device=\"a b\\\"\"} 1\n\
         # HELP paravane_net_uptime_seconds Since the start.\n\
         # TYPE paravane_net_uptime_seconds gauge\n\
         paravane_net_uptime_seconds{vm=\"web\",device=\"a b\\\"\"} 1.5\n\
         paravane_net_uptime_seconds{vm=\"db\",device=\"a b\\\"\"} 1.5\n\
         # TYPE paravane_pool_bytes gauge\n\
         paravane_pool_bytes 6\n"
    );
}

#[test]
fn names_and_labels_cannot_break_the_format() {
    let mut text = Exposition::default();
    let frames = Frames::default().samples();
    text.add("a b", &[("d x", "q\"\\\n}")], &frames);
    let text = text.text();
    let line = "paravane_a_b_receive_frames_total{d_x=\"q\\\"\\\\\\n}\"} 0";
    assert!(text.lines().any(|known| known == line), "{text}");
}
