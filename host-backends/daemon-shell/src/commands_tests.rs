//! Commands on a daemon without a process: two lamps, with and without an overseer.

use super::*;
use device_model::ConfigNotifier;
use device_model::Device;
use device_model::QueueHandler;
use metrics::Samples;
use std::sync::Mutex;
use vhost_user_server::Options;

use crate::Error;

metrics::metrics! {
    /// A lamp's.
    struct LampMetrics {
        /// How long it was lit.
        lit_seconds: f64 as counter in seconds,
        /// How bright it is.
        watts: u64 as gauge,
    }
}

metrics::metrics! {
    /// A house's.
    struct HouseMetrics {
        /// People who came.
        visitors: u64 as counter,
    }
}

/// A lamp; no front-end ever meets it.
struct Lamp {
    watts: Mutex<u64>,
}

impl Served for Lamp {
    fn device(&self) -> Arc<dyn Device> {
        Arc::new(Bulb)
    }

    fn kind(&self) -> &'static str {
        "lamp"
    }

    fn status(&self) -> Value {
        json!({"colour": "red"})
    }

    fn metrics(&self) -> Samples {
        let watts = *self.watts.lock().unwrap();
        let lit_seconds = 5.0;
        LampMetrics { lit_seconds, watts }.samples()
    }

    fn set(&self, changes: &Changes) -> Result<Value, String> {
        let set = json!(changes);
        let watts = set["watts"].as_u64();
        *self.watts.lock().unwrap() = watts.ok_or("Say watts=NUMBER")?;
        Ok(json!({"watts": watts}))
    }
}

struct House;

impl Overseer for House {
    fn kind(&self) -> &'static str {
        "house"
    }

    fn start(self: Arc<Self>) -> Result<(), Error> {
        Ok(())
    }

    fn status(&self) -> Value {
        json!({"door": "shut"})
    }

    fn metrics(&self) -> Samples {
        HouseMetrics { visitors: 2 }.samples()
    }

    fn set(&self, changes: &Changes) -> Result<Value, String> {
        Ok(json!({"house": changes}))
    }
}

/// What a front-end would meet.
struct Bulb;

impl Device for Bulb {
    fn device_id(&self) -> u32 {
        63
    }

    fn queue_count(&self) -> u16 {
        2
    }

    fn queue_size_max(&self) -> u16 {
        256
    }

    fn features(&self) -> u64 {
        0
    }

    fn acked(&self, _: u64) {}

    fn config_size(&self) -> u32 {
        0
    }

    fn read_config(&self, _: u32, _: &mut [u8]) {}

    fn write_config(&self, _: u32, _: &[u8]) -> Result<(), device_model::Error> {
        Err(device_model::Error::Unsupported)
    }

    fn start_queue(&self, _: u16, _: u64) -> Result<Box<dyn QueueHandler>, device_model::Error> {
        Err(device_model::Error::Unsupported)
    }

    fn reset(&self) {}

    fn on_config_change(&self, _: ConfigNotifier) {}
}

fn commands(names: &[&str], overseer: Option<Arc<dyn Overseer>>) -> Commands {
    let shutdown = ShutdownHandle::new().unwrap();
    let unit = |name: &&str| Running {
        name: (*name).to_owned(),
        server: Arc::new(
            Server::with_shutdown(Arc::new(Bulb), Options::default(), shutdown.clone()).unwrap(),
        ),
        served: Arc::new(Lamp {
            watts: Mutex::new(40),
        }),
    };
    Commands {
        units: names.iter().map(unit).collect(),
        overseer,
        shutdown: shutdown.clone(),
    }
}

fn say(commands: &Commands, line: &str) -> Result<Value, String> {
    match commands.answer(Command::parse(line)?) {
        Answer::Value(value) | Answer::Last(value, _) => Ok(value),
        Answer::Text(text) => Ok(json!(text)),
        Answer::Error(error) => Err(error),
    }
}

#[test]
fn set_reaches_the_device_that_is_named_or_the_only_one() {
    let two = commands(&["hall", "attic"], None);
    assert_eq!(say(&two, "set attic watts=60"), Ok(json!({"watts": 60})));
    let metrics = say(&two, "metrics").unwrap();
    assert_eq!(metrics["devices"][0]["device"]["watts"], 40);
    assert_eq!(metrics["devices"][1]["device"]["watts"], 60);
    assert!(
        say(&two, "set watts=5")
            .unwrap_err()
            .contains("hall, attic")
    );
    assert!(say(&two, "set cellar watts=5").is_err());
    assert_eq!(
        say(&two, "set hall colour=red"),
        Err("Say watts=NUMBER".into())
    );
    let one = commands(&["hall"], None);
    assert_eq!(say(&one, "set watts=5"), Ok(json!({"watts": 5})));
    assert!(say(&one, "resize").unwrap_err().contains("no size"));
    assert!(say(&one, "power-button").unwrap_err().contains("A VM"));
}

#[test]
fn what_stands_above_the_devices_is_asked_and_set_without_a_name() {
    let house = commands(&["hall"], Some(Arc::new(House)));
    assert_eq!(say(&house, "status").unwrap()["house"]["door"], "shut");
    assert_eq!(
        say(&house, "metrics").unwrap()["house"]["visitors_total"],
        2
    );
    let set = say(&house, "set watts=5").unwrap();
    assert_eq!(set, json!({"house": {"watts": 5}}));
    assert_eq!(say(&house, "set hall watts=5"), Ok(json!({"watts": 5})));
}

#[test]
fn prometheus_text_holds_session_queues_device_and_overseer() {
    let house = commands(&["hall"], Some(Arc::new(House)));
    let text = say(&house, "prometheus").unwrap();
    let text = text.as_str().unwrap();
    for line in [
        "# TYPE paravane_lamp_lit_seconds_total counter",
        "paravane_lamp_lit_seconds_total{device=\"hall\"} 5",
        "# TYPE paravane_lamp_watts gauge",
        "paravane_lamp_watts{device=\"hall\"} 40",
        "paravane_house_visitors_total 2",
        "paravane_vhost_user_connected{device=\"hall\"} 0",
        "paravane_vhost_user_messages_total{device=\"hall\"} 0",
        "paravane_queue_ring_errors_total{device=\"hall\",queue=\"1\"} 0",
        "paravane_queue_given_back_total{device=\"hall\",queue=\"1\"} 0",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} in {text}");
    }
    assert!(!text.contains("colour"), "{text}");
}

#[test]
fn stop_answers_before_it_stops() {
    let house = commands(&["hall"], None);
    let Answer::Last(value, act) = house.answer(Command::Stop) else {
        panic!("the last answer");
    };
    assert_eq!(value, "stopping");
    assert!(!house.shutdown.is_shutdown());
    act();
    assert!(house.shutdown.is_shutdown());
}
