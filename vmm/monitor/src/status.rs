//! Status lines on standard error: sentences for people, or JSON objects for programs.
//!
//! One rule: one event, one line; standard output belongs to the guest's serial port.

use serde::Serialize;

/// What is reported.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event<'a> {
    /// The guest begins to run.
    Started {
        name: &'a str,
        cpus: u32,
        /// Bytes.
        memory: u64,
        disks: usize,
        nets: usize,
        balloon: bool,
    },
    /// The guest was reset.
    Reset { cause: &'a str },
    /// Somebody asked the guest to switch off.
    PowerButton { heard: bool },
    /// The VM has ended.
    Stopped {
        reason: &'a str,
        exit_code: u8,
        /// Since the first start.
        seconds: f64,
    },
    /// A daemon of this VM said something.
    DaemonLog { daemon: &'a str, line: &'a str },
    /// A daemon of this VM ended, and is started again.
    DaemonEnded {
        daemon: &'a str,
        how: &'a str,
        /// Until it is started again.
        pause_ms: u64,
    },
    /// The VM could not be run.
    Error { message: &'a str, exit_code: u8 },
}

/// Where events go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Status {
    pub(crate) json: bool,
}

impl Status {
    pub(crate) fn report(self, event: &Event<'_>) {
        if self.json {
            if let Ok(line) = serde_json::to_string(event) {
                host_os::tell!("{line}");
            }
            return;
        }
        // On a raw terminal a line needs its carriage return.
        match event {
            Event::Started {
                name,
                cpus,
                memory,
                disks,
                nets,
                balloon,
            } => {
                let mib = memory >> 20;
                let balloon = if *balloon { ", balloon" } else { "" };
                host_os::tell!(
                    "paravane: {name} started: {cpus} vCPU, {mib} MiB, {disks} disk(s), {nets} \
                     network(s){balloon}\r"
                );
            }
            Event::DaemonLog { daemon, line } => host_os::tell!("{daemon}: {line}\r"),
            Event::DaemonEnded {
                daemon,
                how,
                pause_ms,
            } => {
                let seconds = *pause_ms as f64 / 1000.0;
                host_os::tell!(
                    "paravane: {daemon} ended ({how}); it is started again in {seconds} s\r"
                );
            }
            Event::Reset { cause } => host_os::tell!("paravane: reset by {cause}\r"),
            Event::PowerButton { heard: true } => {
                host_os::tell!("paravane: power button pressed\r")
            }
            Event::PowerButton { heard: false } => {
                host_os::tell!("paravane: the guest does not listen to the power button\r");
            }
            Event::Stopped {
                reason, seconds, ..
            } => {
                host_os::tell!("paravane: {reason} after {seconds:.1} s\r");
            }
            Event::Error { message, .. } => {
                for line in message.lines() {
                    host_os::tell!("paravane: {line}\r");
                }
            }
        }
    }
}
