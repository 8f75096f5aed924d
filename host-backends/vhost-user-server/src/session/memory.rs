//! Requests about shared memory: regions, dirty log, in-flight record. One rule: the new snapshot is complete before the
//! old one is let go, so a refused message changes nothing.

use super::Answer;
use super::Outcome;
use super::Refusal;
use super::Session;
use crate::worker::Stop;
use device_model::InflightRegion;
use guest_memory::DirtyLog;
use guest_memory::GuestMemory;
use guest_memory::RegionSpec;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vhost_user_protocol::Inflight;
use vhost_user_protocol::LogBase;
use vhost_user_protocol::MemoryRegion;
use vhost_user_protocol::Reply;
use vhost_user_protocol::feature;
use virtio_spec::feature::RING_PACKED;
use virtqueue::Format;

impl Session {
    /// The log if the front-end wants writes logged now.
    fn active_log(&self) -> Option<Arc<DirtyLog>> {
        self.log
            .clone()
            .filter(|_| self.features & feature::LOG_ALL != 0)
    }

    /// Puts `memory` in place of the present snapshot, around running rings.
    fn switch_memory(&mut self, memory: GuestMemory) {
        self.pause_all(Stop::Drain);
        self.memory = Arc::new(memory);
        self.start_all();
    }

    pub(super) fn set_mem_table(&mut self, regions: &[MemoryRegion], fds: Vec<OwnedFd>) -> Outcome {
        let regions = regions.iter().map(spec).zip(fds).collect();
        let memory = GuestMemory::new(regions)?.with_log(self.active_log())?;
        self.switch_memory(memory);
        Ok(Answer::Done)
    }

    pub(super) fn add_mem_reg(&mut self, region: MemoryRegion, fd: Option<OwnedFd>) -> Outcome {
        let fd = fd.ok_or(Refusal::FdCount(0))?;
        let spec = spec(&region);
        // QEMU 7.2 says every region once for each queue pair: the last word counts.
        let memory = match self.memory.regions().any(|known| *known == spec) {
            true => self.memory.without_region(&spec)?.with_region(spec, fd)?,
            false => self.memory.with_region(spec, fd)?,
        };
        self.switch_memory(memory);
        Ok(Answer::Done)
    }

    pub(super) fn rem_mem_reg(&mut self, region: MemoryRegion) -> Outcome {
        let memory = self.memory.without_region(&spec(&region))?;
        self.switch_memory(memory);
        Ok(Answer::Done)
    }

    pub(super) fn set_log_base(&mut self, log: LogBase, fd: Option<OwnedFd>) -> Outcome {
        let fd = fd.ok_or(Refusal::FdCount(0))?;
        let new = Arc::new(DirtyLog::new(fd.as_fd(), log.offset, log.size)?);
        // Checked now, also when logging is switched on only later.
        let checked = self.memory.with_log(Some(new.clone()))?;
        self.log = Some(new);
        if self.features & feature::LOG_ALL != 0 {
            self.switch_memory(checked);
        }
        Ok(Answer::Reply(Reply::Log(log)))
    }

    fn ring_format(&self) -> Option<Format> {
        let packed = self.features & RING_PACKED != 0;
        (self.features != 0).then_some(if packed {
            Format::Packed
        } else {
            Format::Split
        })
    }

    pub(super) fn get_inflight_fd(&mut self, wanted: Inflight, length: usize) -> Outcome {
        let Inflight {
            num_queues,
            queue_size,
            ..
        } = wanted;
        if num_queues == 0 || usize::from(num_queues) > self.vrings.len() {
            return Err(Refusal::Rule("No such number of queues"));
        }
        if queue_size == 0 || queue_size > self.device.queue_size_max() {
            return Err(Refusal::Rule("No such queue size"));
        }
        let format = self.ring_format();
        // The area is not kept: the front-end hands it in by SET_INFLIGHT_FD when it wants it used.
        let new =
            InflightRegion::create(num_queues, queue_size, format, self.device.record_bytes())?;
        let made = Inflight {
            mmap_size: new.size,
            mmap_offset: new.offset,
            ..wanted
        };
        Ok(Answer::ReplyWithFd(Reply::Inflight(made, length), new.fd))
    }

    pub(super) fn set_inflight_fd(&mut self, given: Inflight, fd: Option<OwnedFd>) -> Outcome {
        let fd = fd.ok_or(Refusal::FdCount(0))?;
        if usize::from(given.num_queues) > self.vrings.len() {
            return Err(Refusal::Rule("No such number of queues"));
        }
        let Inflight {
            mmap_size,
            mmap_offset,
            num_queues,
            queue_size,
            ..
        } = given;
        let region =
            InflightRegion::from_fd(fd.as_fd(), mmap_offset, mmap_size, num_queues, queue_size)?;
        self.replace_inflight(region)
    }
}

fn spec(region: &MemoryRegion) -> RegionSpec {
    RegionSpec {
        guest_addr: region.guest_addr,
        size: region.size,
        user_addr: region.user_addr,
        mmap_offset: region.mmap_offset,
    }
}
