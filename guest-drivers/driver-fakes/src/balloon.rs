//! The data side of the fake balloon: takes pages, changes what it may change, and asks for statistics and hints as told.
//!
//! Rule: checks what the driver says against the page ledger and against sec. 5.5.6, with delays and reordering by seed.
use std::collections::HashMap;
use std::collections::HashSet;

use virtio_spec::balloon::CONFIG_HINT_COMMAND_OFFSET;
use virtio_spec::balloon::CONFIG_NUM_PAGES_OFFSET;
use virtio_spec::balloon::Config;
use virtio_spec::balloon::Stat;
use virtio_spec::balloon::feature;
use virtio_spec::balloon::hint_command;
use virtio_spec::balloon::queue;
use virtio_spec::balloon::queue::Role;
use virtqueue::Rings;
use virtqueue::Token;
use zerocopy::FromBytes;

use crate::arena::DeviceMemory;
use crate::function::FakeFunction;
use crate::guest_pages::FakeRam;
use crate::queues::FakeQueues;
use crate::queues::OwnedChain;
use crate::random::Random;

/// How the balloon serves.
#[derive(Clone, Copy, Debug, Default)]
pub struct BalloonHabits {
    /// Completes in any order rather than in order of arrival.
    pub reorders: bool,
    /// Keeps a message for later one time in this many; 0: never.
    pub delays_one_in: u64,
    /// Returns the statistics buffer at once, every time.
    pub floods_statistics: bool,
    /// Claims to have written this much into every chain.
    pub written: u32,
}

/// The balloon behind a [`FakeFunction`].
pub struct FakeBalloon {
    function: FakeFunction,
    queues: FakeQueues,
    ram: FakeRam,
    /// How it serves.
    pub habits: BalloonHabits,
    /// Statistics, as taken last.
    pub statistics: Vec<(u16, u64)>,
    /// Pages hinted in the current run.
    pub hinted_pages: u64,
    /// Pages reported.
    pub reported_pages: u64,
    /// Messages in the free page queue, as they came.
    pub hint_messages: Vec<u32>,
    /// Blocks that came with another command than the current one.
    pub stale_hints: u64,
    ballooned: HashSet<u32>,
    random: Random,
    held: HashMap<u16, Vec<Token>>,
    statistics_buffer: Option<Token>,
}

impl FakeBalloon {
    /// A balloon for the pages of `ram`.
    pub fn new(function: FakeFunction, memory: DeviceMemory, ram: FakeRam, seed: u64) -> Self {
        Self {
            function: function.clone(),
            queues: FakeQueues::new(function, memory),
            ram,
            habits: BalloonHabits::default(),
            statistics: Vec::new(),
            hinted_pages: 0,
            reported_pages: 0,
            hint_messages: Vec::new(),
            stale_hints: 0,
            ballooned: HashSet::new(),
            random: Random::new(seed),
            held: HashMap::new(),
            statistics_buffer: None,
        }
    }

    /// Sets the target in pages.
    pub fn want(&self, pages: u32) {
        self.function
            .registers()
            .change_config(CONFIG_NUM_PAGES_OFFSET, &pages.to_le_bytes());
    }

    /// Sets the free page hint command.
    pub fn command(&mut self, command: u32) {
        if command >= hint_command::FIRST {
            self.hinted_pages = 0;
        }
        self.function
            .registers()
            .change_config(CONFIG_HINT_COMMAND_OFFSET, &command.to_le_bytes());
    }

    /// The configuration as both sides see it.
    ///
    /// # Panics
    /// When a test cut it short.
    pub fn config(&self) -> Config {
        let registers = self.function.registers();
        let config = Config::read_from_prefix(&registers.config);
        assert!(config.is_ok(), "the configuration is too short");
        config.map(|(config, _)| config).unwrap_or_default()
    }

    /// Pages in the balloon, as the device counts them.
    pub fn ballooned(&self) -> usize {
        self.ballooned.len()
    }

    /// The ring areas of the queue with a role, for tests that write lies into them.
    pub fn rings(&self, role: Role) -> Option<Rings> {
        self.queues.rings(self.index(role)?)
    }

    /// Returns the statistics buffer to the driver; `false` when the device does not have it.
    pub fn ask_statistics(&mut self) -> bool {
        let index = self.index(Role::Stats);
        let (Some(token), Some(index)) = (self.statistics_buffer.take(), index) else {
            return false;
        };
        self.queues.complete(index, token, self.habits.written);
        let _ = self.queues.publish(index);
        true
    }

    /// Serves all queues once; returns how many messages it completed.
    ///
    /// # Panics
    /// When the driver broke the rules of the rings or of the balloon.
    pub fn serve(&mut self) -> usize {
        let features = self.features();
        if !self.function.registers().is_live() {
            self.ballooned.clear();
            self.statistics_buffer = None;
        }
        let mut completed = 0;
        for role in queue::roles(features) {
            if let Some(index) = self.index(role) {
                completed += self.serve_queue(role, index, features);
            }
        }
        completed
    }

    /// A device made with more queues than it offers leaves gaps.
    fn index(&self, role: Role) -> Option<u16> {
        let registers = self.function.registers();
        let gaps = registers.queues.len() > usize::from(queue::count(registers.offered));
        let dense = queue::index(role, registers.accepted)?;
        Some(if gaps { queue::number(role) } else { dense })
    }

