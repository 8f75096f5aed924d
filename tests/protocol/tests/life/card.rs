//! Network cards on a switch: frames both ways between the card that lives through the events and a neighbour.

use crate::Load;
use crate::all_live;
use crate::live;
use crate::vm::Terms;
use crate::vm::Vm;
use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use net_backend::Fabric;
use net_backend::NetDevice;
use net_backend::NetSpec;
use protocol::Machine;
use protocol::ServedCard;
use protocol::Serving;
use protocol::eventually;
use std::collections::HashMap;
use std::collections::HashSet;
use virtqueue::Segment;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Frames in flight each way.
const FRAMES: u64 = 16;
/// Bytes of the header before each frame.
const HEADER: u64 = 12;
const OURS: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0xa];
const THEIRS: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0xb];
/// First buffer of the receive queue.
const ROOM: u64 = 64;

struct Card {
    neighbour: Machine,
    _neighbours_card: ServedCard,
    /// Buffers lent to the receive queue, by id.
    lent: HashMap<u16, u64>,
    sent: u64,
    heard: u64,
    /// What the neighbour sent last, and what of it came.
    their_last: u64,
    ours_seen: HashSet<u64>,
    logged: bool,
    /// What had happened when the frames were sent.
    events: u32,
}

fn frame(to: [u8; 6], from: [u8; 6], number: u64) -> Vec<u8> {
    let mut bytes = [&to[..], &from, &[0x88, 0xb5]].concat();
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.resize(60 + (number as usize * 89) % 1400, number as u8);
    bytes
}

fn number(frame: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*frame.get(14..)?.first_chunk()?))
}

impl Card {
    /// Lends the receive queue as many buffers as it had before.
    fn fill(&mut self, vm: &mut Vm) -> Result<()> {
        for at in 0..2 * FRAMES {
            let addr = vm.guest.buffer(ROOM + at);
            if self.lent.values().any(|lent| *lent == addr) {
                continue;
            }
            let room = Segment { addr, len: 4096 };
            let queue = vm.queues.get_mut(RECEIVE).context("a queue")?;
            let id = queue.driver.add(&[], &[room], None);
            let id = id.map_err(|error| anyhow::anyhow!("{error}"))?;
            self.lent.insert(id, addr);
        }
        vm.queues.get_mut(RECEIVE).context("a queue")?.publish();
        Ok(())
    }

    fn send(&mut self, vm: &mut Vm, at: u64, number: u64) -> Result<()> {
        let bytes = frame(THEIRS, OURS, number);
        let addr = vm.guest.buffer(at);
        vm.guest.memory.write(addr, &[0; HEADER as usize])?;
        vm.guest.memory.write(addr + HEADER, &bytes)?;
        let len = u32::try_from(HEADER + bytes.len() as u64)?;
        let queue = vm.queues.get_mut(TRANSMIT).context("a queue")?;
        let id = queue.driver.add(&[Segment { addr, len }], &[], None);
        id.map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(())
    }

    /// Both hear each other: their rings are served from a moment after they were enabled.
    fn greet(&mut self, vm: &mut Vm) -> Result<()> {
        let heard = eventually(|| {
            let sent = self.send(vm, 0, 0);
            let queue = vm.queues.get_mut(TRANSMIT);
            let back = queue.map(|queue| {
                queue.publish();
                queue.wait(1)
            });
            sent.is_err() || !matches!(back, Some(Ok(_))) || !self.neighbour.is_quiet(0)
        });
        ensure!(heard, "the neighbour hears nothing");
        while !self.neighbour.is_quiet(0) {
            self.neighbour.next_frame(0)?;
        }
        self.settle(vm)
    }

    /// Takes what came for us; every frame at most once, in order, and whole.
    fn receive(&mut self, vm: &mut Vm) -> Result<()> {
        loop {
            let queue = vm.queues.get_mut(RECEIVE).context("a queue")?;
            let Some(used) = queue.pop()? else {
                break;
            };
            let addr = self
                .lent
                .remove(&used.id)
                .context("a buffer that was not lent")?;
            let mut bytes = vec![0; (u64::from(used.written) - HEADER) as usize];
            vm.guest.memory.read(addr + HEADER, &mut bytes)?;
            let number = number(&bytes).context("a number")?;
            ensure!(
                bytes == frame(OURS, THEIRS, number),
                "frame {number} is not whole"
            );
            ensure!(
                number > self.heard,
                "frame {number} comes after {}",
                self.heard
            );
            if self.logged && vm.logging() {
                ensure!(
                    vm.is_logged(addr),
                    "the buffer of frame {number} is not logged"
                );
            }
            self.heard = number;
            self.ours_seen.insert(number);
        }
        self.fill(vm)
    }

