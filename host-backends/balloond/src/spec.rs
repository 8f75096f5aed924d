//! What a guest's balloon is asked to be: what the balloon is, and the terms on which the pool deals with its guest.

use balloon_backend::BalloonSpec;
use clap::Args;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use config_file::Section;
use control_protocol::Policy;
use daemon_shell::StateSpec;
use serde::Deserialize;
use serde::Serialize;

/// One guest's balloon.
#[derive(Clone, Debug, Serialize, Args)]
pub struct VmSpec {
    /// The balloon.
    #[command(flatten)]
    #[serde(flatten)]
    pub balloon: BalloonSpec,
    /// What the pool does with it.
    #[command(flatten)]
    #[serde(flatten)]
    pub terms: TermsSpec,
    /// What outlives the daemon.
    #[command(flatten)]
    #[serde(flatten)]
    pub state: StateSpec,
}

/// The terms of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[group(id = "terms")]
pub struct TermsSpec {
    /// Its share when memory is short, in proportion to the other guests' weights.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        help_heading = "Balloon"
    )]
    pub weight: u32,
    /// Who moves the target: the pool, only commands, or nobody while decisions are logged.
    #[arg(long, default_value_t, help_heading = "Balloon",
          value_parser = PossibleValuesParser::new(Policy::WORDS).try_map(|word| word.parse::<Policy>()))]
    pub policy: Policy,
}

impl Default for TermsSpec {
    fn default() -> Self {
        Self {
            weight: 100,
            policy: Policy::Auto,
        }
    }
}

impl VmSpec {
    const TERMS: [&str; 2] = ["weight", "policy"];

    /// Reads a device's table.
    ///
    /// # Errors
    /// A key or value is wrong.
    pub fn read(mut table: Section<'_>) -> Result<Self, config_file::Error> {
        Ok(Self {
            terms: table.take(&Self::TERMS).read()?,
            state: table.take(&StateSpec::KEYS).read()?,
            balloon: table.read()?,
        })
    }

    /// Every fault with its mend.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.balloon.check().err().unwrap_or_default();
        let weight = self.terms.weight;
        if !(1..=10_000).contains(&weight) {
            faults.push(format!("weight is {weight}: give 1 to 10000"));
        }
        faults
    }
}
