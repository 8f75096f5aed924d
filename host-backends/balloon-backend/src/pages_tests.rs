//! The set against a plain model.

use super::Pages;
use proptest::prelude::*;
use std::collections::BTreeSet;

proptest! {
    #[test]
    fn the_set_agrees_with_a_plain_model(steps in prop::collection::vec(
        (0_u8..4, 32_000_u64..33_500, 0_u64..1_000), 1..40,
    )) {
        let (mut set, mut model) = (Pages::default(), BTreeSet::new());
        for (what, start, len) in steps {
            let range = start..start + len;
            match what {
                0 | 1 => {
                    let new = range.clone().filter(|page| model.insert(*page)).count();
                    prop_assert_eq!(set.insert(range), new as u64);
                }
                2 => {
                    let gone = range.clone().filter(|page| model.remove(page)).count();
                    prop_assert_eq!(set.remove(range), gone as u64);
                }
                _ => {
                    let all = range.clone().all(|page| model.contains(&page));
                    prop_assert_eq!(set.has_all(range), all);
                }
            }
            prop_assert_eq!(set.len(), model.len() as u64);
        }
        let mut pages = Vec::new();
        let mut last = None;
        set.for_each_run(|run| {
            assert!(!run.is_empty() && last.is_none_or(|last| last < run.start), "runs are maximal");
            last = Some(run.end);
            pages.extend(run);
        });
        prop_assert_eq!(pages, model.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn the_last_page_number_of_all_fits() {
    let mut set = Pages::default();
    let last = u64::from(u32::MAX);
    assert_eq!(set.insert(last..last + 1), 1);
    assert!(set.has_all(last..last + 1));
    assert_eq!(set.remove(0..last + 1), 1);
    assert_eq!(set.len(), 0);
}