    /// Sends a frame of the neighbour's.
    fn hear(&mut self) -> Result<()> {
        self.their_last += 1;
        self.neighbour
            .send(0, &frame(OURS, THEIRS, self.their_last))
    }

    /// What is sent to a card in a pause is lost as on a cable, so the neighbour calls until it is heard.
    fn settle(&mut self, vm: &mut Vm) -> Result<()> {
        for _ in 0..200 {
            self.hear()?;
            let last = self.their_last;
            for _ in 0..10 {
                self.receive(vm)?;
                if self.heard == last {
                    return Ok(());
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        anyhow::bail!("no frame of the neighbour's arrives")
    }
}

impl Load for Card {
    fn begin(&mut self, vm: &mut Vm) -> Result<()> {
        self.events = vm.events;
        self.logged = vm.logging();
        if self.logged {
            vm.clear_log()?;
        }
        for at in 0..FRAMES {
            self.send(vm, at, self.sent + 1 + at)?;
        }
        vm.queues.get_mut(TRANSMIT).context("a queue")?.publish();
        self.ours_seen.clear();
        for _ in 0..FRAMES {
            self.hear()?;
        }
        Ok(())
    }

    fn finish(&mut self, vm: &mut Vm) -> Result<()> {
        let queue = vm.queues.get_mut(TRANSMIT).context("a queue")?;
        let done = queue.wait(FRAMES as usize).context("our frames' buffers")?;
        ensure!(done.iter().all(|(_, written)| *written == 0), "{done:?}");
        ensure!(
            !queue.driver.has_used() && !queue.err.drain(),
            "the transmit queue"
        );
        for _ in 0..FRAMES {
            self.sent += 1;
            let came = self.neighbour.next_frame(0).context("our frames")?;
            ensure!(
                came == frame(THEIRS, OURS, self.sent),
                "frame {} of ours is another",
                self.sent
            );
        }
        ensure!(self.neighbour.is_quiet(0), "a frame of ours comes twice");
        self.neighbour.enable(0, true)?;
        if self.events == vm.events && !vm.unsettled {
            let all = eventually(|| self.receive(vm).is_err() || self.heard == self.their_last);
            ensure!(
                all && self.ours_seen.len() == FRAMES as usize,
                "a frame of the neighbour's is lost"
            );
        } else {
            self.settle(vm)?;
        }
        ensure!(
            !vm.queues.get(RECEIVE).context("a queue")?.err.drain(),
            "an error is signalled"
        );
        Ok(())
    }

    fn abandon(&mut self, vm: &mut Vm) -> Result<()> {
        self.receive(vm)?;
        let queue = vm.queues.get_mut(TRANSMIT).context("a queue")?;
        let mut done = 0;
        while queue.pop()?.is_some() {
            done += 1;
        }
        for at in 1..=done {
            let came = self.neighbour.next_frame(0).context("our frames")?;
            ensure!(
                came == frame(THEIRS, OURS, self.sent + at),
                "frame {at} of ours is another"
            );
        }
        ensure!(self.neighbour.is_quiet(0), "a frame of ours comes twice");
        self.sent += FRAMES;
        self.neighbour.enable(0, true)
    }

    fn anew(&mut self, vm: &mut Vm) -> Result<()> {
        self.lent.clear();
        self.fill(vm)?;
        self.settle(vm)
    }
}

fn cards(terms: Terms) -> Result<(Vm, Card)> {
    let fabric = Fabric::default();
    let spec = || NetSpec::on_switch("lan");
    let card = NetDevice::open("a", spec(), &fabric)?;
    let neighbours_card = ServedCard::new("b", spec(), &fabric)?;
    let mut neighbour = Machine::new(&neighbours_card, terms.shape.features, 1)?;
    neighbour.enable(0, true)?;
    let mut vm = Vm::new(Serving::new(card)?, terms, 2)?;
    let mut load = Card {
        neighbour,
        _neighbours_card: neighbours_card,
        lent: HashMap::new(),
        sent: 0,
        heard: 0,
        their_last: 0,
        ours_seen: HashSet::new(),
        logged: false,
        events: 0,
    };
    load.fill(&mut vm)?;
    load.greet(&mut vm)?;
    Ok((vm, load))
}

#[test]
fn cards_live_through_everything() {
    let mut failures = Vec::new();
    for terms in Terms::all(0) {
        let start = || cards(terms);
        failures.extend(live(&format!("card, {}", terms.name()), start));
    }
    all_live(&failures);
}
