//! Requests of both channels as typed values. One rule: a payload is decoded and checked in full before anyone
//! acts on it, and a request that this crate does not know decodes to `Unknown`, never to an error.

use crate::BackendRequest;
use crate::ConfigSpace;
use crate::DeviceStatePhase;
use crate::DeviceStateTransfer;
use crate::Error;
use crate::Header;
use crate::Inflight;
use crate::LogBase;
use crate::MAX_CONFIG_BYTES;
use crate::MAX_TABLE_REGIONS;
use crate::MemoryRegion;
use crate::Request;
use crate::TransferDirection;
use crate::VringAddress;
use crate::VringFd;
use crate::VringState;
use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;

/// How many descriptors belong to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FdRule {
    /// Exactly this many.
    Exactly(usize),
    /// None or one.
    Optional,
}

impl FdRule {
    /// Whether `count` descriptors satisfy the rule.
    pub fn allows(self, count: usize) -> bool {
        match self {
            Self::Exactly(n) => count == n,
            Self::Optional => count <= 1,
        }
    }
}

/// A message from the front-end; variants are named as in the document.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each variant is the request of the same name, documented on `Request`"
)]
pub enum FrontendMessage {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemTable(Vec<MemoryRegion>),
    /// With `LOG_SHMFD`: size and offset of the log in the descriptor that comes along.
    SetLogBase(LogBase),
    /// Without `LOG_SHMFD`: a bare address, of no use to another process.
    SetLogBaseAddress(u64),
    SetLogFd,
    SetVringNum(VringState),
    SetVringAddr(VringAddress),
    SetVringBase(VringState),
    GetVringBase(VringState),
    SetVringKick(VringFd),
    SetVringCall(VringFd),
    SetVringErr(VringFd),
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    SetVringEnable(VringState),
    SendRarp(u64),
    NetSetMtu(u64),
    SetBackendReqFd,
    GetConfig(ConfigSpace),
    SetConfig(ConfigSpace),
    /// The second field is the payload's length on the wire (20 or 24), which the reply must repeat.
    GetInflightFd(Inflight, usize),
    SetInflightFd(Inflight),
    ResetDevice,
    GetMaxMemSlots,
    AddMemReg(MemoryRegion),
    RemMemReg(MemoryRegion),
    SetStatus(u64),
    GetStatus,
    SetDeviceStateFd(DeviceStateTransfer),
    CheckDeviceState,
    Unknown(Request),
}

impl FrontendMessage {
    /// Decodes the payload of `request`.
    pub fn decode(request: Request, payload: &[u8]) -> Result<Self, Error> {
        use FrontendMessage as M;
        let p = Payload {
            request,
            bytes: payload,
        };
        Ok(match request {
            Request::GetFeatures => p.empty(M::GetFeatures)?,
            Request::SetFeatures => M::SetFeatures(p.read()?),
            Request::SetOwner => p.empty(M::SetOwner)?,
            Request::ResetOwner => p.empty(M::ResetOwner)?,
            Request::SetMemTable => M::SetMemTable(p.memory_table()?),
            Request::SetLogBase => p.log_base()?,
            Request::SetLogFd => M::SetLogFd,
            Request::SetVringNum => M::SetVringNum(p.read()?),
            Request::SetVringAddr => M::SetVringAddr(p.read()?),
            Request::SetVringBase => M::SetVringBase(p.read()?),
            Request::GetVringBase => M::GetVringBase(p.read()?),
            Request::SetVringKick => M::SetVringKick(VringFd(p.read()?)),
            Request::SetVringCall => M::SetVringCall(VringFd(p.read()?)),
            Request::SetVringErr => M::SetVringErr(VringFd(p.read()?)),
            Request::SetVringEnable => M::SetVringEnable(p.read()?),
            _ => Self::decode_protocol_feature(&p)?,
        })
    }

