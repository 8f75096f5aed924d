//! The skips that CI accepts: all of them, in one list, each with its reason.
//!
//! One rule: a skip that is not in the list fails CI; where a machine could do it, it is not accepted there.

use crate::totals::Skipped;

/// One kind of skip.
struct Accepted {
    /// How what the test says begins.
    begins: &'static str,
    /// Why that is well.
    why: &'static str,
    /// Whether this machine could run it all the same.
    possible: fn() -> bool,
}

const ACCEPTED: &[Accepted] = &[
    Accepted {
        begins: "no /dev/kvm",
        why: "not every machine has KVM; the same guests run under QEMU's",
        possible: || vm::kvm().is_ok(),
    },
    Accepted {
        begins: "no huge pages",
        why: "only who may set some aside has them",
        possible: may_set_huge_pages_aside,
    },
    Accepted {
        begins: "apt has no trixie-backports QEMU",
        why: "a later Debian's QEMU is asked of apt each time; what it said is told",
        possible: || false,
    },
    Accepted {
        begins: "run by the other tests",
        why: "no test but the body of a process that tests start",
        possible: || false,
    },
    Accepted {
        begins: "the sources of the standard library are missing",
        why: "Debian has them in its security updates alone, and not every machine has a way there",
        possible: || false,
    },
    Accepted {
        begins: "the advisory database cannot be reached",
        why: "it is a repository elsewhere, and not every machine has a way there",
        possible: || false,
    },
];

/// Why CI may leave this out, if it may.
pub fn accepted(skipped: &Skipped) -> Option<&'static str> {
    let mut list = ACCEPTED.iter();
    let known = list.find(|known| skipped.reason.starts_with(known.begins))?;
    (!(known.possible)()).then_some(known.why)
}

fn may_set_huge_pages_aside() -> bool {
    let mut pool = std::fs::OpenOptions::new();
    pool.write(true).open("/proc/sys/vm/nr_hugepages").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_the_list_is_accepted() {
        let skipped = |reason: &str| Skipped {
            name: "a_test".into(),
            reason: reason.into(),
        };
        assert!(accepted(&skipped("run by the other tests: a child")).is_some());
        assert_eq!(accepted(&skipped("no fio")), None);
        let kvm = skipped("no /dev/kvm: not found");
        assert_eq!(accepted(&kvm).is_some(), vm::kvm().is_err());
    }
}
