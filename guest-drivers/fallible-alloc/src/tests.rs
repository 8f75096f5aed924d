//! Lists within their room, and owners on several threads. That nothing else allocates is the workspace check's to show.
use alloc::vec::Vec;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::FallibleVec;
use crate::OutOfMemory;
use crate::Shared;

#[test]
fn a_list_takes_what_it_has_room_for_and_gives_the_rest_back() {
    let mut list: Vec<u32> = Vec::with_room(3).unwrap();
    let room = u32::try_from(list.capacity()).unwrap();
    for item in 0..room {
        assert_eq!(list.push_in_room(item), Ok(()));
    }
    let before = list.as_ptr();
    assert_eq!(list.push_in_room(99), Err(99));
    assert_eq!(
        (list.as_ptr(), list.len()),
        (before, usize::try_from(room).unwrap())
    );
    assert!(list.iter().copied().eq(0..room));
}

#[test]
fn a_list_that_grows_keeps_its_items() {
    let mut list = Vec::new();
    for item in 0..1000 {
        list.push_growing(item).unwrap();
    }
    assert!(list.into_iter().eq(0..1000));
    let squares = Vec::filled(5, |index| index * index).unwrap();
    assert_eq!(squares, [0, 1, 4, 9, 16]);
}

#[test]
fn room_that_no_machine_has_is_refused() {
    let list: Result<Vec<u64>, _> = Vec::with_room(usize::MAX);
    assert_eq!(list, Err(OutOfMemory));
    let list = Vec::<u64>::filled(usize::MAX / 16, |_| 0);
    assert_eq!(list, Err(OutOfMemory));
}

struct Noted<'a>(&'a AtomicUsize);

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_shared_value_is_dropped_once_with_its_last_owner() {
    let dropped = AtomicUsize::new(0);
    let first = Shared::new(Noted(&dropped)).unwrap();
    let owners: Vec<_> = (0..8).map(|_| first.clone()).collect();
    std::thread::scope(|scope| {
        for owner in owners {
            scope.spawn(move || {
                for _ in 0..1000 {
                    drop(owner.clone());
                }
            });
        }
    });
    assert_eq!(dropped.load(Ordering::Relaxed), 0);
    drop(first);
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

#[test]
fn all_owners_see_the_same_value() {
    let value = Shared::new(AtomicUsize::new(0)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let value = value.clone();
            scope.spawn(move || {
                for _ in 0..1000 {
                    value.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(value.load(Ordering::Relaxed), 4000);
}