    /// The requests that exist only with a protocol feature.
    fn decode_protocol_feature(p: &Payload<'_>) -> Result<Self, Error> {
        use FrontendMessage as M;
        Ok(match p.request {
            Request::GetProtocolFeatures => p.empty(M::GetProtocolFeatures)?,
            Request::SetProtocolFeatures => M::SetProtocolFeatures(p.read()?),
            Request::GetQueueNum => p.empty(M::GetQueueNum)?,
            Request::SendRarp => M::SendRarp(p.read()?),
            Request::NetSetMtu => M::NetSetMtu(p.read()?),
            Request::SetBackendReqFd => M::SetBackendReqFd,
            Request::GetConfig => M::GetConfig(p.config()?),
            Request::SetConfig => M::SetConfig(p.config()?),
            Request::GetInflightFd => M::GetInflightFd(p.inflight()?, p.bytes.len()),
            Request::SetInflightFd => M::SetInflightFd(p.inflight()?),
            Request::ResetDevice => p.empty(M::ResetDevice)?,
            Request::GetMaxMemSlots => p.empty(M::GetMaxMemSlots)?,
            Request::AddMemReg => M::AddMemReg(p.single_region()?),
            Request::RemMemReg => M::RemMemReg(p.single_region()?),
            Request::SetStatus => M::SetStatus(p.read()?),
            Request::GetStatus => p.empty(M::GetStatus)?,
            Request::SetDeviceStateFd => M::SetDeviceStateFd(p.device_state()?),
            Request::CheckDeviceState => p.empty(M::CheckDeviceState)?,
            other => M::Unknown(other),
        })
    }

    /// The request number.
    pub fn request(&self) -> Request {
        use FrontendMessage as M;
        match self {
            M::GetFeatures => Request::GetFeatures,
            M::SetFeatures(_) => Request::SetFeatures,
            M::SetOwner => Request::SetOwner,
            M::ResetOwner => Request::ResetOwner,
            M::SetMemTable(_) => Request::SetMemTable,
            M::SetLogBase(_) | M::SetLogBaseAddress(_) => Request::SetLogBase,
            M::SetLogFd => Request::SetLogFd,
            M::SetVringNum(_) => Request::SetVringNum,
            M::SetVringAddr(_) => Request::SetVringAddr,
            M::SetVringBase(_) => Request::SetVringBase,
            M::GetVringBase(_) => Request::GetVringBase,
            M::SetVringKick(_) => Request::SetVringKick,
            M::SetVringCall(_) => Request::SetVringCall,
            M::SetVringErr(_) => Request::SetVringErr,
            M::GetProtocolFeatures => Request::GetProtocolFeatures,
            M::SetProtocolFeatures(_) => Request::SetProtocolFeatures,
            M::GetQueueNum => Request::GetQueueNum,
            M::SetVringEnable(_) => Request::SetVringEnable,
            M::SendRarp(_) => Request::SendRarp,
            M::NetSetMtu(_) => Request::NetSetMtu,
            M::SetBackendReqFd => Request::SetBackendReqFd,
            M::GetConfig(_) => Request::GetConfig,
            M::SetConfig(_) => Request::SetConfig,
            M::GetInflightFd(..) => Request::GetInflightFd,
            M::SetInflightFd(_) => Request::SetInflightFd,
            M::ResetDevice => Request::ResetDevice,
            M::GetMaxMemSlots => Request::GetMaxMemSlots,
            M::AddMemReg(_) => Request::AddMemReg,
            M::RemMemReg(_) => Request::RemMemReg,
            M::SetStatus(_) => Request::SetStatus,
            M::GetStatus => Request::GetStatus,
            M::SetDeviceStateFd(_) => Request::SetDeviceStateFd,
            M::CheckDeviceState => Request::CheckDeviceState,
            M::Unknown(request) => *request,
        }
    }

    /// How many descriptors belong to the message.
    pub fn fd_rule(&self) -> FdRule {
        use FrontendMessage as M;
        match self {
            M::SetMemTable(regions) => FdRule::Exactly(regions.len()),
            M::SetVringKick(v) | M::SetVringCall(v) | M::SetVringErr(v) => {
                FdRule::Exactly(usize::from(v.has_fd()))
            }
            M::SetLogBase(_)
            | M::SetLogFd
            | M::SetBackendReqFd
            | M::SetInflightFd(_)
            | M::AddMemReg(_)
            | M::SetDeviceStateFd(_) => FdRule::Exactly(1),
            // QEMU sends a descriptor with REM_MEM_REG in some versions; it is closed unused.
            M::RemMemReg(_) => FdRule::Optional,
            _ => FdRule::Exactly(0),
        }
    }