    fn features(&self) -> u64 {
        self.function.registers().accepted
    }

    fn serve_queue(&mut self, role: Role, index: u16, features: u64) -> usize {
        let Some(taken) = self.queues.take(index) else {
            self.held.remove(&index);
            return 0;
        };
        let mut held = self.held.remove(&index).unwrap_or_default();
        if taken.fresh {
            held.clear();
        }
        for chain in taken.chains {
            match role {
                Role::Inflate => self.inflate(&chain),
                Role::Deflate => self.deflate(&chain, features & feature::MUST_TELL_HOST != 0),
                Role::Stats => self.take_statistics(&chain),
                Role::FreePage => self.take_hint(&chain),
                Role::Reporting => self.take_report(&chain, features),
            }
            if role != Role::Stats {
                held.push(chain.token);
            }
        }
        let (completed, kept) = self.complete(index, held);
        self.held.insert(index, kept);
        if role == Role::Stats && self.habits.floods_statistics {
            self.ask_statistics();
        }
        completed
    }

    fn complete(&mut self, index: u16, mut held: Vec<Token>) -> (usize, Vec<Token>) {
        let mut completed = 0;
        let mut kept = Vec::new();
        while !held.is_empty() {
            let position = match self.habits.reorders {
                true => self.random.index(held.len()),
                false => 0,
            };
            let token = held.remove(position);
            if self.habits.delays_one_in > 0 && self.random.one_in(self.habits.delays_one_in) {
                kept.push(token);
                continue;
            }
            self.queues.complete(index, token, self.habits.written);
            completed += 1;
        }
        if completed > 0 {
            let _ = self.queues.publish(index);
        }
        self.queues.arm(index);
        (completed, kept)
    }

    fn pfns(&self, chain: &OwnedChain) -> Vec<u32> {
        assert!(
            chain.writable.is_empty(),
            "a message with PFNs has room for an answer"
        );
        let bytes = self.queues.gather(&chain.readable);
        assert_eq!(bytes.len() % 4, 0, "a message with PFNs is not whole PFNs");
        let pfn = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b));
        bytes.chunks(4).map(pfn).collect()
    }

    fn inflate(&mut self, chain: &OwnedChain) {
        for pfn in self.pfns(chain) {
            assert!(
                self.ballooned.insert(pfn),
                "page {pfn:#x} is in the balloon already"
            );
            self.ram.device_inflates(pfn);
        }
    }

    fn deflate(&mut self, chain: &OwnedChain, must_tell: bool) {
        for pfn in self.pfns(chain) {
            assert!(
                self.ballooned.remove(&pfn),
                "page {pfn:#x} is not in the balloon"
            );
            self.ram.device_deflates(pfn, must_tell);
        }
    }

    fn take_statistics(&mut self, chain: &OwnedChain) {
        assert!(
            self.statistics_buffer.is_none(),
            "a second statistics buffer"
        );
        self.statistics_buffer = Some(chain.token);
        let bytes = self.queues.gather(&chain.readable);
        assert_eq!(bytes.len() % 10, 0, "statistics are not whole entries");
        let entry = |bytes: &[u8]| Stat::read_from_bytes(bytes).unwrap_or_default();
        let before: Vec<u16> = self.statistics.iter().map(|(tag, _)| *tag).collect();
        self.statistics = bytes
            .chunks(10)
            .map(entry)
            .map(|stat| (stat.tag.get(), stat.value.get()))
            .collect();
        let now: Vec<u16> = self.statistics.iter().map(|(tag, _)| *tag).collect();
        assert!(
            before.is_empty() || before == now,
            "another set of statistics"
        );
    }

    fn take_hint(&mut self, chain: &OwnedChain) {
        let current = self.config().free_page_hint_cmd_id.get();
        if chain.writable.is_empty() {
            let message = self.queues.gather(&chain.readable);
            assert_eq!(message.len(), 4, "a hint command is four bytes");
            let message = message
                .iter()
                .rev()
                .fold(0, |n, byte| n << 8 | u32::from(*byte));
            self.hint_messages.push(message);
            return;
        }
        assert!(chain.readable.is_empty(), "a hint with a message");
        let run = self.hint_messages.last().copied().unwrap_or(0);
        assert!(
            run >= hint_command::FIRST,
            "a hint outside of a run: {:?}",
            self.hint_messages
        );
        for segment in &chain.writable {
            if run != current {
                self.stale_hints += 1;
                continue;
            }
            self.ram.device_frees(segment.addr, segment.len, true, None);
            self.hinted_pages += u64::from(segment.len >> 12);
        }
    }

    fn take_report(&mut self, chain: &OwnedChain, features: u64) {
        assert!(chain.readable.is_empty(), "a report with a message");
        let poison = self.config().poison_val.get();
        let poison = (features & feature::PAGE_POISON != 0).then_some(poison);
        for segment in &chain.writable {
            self.ram
                .device_frees(segment.addr, segment.len, false, poison);
            self.reported_pages += u64::from(segment.len >> 12);
        }
    }
}
