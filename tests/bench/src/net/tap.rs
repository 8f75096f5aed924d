//! The cells on a TAP: the same client through our daemon, and on the TAP itself.
//!
//! One rule: whoever reads the TAP has one CPU to itself (our daemon, or the client that is on the TAP itself), and the
//! host's side of the load runs on the other.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::Cell;
use super::Choice;
use super::load::Load;
use super::port;
use super::server::Card;
use super::server::Daemon;
use super::stage;
use crate::cpu;

/// Runs all loads; says so and leaves the part out where a network namespace cannot be had.
pub fn run(
    program: &Path,
    time: Duration,
    cells: &Choice,
    take: &mut dyn FnMut(Cell),
) -> Result<()> {
    if let Err(error) = stage::enter() {
        host_os::say!("left out: the cells on a TAP: {error:#}");
        return Ok(());
    }
    let (client, server) = cpu::pair();
    let folder = tempfile::tempdir()?;
    for load in Load::ALL {
        if !cells.wants(&name(load)) {
            continue;
        }
        let native = {
            let mut tap = port::Tap::new(stage::attach()?);
            pinned(server, || load.run(&mut tap, time))?
        };
        for packed in [false, true] {
            let socket = folder.path().join("tap.sock");
            let card = Card {
                socket: socket.clone(),
                link: "tap:bench0",
            };
            let daemon = Daemon::start(program, &[card], packed, server, folder.path())?;
            let mut port = port::Daemon::connect(&socket, packed)?;
            let before = cpu::time(daemon.pid())?;
            let figure = pinned(client, || load.run(&mut port, time))?;
            let used = cpu::time(daemon.pid())? - before;
            let frames = matches!(load, Load::Out(_) | Load::In(_));
            take(Cell {
                name: name(load),
                unit: load.unit(),
                packed,
                paravane: figure,
                peer: "the TAP itself",
                theirs: native,
                paravane_cpu: frames
                    .then(|| used.as_secs_f64() / (figure * time.as_secs_f64()) * 1e6),
                theirs_cpu: None,
            });
            drop(port);
            let _ = std::fs::remove_file(&socket);
        }
    }
    Ok(())
}

fn name(load: Load) -> String {
    format!("TAP {}", load.name())
}

/// Runs `load` on a thread pinned to `cpu`.
fn pinned(cpu: usize, load: impl FnOnce() -> Result<f64>) -> Result<f64> {
    cpu::pin(Some(cpu))?;
    let figure = load();
    cpu::unpin()?;
    figure
}
