//! Requests about the device as a whole: features, configuration, status, reset, state. One rule: what a running ring
//! was started with does not change under it.

use super::Answer;
use super::Outcome;
use super::Refusal;
use super::Session;
use super::number;
use crate::state_transfer::StateTransfer;
use crate::vring::Vring;
use crate::worker::Stop;
use device_model::InflightRegion;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use vhost_user_protocol::ConfigSpace;
use vhost_user_protocol::DeviceStateTransfer;
use vhost_user_protocol::MAX_CONFIG_BYTES;
use vhost_user_protocol::Reply;
use vhost_user_protocol::TransferDirection;
use vhost_user_protocol::feature;
use vhost_user_protocol::feature::protocol;
use virtio_spec::status;

/// Added to the offset of configuration messages by front-ends that count from the start of virtio-mmio's registers.
const OFFSET_QUIRK: u32 = 0x100;
/// Bit 8 of the `SET_DEVICE_STATE_FD` reply: no descriptor comes back, the front-end's is used.
const STATE_NO_FD: u64 = 1 << 8;
/// Bits that the transport adds to the device's features.
const TRANSPORT: u64 = feature::PROTOCOL_FEATURES | feature::LOG_ALL;

impl Session {
    pub(super) fn get_features(&self) -> Outcome {
        Ok(number(self.device.features() | TRANSPORT))
    }

    pub(super) fn set_features(&mut self, features: u64) -> Outcome {
        if features & !(self.device.features() | TRANSPORT) != 0 {
            self.features_refused = true;
            return Err(Refusal::Rule("Features that were not offered"));
        }
        let changed = features ^ self.features;
        let running = self.vrings.iter().any(Vring::is_running);
        if running && changed & !TRANSPORT != 0 {
            return Err(Refusal::Rule("Features cannot change while a ring runs"));
        }
        let logging = (features & feature::LOG_ALL != 0)
            .then(|| self.log.clone())
            .flatten();
        let switched = changed & feature::LOG_ALL != 0;
        if switched {
            let memory = Arc::new(self.memory.with_log(logging)?);
            self.pause_all(Stop::Drain);
            self.memory = memory;
        }
        self.features_refused = false;
        self.features = features;
        if self.starts_enabled() {
            // "The back-end must enable all rings immediately", whatever disabled them before.
            self.vrings
                .iter_mut()
                .for_each(|vring| vring.enabled = true);
        }
        if changed & !TRANSPORT != 0 || !running {
            self.device.acked(features & !TRANSPORT);
        }
        self.start_all();
        Ok(Answer::Done)
    }

    pub(super) fn get_protocol_features(&self) -> Outcome {
        Ok(number(self.offered_protocol_features()))
    }

    fn offered_protocol_features(&self) -> u64 {
        let mut offered = protocol::MQ
            | protocol::LOG_SHMFD
            | protocol::REPLY_ACK
            | protocol::BACKEND_REQ
            | protocol::INFLIGHT_SHMFD
            | protocol::RESET_DEVICE
            | protocol::CONFIGURE_MEM_SLOTS
            | protocol::STATUS
            | protocol::GET_VRING_BASE_INFLIGHT;
        if self.device.config_size() != 0 {
            offered |= protocol::CONFIG;
        }
        if self.device.is_network() {
            offered |= protocol::RARP | protocol::NET_MTU;
        }
        if self.device.has_state() {
            offered |= protocol::DEVICE_STATE;
        }
        offered
    }

    /// The address stands in the six low bytes of the number, as in memory.
    pub(super) fn send_rarp(&self, mac: u64) -> Outcome {
        let [a, b, c, d, e, f, _, _] = mac.to_le_bytes();
        self.device.announce([a, b, c, d, e, f])?;
        Ok(Answer::Done)
    }

    pub(super) fn net_set_mtu(&self, mtu: u64) -> Outcome {
        let mtu = u16::try_from(mtu).map_err(|_| Refusal::Rule("An MTU has sixteen bits"))?;
        self.device.set_mtu(mtu)?;
        Ok(Answer::Done)
    }

    pub(super) fn set_protocol_features(&mut self, features: u64) -> Outcome {
        if features & !self.offered_protocol_features() != 0 {
            return Err(Refusal::Rule("Protocol features that were not offered"));
        }
        self.protocol_features = features;
        Ok(Answer::Done)
    }

    /// "Either ignore this message, or use it to disable all rings."
    pub(super) fn reset_owner(&mut self) -> Outcome {
        self.pause_all(Stop::Drain);
        self.vrings
            .iter_mut()
            .for_each(|vring| vring.enabled = false);
        Ok(Answer::Done)
    }

    /// The range in the device's own terms.
    fn config_range(config: &ConfigSpace) -> Result<(u32, u32), Refusal> {
        let mut offset = config.offset;
        if offset >= OFFSET_QUIRK {
            offset -= OFFSET_QUIRK;
        }
        match offset.checked_add(config.size) {
            Some(end) if end as usize <= MAX_CONFIG_BYTES => Ok((offset, end)),
            _ => Err(Refusal::Rule("Configuration bytes out of range")),
        }
    }

