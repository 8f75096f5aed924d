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

#[test]
fn an_image_that_the_kernel_may_still_write_stays_open_and_locked() {
    for stuck in [false, true] {
        let image = Arc::new(Image::open(&BlockSpec::memory(1 << 20)).expect("an image"));
        let engine = Box::new(Stuck(false));
        let mut runner = Runner::<()>::new(engine, Arc::clone(&image), 1);
        let slot = runner.claim().expect("a slot");
        if stuck {
            assert_eq!(runner.flush(slot), None, "it is pending");
        }
        drop(runner);
        assert_eq!(Arc::strong_count(&image), 1 + usize::from(stuck));
    }
}
