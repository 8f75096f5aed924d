//! The table that a person reads: medians over the rounds, ratios within a round with their spread.

use crate::block::Measured;
use crate::job::Job;
use crate::report::Cell;
use crate::report::job_name;
use crate::report::rate;

/// Least, middle and greatest of some figures.
struct Spread {
    least: f64,
    median: f64,
    greatest: f64,
}

impl Spread {
    fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
        let last = figures.len().saturating_sub(1);
        Self {
            least: at(0),
            median: at(last / 2),
            greatest: at(last),
        }
    }
}

/// What is remembered for the summary: a cell, a rival and our ratio to it.
struct Against {
    job: String,
    who: String,
    ratio: f64,
}

/// Prints rows as they come.
pub(super) struct Table {
    against: Vec<Against>,
    void: usize,
}

impl Table {
    pub(super) fn new() -> Self {
        host_os::say!(
            "{:<30} {:>9} {:>9} {:>9} {:>9}   against the others of the same round: median [least-greatest]",
            "job (poll unless said)",
            "rate/s",
            "p50 us",
            "p99 us",
            "CPU s/M"
        );
        Self {
            against: vec![],
            void: 0,
        }
    }

    /// One cell; the first of `measured` against each other one.
    pub(super) fn row(&mut self, job: &Job, measured: &[Measured]) {
        let Some((ours, others)) = measured.split_first() else {
            return;
        };
        let middle = |figure: fn(&Cell) -> f64| Spread::of(ours.rounds.iter().map(figure)).median;
        let mut text = format!(
            "{:<30} {:>9} {:>9.1} {:>9.1} {:>9.2}  ",
            job_name(job),
            rate(middle(|cell| cell.iops)),
            middle(|cell| cell.p50_us),
            middle(|cell| cell.p99_us),
            middle(|cell| cell.cpu_s_per_million.unwrap_or(f64::NAN)),
        );
        for other in others {
            let pairs = ours.rounds.iter().zip(&other.rounds);
            let ratio = Spread::of(pairs.map(|(ours, theirs)| ours.iops / theirs.iops));
            let theirs = Spread::of(other.rounds.iter().map(|cell| cell.iops)).median;
            text += &format!(
                " {} {} x{:.2} [{:.2}-{:.2}]",
                other.who,
                rate(theirs),
                ratio.median,
                ratio.least,
                ratio.greatest
            );
            self.against.push(Against {
                job: job_name(job),
                who: other.who.clone(),
                ratio: ratio.median,
            });
        }
        if measured
            .iter()
            .flat_map(|who| &who.rounds)
            .any(|cell| cell.errors > 0)
        {
            text += "  VOID: operations failed";
            self.void += 1;
        }
        host_os::say!("{text}");
    }

    /// For each rival: how often we were ahead, and the worst cells.
    pub(super) fn summary(&self) {
        let mut names: Vec<&str> = self.against.iter().map(|cell| cell.who.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let mut cells: Vec<&Against> = self
                .against
                .iter()
                .filter(|cell| cell.who == name)
                .collect();
            cells.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
            let spread = Spread::of(cells.iter().map(|cell| cell.ratio));
            let near = cells.iter().filter(|cell| cell.ratio >= 0.95).count();
            host_os::say!(
                "against {name}: {near} of {} cells at 0.95 or more; least {:.2}, median {:.2}, greatest {:.2}",
                cells.len(),
                spread.least,
                spread.median,
                spread.greatest
            );
            for cell in cells.iter().filter(|cell| cell.ratio < 0.95).take(10) {
                host_os::say!("    {:.2} {}", cell.ratio, cell.job);
            }
        }
        if self.void > 0 {
            host_os::say!("{} cells are void: operations failed", self.void);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_count_is_the_lower_one() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]);
        assert_eq!(
            (spread.least, spread.median, spread.greatest),
            (1.0, 2.0, 4.0)
        );
    }
}
