//! What a balloon is asked to be: one schema for the command line, the config file and the constructor.
//!
//! Rule: everything is checked in [`BalloonSpec::check`], which reports every fault at once and names the mend.

use clap::ArgAction;
use clap::Args;
use clap::ValueEnum;
use serde::Deserialize;
use serde::Serialize;

use crate::ByteSize;

/// Largest ring that virtio allows a split queue.
pub const MAX_QUEUE_SIZE: u16 = 32768;
/// Shortest time between two questions for statistics, in milliseconds.
pub const MIN_STATS_INTERVAL_MS: u32 = 50;

/// Whether host memory is taken before a page that leaves the balloon is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Repopulate {
    /// Only huge pages of a pool, whose lack would kill the guest at its next access.
    #[default]
    Auto,
    /// Every page: the guest then never waits for the host's allocator.
    Always,
    /// No page.
    Never,
}

/// One balloon: its features, and how much memory its guest keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[group(id = "balloon")]
pub struct BalloonSpec {
    /// Size of the balloon at the start: memory that the guest is asked to give up.
    #[arg(long, value_name = "SIZE", default_value_t, help_heading = "Balloon")]
    pub target: ByteSize,
    /// Memory that the guest always keeps, however short the host is [default: a quarter of its memory].
    #[arg(long, value_name = "SIZE", help_heading = "Balloon")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<ByteSize>,
    /// Memory beyond which the guest never grows [default: all of its memory].
    #[arg(long, value_name = "SIZE", help_heading = "Balloon")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<ByteSize>,
    /// Ask the guest for memory statistics; the pool is blind without.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, help_heading = "Balloon")]
    pub stats: bool,
    /// How often to ask.
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 1000,
        help_heading = "Balloon"
    )]
    pub stats_interval_ms: u32,
    /// The guest tells before it uses pages of the balloon again; needed to give back huge pages piece by piece.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, help_heading = "Balloon")]
    pub must_tell_host: bool,
    /// Let a guest that runs out of memory take pages back by itself.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, help_heading = "Balloon")]
    pub deflate_on_oom: bool,
    /// Let the guest report free pages, which go back to the host without any target.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, help_heading = "Balloon")]
    pub page_reporting: bool,
    /// Let the guest name the value that it fills free pages with.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, help_heading = "Balloon")]
    pub page_poison: bool,
    /// Offer hints of free pages; they are counted, their pages never touched.
    #[arg(long, value_name = "BOOL", default_value_t = false, action = ArgAction::Set, help_heading = "Balloon")]
    pub free_page_hint: bool,
    /// Whether host memory is taken before a page that leaves the balloon is acknowledged.
    #[arg(long, value_enum, default_value_t, help_heading = "Balloon")]
    pub repopulate: Repopulate,
    /// Largest ring that a front-end may give a queue, a power of two.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 256,
        help_heading = "Balloon"
    )]
    pub queue_size: u16,
    /// Offer packed rings.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, help_heading = "Balloon")]
    pub packed: bool,
}

impl Default for BalloonSpec {
    fn default() -> Self {
        Self {
            target: ByteSize(0),
            floor: None,
            ceiling: None,
            stats: true,
            stats_interval_ms: 1000,
            must_tell_host: true,
            deflate_on_oom: true,
            page_reporting: true,
            page_poison: true,
            free_page_hint: false,
            repopulate: Repopulate::Auto,
            queue_size: 256,
            packed: true,
        }
    }
}

impl BalloonSpec {
    /// Every fault with its mend.
    ///
    /// # Errors
    /// There is at least one.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let mut faults = Vec::new();
        if !self.queue_size.is_power_of_two() || self.queue_size > MAX_QUEUE_SIZE {
            faults.push(format!(
                "queue-size is {}: give a power of two up to {MAX_QUEUE_SIZE}",
                self.queue_size
            ));
        }
        if self.stats && self.stats_interval_ms < MIN_STATS_INTERVAL_MS {
            faults.push(format!(
                "stats-interval-ms is {}: give at least {MIN_STATS_INTERVAL_MS}, or stats = false",
                self.stats_interval_ms
            ));
        }
        if let (Some(floor), Some(ceiling)) = (self.floor, self.ceiling)
            && floor > ceiling
        {
            faults.push(format!(
                "floor {floor} is above ceiling {ceiling}: exchange them"
            ));
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }
}