    pub(super) fn get_config(&self, mut config: ConfigSpace) -> Outcome {
        let (offset, end) = Self::config_range(&config)?;
        config.data.fill(0);
        // Front-ends ask for the newest layout they know; what this device lacks reads as zero.
        let known = end.min(self.device.config_size());
        let present = known.saturating_sub(offset) as usize;
        if let Some(out) = config.data.get_mut(..present).filter(|out| !out.is_empty()) {
            self.device.read_config(offset, out);
        }
        Ok(Answer::Reply(Reply::Config(config)))
    }

    pub(super) fn set_config(&self, config: &ConfigSpace) -> Outcome {
        let (offset, end) = Self::config_range(config)?;
        if end > self.device.config_size() {
            return Err(Refusal::Rule("Configuration bytes out of range"));
        }
        // A restore after migration writes the whole space; bytes that do not change are no offence.
        let mut before = vec![0; config.data.len()];
        self.device.read_config(offset, &mut before);
        if let Err(error) = self.device.write_config(offset, &config.data)
            && before != config.data
        {
            return Err(error.into());
        }
        Ok(Answer::Done)
    }

    pub(super) fn set_backend_req_fd(&mut self, fd: Option<OwnedFd>) -> Outcome {
        let stream = fd.map(UnixStream::from);
        // Anything but a connected Unix stream would make sending to it fail or worse.
        let usable = stream
            .as_ref()
            .is_some_and(|stream| stream.peer_addr().is_ok());
        if !usable {
            return Err(Refusal::Rule(
                "The descriptor is not a connected Unix socket",
            ));
        }
        self.channel.set(stream);
        Ok(Answer::Done)
    }

    pub(super) fn reset_device(&mut self) -> Outcome {
        self.vrings.iter_mut().for_each(Vring::reset);
        if let Some(inflight) = &self.inflight {
            inflight.wipe();
        }
        self.features = 0;
        self.features_refused = false;
        self.status = 0;
        self.needs_reset = false;
        self.device.reset();
        Ok(Answer::Done)
    }

    /// Zero is the driver's reset: rings stop. The device's own state stays, for front-ends also send zero around a
    /// mere pause of the VM and do not restore it afterwards.
    pub(super) fn set_status(&mut self, value: u64) -> Outcome {
        let value = u8::try_from(value).map_err(|_| Refusal::Rule("A status has eight bits"))?;
        if value == 0 {
            (0..self.vrings.len()).for_each(|at| self.halt_ring(at, Stop::Drain));
            if std::mem::take(&mut self.needs_reset)
                && let Some(inflight) = &self.inflight
            {
                // A true reset: what the broken ring had in flight is void.
                inflight.wipe();
            }
        }
        self.status = value;
        Ok(Answer::Done)
    }

    pub(super) fn get_status(&self) -> Outcome {
        let mut value = self.status;
        if self.features_refused {
            value &= !status::FEATURES_OK;
        }
        if self.needs_reset {
            value |= status::DEVICE_NEEDS_RESET;
        }
        Ok(number(value.into()))
    }

    pub(super) fn set_device_state_fd(
        &mut self,
        transfer: DeviceStateTransfer,
        fd: Option<OwnedFd>,
    ) -> Outcome {
        if !self.device.has_state() {
            return Err(device_model::Error::Unsupported.into());
        }
        if self.vrings.iter().any(Vring::is_running) {
            return Err(Refusal::Rule(
                "Device state moves only while all rings are stopped",
            ));
        }
        let fd = fd.ok_or(Refusal::FdCount(0))?;
        self.transfer = Some(match transfer.direction {
            TransferDirection::Save => {
                StateTransfer::save(fd, self.device.save_state()?, &self.shared.helpers)?
            }
            TransferDirection::Load => StateTransfer::load(fd, &self.shared.helpers)?,
        });
        Ok(number(STATE_NO_FD))
    }

    pub(super) fn check_device_state(&mut self) -> Outcome {
        let transfer = self
            .transfer
            .take()
            .ok_or(Refusal::Rule("No state was moved"))?;
        if let Some(state) = transfer.finish()? {
            self.device.load_state(&state)?;
        }
        Ok(number(0))
    }

    /// For `SET_INFLIGHT_FD` and its kin: replaces the record between two runs of the rings.
    pub(super) fn replace_inflight(&mut self, region: InflightRegion) -> Outcome {
        if self.vrings.iter().any(Vring::is_running) {
            return Err(Refusal::Rule(
                "The in-flight record cannot change while a ring runs",
            ));
        }
        self.device.keep_in(region.device());
        self.inflight = Some(region);
        Ok(Answer::Done)
    }
}