    /// The message's bytes, header included.
    pub fn encode(&self, need_reply: bool) -> Vec<u8> {
        let payload = self.payload();
        let header = Header::request(self.request().0, payload.len(), need_reply);
        let mut out = header.encode().to_vec();
        out.extend_from_slice(&payload);
        out
    }

    fn payload(&self) -> Vec<u8> {
        use FrontendMessage as M;
        match self {
            M::SetFeatures(v)
            | M::SetLogBaseAddress(v)
            | M::SetProtocolFeatures(v)
            | M::SendRarp(v)
            | M::NetSetMtu(v)
            | M::SetStatus(v) => v.to_ne_bytes().to_vec(),
            M::SetVringKick(v) | M::SetVringCall(v) | M::SetVringErr(v) => {
                v.0.to_ne_bytes().to_vec()
            }
            M::SetVringNum(v) | M::SetVringBase(v) | M::GetVringBase(v) | M::SetVringEnable(v) => {
                v.as_bytes().to_vec()
            }
            M::SetMemTable(regions) => {
                let mut out = (regions.len() as u64).to_ne_bytes().to_vec();
                regions
                    .iter()
                    .for_each(|region| out.extend_from_slice(region.as_bytes()));
                out
            }
            M::SetLogBase(v) => v.as_bytes().to_vec(),
            M::SetVringAddr(v) => v.as_bytes().to_vec(),
            M::GetConfig(v) | M::SetConfig(v) => encode_config(v),
            M::GetInflightFd(v, _) | M::SetInflightFd(v) => v.as_bytes().to_vec(),
            M::AddMemReg(region) | M::RemMemReg(region) => {
                let mut out = vec![0; 8];
                out.extend_from_slice(region.as_bytes());
                out
            }
            M::SetDeviceStateFd(v) => encode_device_state(*v),
            _ => Vec::new(),
        }
    }
}

/// A message from the back-end, on the channel given by `SET_BACKEND_REQ_FD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendMessage {
    /// The device configuration changed; read it again.
    ConfigChange,
    /// In-band call for a ring.
    VringCall(VringState),
    /// In-band error for a ring.
    VringErr(VringState),
    /// Anything else.
    Unknown(BackendRequest),
}

impl BackendMessage {
    /// Decodes the payload of `request`.
    pub fn decode(request: BackendRequest, payload: &[u8]) -> Result<Self, Error> {
        let p = Payload {
            request: Request(request.0),
            bytes: payload,
        };
        Ok(match request {
            BackendRequest::ConfigChangeMsg => p.empty(Self::ConfigChange)?,
            BackendRequest::VringCall => Self::VringCall(p.read()?),
            BackendRequest::VringErr => Self::VringErr(p.read()?),
            other => Self::Unknown(other),
        })
    }

    /// The message's bytes, header included.
    pub fn encode(&self, need_reply: bool) -> Vec<u8> {
        let (request, payload) = match self {
            Self::ConfigChange => (BackendRequest::ConfigChangeMsg, Vec::new()),
            Self::VringCall(v) => (BackendRequest::VringCall, v.as_bytes().to_vec()),
            Self::VringErr(v) => (BackendRequest::VringErr, v.as_bytes().to_vec()),
            Self::Unknown(request) => (*request, Vec::new()),
        };
        let mut out = Header::request(request.0, payload.len(), need_reply)
            .encode()
            .to_vec();
        out.extend_from_slice(&payload);
        out
    }
}

pub(crate) fn encode_config(config: &ConfigSpace) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 + config.data.len());
    out.extend_from_slice(&config.offset.to_ne_bytes());
    out.extend_from_slice(&config.size.to_ne_bytes());
    out.extend_from_slice(&config.flags.to_ne_bytes());
    out.extend_from_slice(&config.data);
    out
}

fn encode_device_state(transfer: DeviceStateTransfer) -> Vec<u8> {
    let direction: u32 = match transfer.direction {
        TransferDirection::Save => 0,
        TransferDirection::Load => 1,
    };
    let phase: u32 = match transfer.phase {
        DeviceStatePhase::Stopped => 0,
    };
    [direction, phase].as_bytes().to_vec()
}

