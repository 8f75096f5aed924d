//! `cargo xtask demo`: a VM on our daemon beside native I/O, in one table.
//!
//! One rule: both sides of a ratio come from the same run on the same file.

/// Boots a VM whose disk our daemon serves, and compares with native I/O on the same file.
#[derive(clap::Args)]
pub struct Args {
    /// The table as JSON on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<bool> {
    anyhow::bail!("not yet (json {})", args.json)
}
