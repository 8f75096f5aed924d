//! An engine for tests: system calls, but a script is asked before each step whether it fails.
#![expect(unsafe_code, reason = "passes the engines' contract on")]

use std::sync::Arc;

use nix::errno::Errno;

use crate::engine::Engine;
use crate::engine::Outcome;
use crate::engine::Step;
use crate::engine::sync::SyncEngine;
use crate::image::Image;

/// What a script is told of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Read,
    Write { durable: bool },
    Sync,
    Other,
}

/// Answers with the error of a step that fails.
pub(crate) type Script = Box<dyn FnMut(Seen) -> Option<Errno> + Send>;

pub(crate) struct Scripted {
    engine: SyncEngine,
    script: Script,
}

impl Scripted {
    pub fn new(image: Arc<Image>, script: Script) -> Self {
        Self {
            engine: SyncEngine::new(image),
            script,
        }
    }
}

impl Engine for Scripted {
    unsafe fn start(&mut self, slot: u16, step: Step<'_>) -> Outcome {
        let seen = match step {
            Step::Read { .. } => Seen::Read,
            Step::Write { durable, .. } => Seen::Write { durable },
            Step::Sync => Seen::Sync,
            _ => Seen::Other,
        };
        match (self.script)(seen) {
            Some(errno) => Outcome::Done(Err(errno)),
            // SAFETY: the caller's promise, passed on.
            None => unsafe { self.engine.start(slot, step) },
        }
    }
}