/// A payload being decoded.
struct Payload<'a> {
    request: Request,
    bytes: &'a [u8],
}

impl Payload<'_> {
    fn length_error(&self) -> Error {
        Error::PayloadLength {
            request: self.request,
            length: self.bytes.len(),
        }
    }

    fn field_error(&self, field: &'static str) -> Error {
        Error::Field {
            request: self.request,
            field,
        }
    }

    fn empty<T>(&self, message: T) -> Result<T, Error> {
        if self.bytes.is_empty() {
            Ok(message)
        } else {
            Err(self.length_error())
        }
    }

    fn read<T: FromBytes + Immutable>(&self) -> Result<T, Error> {
        T::read_from_bytes(self.bytes).map_err(|_| self.length_error())
    }

    fn log_base(&self) -> Result<FrontendMessage, Error> {
        if self.bytes.len() == size_of::<u64>() {
            return Ok(FrontendMessage::SetLogBaseAddress(self.read()?));
        }
        Ok(FrontendMessage::SetLogBase(self.read()?))
    }

    fn memory_table(&self) -> Result<Vec<MemoryRegion>, Error> {
        let (count, rest) = u32::read_from_prefix(self.bytes).map_err(|_| self.length_error())?;
        let count = count as usize;
        let regions = rest.get(4..).ok_or_else(|| self.length_error())?;
        if count > MAX_TABLE_REGIONS {
            return Err(self.field_error("number of regions"));
        }
        if regions.len() != count * size_of::<MemoryRegion>() {
            return Err(self.length_error());
        }
        let regions = regions.chunks_exact(size_of::<MemoryRegion>());
        regions
            .map(|bytes| MemoryRegion::read_from_bytes(bytes).map_err(|_| self.length_error()))
            .collect()
    }

    fn single_region(&self) -> Result<MemoryRegion, Error> {
        let bytes = self.bytes.get(8..).ok_or_else(|| self.length_error())?;
        MemoryRegion::read_from_bytes(bytes).map_err(|_| self.length_error())
    }

    fn inflight(&self) -> Result<Inflight, Error> {
        if !matches!(self.bytes.len(), 20 | 24) {
            return Err(self.length_error());
        }
        let mut padded = [0; size_of::<Inflight>()];
        padded[..self.bytes.len()].copy_from_slice(self.bytes);
        Inflight::read_from_bytes(&padded).map_err(|_| self.length_error())
    }

    pub(crate) fn config(&self) -> Result<ConfigSpace, Error> {
        let (head, data) =
            <[u32; 3]>::read_from_prefix(self.bytes).map_err(|_| self.length_error())?;
        let [offset, size, flags] = head;
        if size as usize > MAX_CONFIG_BYTES {
            return Err(self.field_error("size"));
        }
        if data.len() != size as usize {
            return Err(self.length_error());
        }
        Ok(ConfigSpace {
            offset,
            size,
            flags,
            data: data.to_vec(),
        })
    }

    fn device_state(&self) -> Result<DeviceStateTransfer, Error> {
        let [direction, phase]: [u32; 2] = self.read()?;
        let direction = match direction {
            0 => TransferDirection::Save,
            1 => TransferDirection::Load,
            _ => return Err(self.field_error("direction")),
        };
        if phase != 0 {
            return Err(self.field_error("phase"));
        }
        Ok(DeviceStateTransfer {
            direction,
            phase: DeviceStatePhase::Stopped,
        })
    }
}

/// Decodes the configuration reply; see [`crate::Reply`].
pub(crate) fn decode_config(request: Request, bytes: &[u8]) -> Result<ConfigSpace, Error> {
    Payload { request, bytes }.config()
}

/// Decodes a fixed-size reply payload.
pub(crate) fn decode_fixed<T: FromBytes + Immutable>(
    request: Request,
    bytes: &[u8],
) -> Result<T, Error> {
    Payload { request, bytes }.read()
}

/// Decodes the in-flight description of a reply, 20 or 24 bytes long.
pub(crate) fn decode_inflight(request: Request, bytes: &[u8]) -> Result<Inflight, Error> {
    Payload { request, bytes }.inflight()
}
