//! Requests about one ring. One rule: a ring index keeps its 32 bits until it is looked up, and a ring that runs is not
//! moved, resized or rebased.

use super::Answer;
use super::Outcome;
use super::Refusal;
use super::Session;
use crate::vring::Vring;
use crate::worker::Stop;
use device_model::RingAddresses;
use host_os::EventFd;
use std::os::fd::OwnedFd;
use vhost_user_protocol::Reply;
use vhost_user_protocol::VringAddress;
use vhost_user_protocol::VringFd;
use vhost_user_protocol::VringState;
use vhost_user_protocol::feature::protocol;
use vhost_user_protocol::vring_flags;

impl Session {
    fn vring(&mut self, index: u32) -> Result<&mut Vring, Refusal> {
        usize::try_from(index)
            .ok()
            .and_then(|at| self.vrings.get_mut(at))
            .ok_or(Refusal::NoRing(index))
    }

    pub(super) fn set_vring_num(&mut self, state: VringState) -> Outcome {
        let max = self.device.queue_size_max();
        let vring = self.vring(state.index)?;
        let size = u16::try_from(state.num)
            .ok()
            .filter(|size| (1..=max).contains(size));
        let size = size.ok_or(Refusal::Rule("No such queue size"))?;
        if vring.is_running() && size != vring.size {
            return Err(Refusal::Rule("A running ring cannot change its size"));
        }
        vring.size = size;
        self.start(state.index)
    }

    pub(super) fn set_vring_addr(&mut self, message: &VringAddress) -> Outcome {
        let vring = self.vring(message.index)?;
        let addresses = RingAddresses {
            descriptors: message.descriptor,
            driver: message.available,
            device: message.used,
            log: (message.flags & vring_flags::LOG != 0).then_some(message.log),
        };
        if vring.is_running() && vring.addresses != Some(addresses) {
            let place = |a: RingAddresses| (a.descriptors, a.driver, a.device);
            if vring.addresses.map(place) != Some(place(addresses)) {
                return Err(Refusal::Rule("A running ring cannot move"));
            }
            // Only the logging changes, as at the start and the end of a migration.
            let failure = vring.stop(Stop::Drain);
            vring.addresses = Some(addresses);
            self.note(message.index, failure);
        } else {
            vring.addresses = Some(addresses);
        }
        self.start(message.index)
    }

    pub(super) fn set_vring_base(&mut self, state: VringState) -> Outcome {
        let vring = self.vring(state.index)?;
        if vring.is_running() {
            return Err(Refusal::Rule("A running ring cannot be rebased"));
        }
        vring.base = state.num;
        Ok(Answer::Done)
    }

    pub(super) fn get_vring_base(&mut self, state: VringState) -> Outcome {
        let may_leave = protocol::GET_VRING_BASE_INFLIGHT | protocol::INFLIGHT_SHMFD;
        let suspend = self.protocol_features & may_leave == may_leave && self.inflight.is_some();
        let how = if suspend { Stop::Suspend } else { Stop::Drain };
        self.vring(state.index)?;
        self.halt_ring(state.index as usize, how);
        let num = self.vring(state.index)?.base;
        Ok(Answer::Reply(Reply::Vring(VringState {
            index: state.index,
            num,
        })))
    }

    pub(super) fn set_vring_kick(&mut self, message: VringFd, fd: Option<OwnedFd>) -> Outcome {
        let enabled = self.starts_enabled();
        let vring = self.vring(message.index())?;
        let kick = fd.map(EventFd::from_peer).transpose()?;
        vring.set_kick(kick);
        vring.enabled |= enabled;
        self.start(message.index())
    }

    pub(super) fn set_vring_call(&mut self, message: VringFd, fd: Option<OwnedFd>) -> Outcome {
        let vring = self.vring(message.index())?;
        let call = fd.map(EventFd::from_peer).transpose()?;
        if let Some(call) = call.as_ref().filter(|_| !vring.is_running()) {
            // An interrupt through the old one may have been lost, and front-ends wait for this one before their first
            // request. A running ring's worker does the same.
            call.notify();
        }
        vring.set_call(call);
        Ok(Answer::Done)
    }

    pub(super) fn set_vring_err(&mut self, message: VringFd, fd: Option<OwnedFd>) -> Outcome {
        let vring = self.vring(message.index())?;
        let err = fd.map(EventFd::from_peer).transpose()?;
        vring.set_err(err);
        Ok(Answer::Done)
    }

    pub(super) fn set_vring_enable(&mut self, state: VringState) -> Outcome {
        let vring = self.vring(state.index)?;
        match state.num {
            0 => {
                vring.enabled = false;
                let failure = vring.stop(Stop::Drain);
                self.note(state.index, failure);
                Ok(Answer::Done)
            }
            1 => {
                vring.enabled = true;
                self.start(state.index)
            }
            _ => Err(Refusal::Rule("A ring is enabled by 1 and disabled by 0")),
        }
    }

    fn start(&mut self, index: u32) -> Outcome {
        self.start_ring(index as usize)?;
        Ok(Answer::Done)
    }

    fn note(&mut self, index: u32, failure: Option<crate::worker::Failure>) {
        if let Some(failure) = failure {
            // Poisoned memory is seen again by the session's loop.
            let _ = self.ring_failed(index as usize, &failure);
        }
    }
}
