//! Which jobs `paravane-bench block` runs.

use std::time::Duration;

use clap::ValueEnum;

use crate::job::Job;
use crate::job::Pattern;
use crate::job::Wait;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Requests in flight per queue.
const DEPTHS: [usize; 4] = [1, 8, 32, 128];

/// A choice of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Matrix {
    /// One queue, 4 KiB, up to 32 requests in flight, a client that polls.
    Quick,
    /// Random and sequential, 4 KiB to 1 MiB, 1 to 128 in flight, 1 and 4 queues, split and packed.
    Usual,
    /// What waiting may change: random access and flushes, every size, depth and count of queues, with a client that
    /// polls and with one that sleeps.
    Waiting,
}

struct Shape {
    block_bytes: usize,
    depth: usize,
    queues: usize,
    wait: Wait,
    packed: bool,
}

/// The jobs of `matrix`, each `duration` long, whose name `wanted` accepts.
pub fn jobs(matrix: Matrix, duration: Duration, wanted: impl Fn(&Job) -> bool) -> Vec<Job> {
    let mut jobs = Vec::new();
    for &pattern in patterns(matrix) {
        for shape in shapes(matrix, pattern) {
            let job = Job {
                pattern,
                block_bytes: shape.block_bytes,
                depth: shape.depth,
                queues: shape.queues,
                duration,
                wait: shape.wait,
                packed: shape.packed,
            };
            if wanted(&job) {
                jobs.push(job);
            }
        }
    }
    jobs
}

fn patterns(matrix: Matrix) -> &'static [Pattern] {
    const ALL: [Pattern; 6] = [
        Pattern::Randread,
        Pattern::Randwrite,
        Pattern::Randrw,
        Pattern::Fsync,
        Pattern::Read,
        Pattern::Write,
    ];
    match matrix {
        Matrix::Usual => &ALL,
        Matrix::Quick | Matrix::Waiting => &ALL[..4],
    }
}

fn shapes(matrix: Matrix, pattern: Pattern) -> Vec<Shape> {
    let sequential = matches!(pattern, Pattern::Read | Pattern::Write);
    let sizes: &[usize] = match (matrix, sequential) {
        (Matrix::Quick, _) => &[4 * KIB],
        (_, true) => &[64 * KIB, MIB],
        (_, false) => &[4 * KIB, 64 * KIB, MIB],
    };
    let queues: &[usize] = if matrix == Matrix::Quick {
        &[1]
    } else {
        &[1, 4]
    };
    let waits: &[Wait] = if matrix == Matrix::Waiting {
        &[Wait::Poll, Wait::Sleep]
    } else {
        &[Wait::Poll]
    };
    let mut shapes = Vec::new();
    for &block_bytes in sizes {
        for &queues in queues {
            for depth in DEPTHS {
                if matrix == Matrix::Quick && depth == 128 {
                    continue;
                }
                for &wait in waits {
                    shapes.push(Shape {
                        block_bytes,
                        depth,
                        queues,
                        wait,
                        packed: false,
                    });
                }
            }
        }
    }
    if matrix == Matrix::Usual && !sequential {
        let small = |depth, wait, packed| Shape {
            block_bytes: 4 * KIB,
            depth,
            queues: 1,
            wait,
            packed,
        };
        shapes.insert(0, small(1, Wait::Sleep, false));
        shapes.push(small(1, Wait::Poll, true));
        shapes.push(small(32, Wait::Poll, true));
    }
    shapes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_measured_over_the_whole_matrix() {
        let jobs = jobs(Matrix::Waiting, Duration::from_secs(1), |_| true);
        // Patterns, sizes, depths, queues, ways of the client to wait.
        assert_eq!(jobs.len(), 4 * 3 * 4 * 2 * 2);
    }

    #[test]
    fn no_job_stands_twice() {
        for matrix in [Matrix::Quick, Matrix::Usual, Matrix::Waiting] {
            let jobs = jobs(matrix, Duration::from_secs(1), |_| true);
            let different: std::collections::HashSet<_> = jobs.iter().collect();
            assert_eq!(different.len(), jobs.len(), "{matrix:?}");
        }
    }
}
