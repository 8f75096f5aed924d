//! Whether a card's cable is in: by the operator's word and by what the ends of its link tell.
//!
//! Rule: ends tell from their workers' threads, at any time; the card settles what follows.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::Weak;

use host_os::sync::lock;
use net_link::Watch;

use crate::NetDevice;

/// Why the cable is in or out.
#[derive(Debug, Default)]
pub(crate) struct Cable {
    state: Mutex<CableState>,
    device: Mutex<Weak<NetDevice>>,
}

impl Cable {
    /// The cable is in `device`, which is told when that changes.
    pub fn belongs_to(&self, device: &Arc<NetDevice>) {
        *lock(&self.device) = Arc::downgrade(device);
    }

    /// The operator pulls the cable or puts it in.
    pub fn pull(&self, pulled: bool) {
        lock(&self.state).pulled = pulled;
    }

    /// Whether the operator left it in and the link works.
    pub fn is_in(&self) -> bool {
        let state = lock(&self.state);
        !state.pulled && state.lost == 0
    }

    /// What tells of one end of the link.
    pub fn end(self: &Arc<Self>) -> Arc<dyn Watch> {
        Arc::new(End {
            cable: Arc::clone(self),
            lost: Mutex::new(false),
        })
    }
}

#[derive(Debug, Default)]
struct CableState {
    /// The operator pulled it.
    pulled: bool,
    /// Ends of the link that get nothing through.
    lost: u16,
}

/// What one end of a link tells of itself.
struct End {
    cable: Arc<Cable>,
    lost: Mutex<bool>,
}

impl End {
    fn say(&self, lost: bool) {
        let mut before = lock(&self.lost);
        if *before == lost {
            return;
        }
        *before = lost;
        let mut state = lock(&self.cable.state);
        state.lost = if lost {
            state.lost.saturating_add(1)
        } else {
            state.lost.saturating_sub(1)
        };
        drop(state);
        let device = lock(&self.cable.device).upgrade();
        if let Some(device) = device {
            device.settle_cable();
        }
    }
}

impl Watch for End {
    fn lost(&self) {
        self.say(true);
    }

    fn restored(&self) {
        self.say(false);
    }
}
