//! Requests in flight, against an engine that is no help.

use super::*;
use crate::BlockSpec;
use crate::engine::Step;

/// An engine whose one step never ends, and that cannot even be waited for.
struct Stuck(bool);

#[expect(
    unsafe_code,
    reason = "the contract of engines; this one touches no buffer"
)]
impl Engine for Stuck {
    unsafe fn start(&mut self, _slot: u16, _step: Step<'_>) -> Outcome {
        self.0 = true;
        Outcome::Pending
    }

    fn wait(&mut self) -> Result<(), Errno> {
        Err(Errno::EEXIST)
    }

    fn pending(&self) -> usize {
        self.0.into()
    }
}

/// An engine that ends its steps when it is asked, the last first.
struct Later(Vec<u16>);

#[expect(
    unsafe_code,
    reason = "the contract of engines; this one touches no buffer"
)]
impl Engine for Later {
    unsafe fn start(&mut self, slot: u16, _step: Step<'_>) -> Outcome {
        self.0.push(slot);
        Outcome::Pending
    }

    fn pending(&self) -> usize {
        self.0.len()
    }

    fn reap(&mut self, over: &mut Vec<(u16, Result<usize, Errno>)>) {
        over.extend(self.0.drain(..).map(|slot| (slot, Ok(0))));
    }
}

#[test]
fn a_pending_request_comes_back_once_with_what_is_kept_with_it() {
    let image = Arc::new(Image::open(&BlockSpec::memory(1 << 20)).expect("an image"));
    let mut runner = Runner::<&str>::new(Box::new(Later(Vec::new())), image, 2);
    for round in 0..3 {
        for name in ["one", "two"] {
            let mut slot = runner.claim().expect("a slot");
            slot.context = name;
            assert!(matches!(runner.flush(slot), Begun::Pending), "{round}");
        }
        assert!(runner.claim().is_none(), "there is no third");
        let mut over = Vec::new();
        while let Some((slot, result)) = runner.next_over() {
            over.push((slot.context, result));
            runner.release(slot);
        }
        over.sort_unstable_by_key(|(name, _)| *name);
        assert_eq!(over, [("one", Ok(())), ("two", Ok(()))]);
        assert_eq!(runner.room(), 2);
    }
}

#[test]
fn an_image_that_the_kernel_may_still_write_stays_open_and_locked() {
    for stuck in [false, true] {
        let image = Arc::new(Image::open(&BlockSpec::memory(1 << 20)).expect("an image"));
        let engine = Box::new(Stuck(false));
        let mut runner = Runner::<()>::new(engine, Arc::clone(&image), 1);
        let slot = runner.claim().expect("a slot");
        if stuck {
            assert!(matches!(runner.flush(slot), Begun::Pending));
        }
        drop(runner);
        assert_eq!(Arc::strong_count(&image), 1 + usize::from(stuck));
    }
}
