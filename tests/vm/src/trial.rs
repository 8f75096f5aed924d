//! A test as the runners here give it to libtest-mimic.
//!
//! One rule: `cargo xtask test` is told on lines of their own that a test could not run (`SKIP name: reason`), and how
//! long one took (`TOOK name: 1.5 s`).

use std::time::Instant;

use libtest_mimic::Completion;
use libtest_mimic::Failed;
use libtest_mimic::Trial;

use crate::Skip;

/// A test that is shown as ignored, with the reason, when it returns a [`Skip`].
pub fn trial(name: &str, test: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Trial {
    let name = name.to_string();
    Trial::ignorable_test(name.clone(), move || {
        let start = Instant::now();
        let done = test();
        host_os::say!("TOOK {name}: {:.2} s", start.elapsed().as_secs_f64());
        match done {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => match error.downcast_ref::<Skip>() {
                Some(reason) => {
                    host_os::say!("SKIP {name}: {reason}");
                    Ok(Completion::ignored_with(reason))
                }
                None => Err(Failed::from(format!("{error:#}"))),
            },
        }
    })
}
