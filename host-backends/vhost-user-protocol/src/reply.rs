//! Replies. One rule: a reply repeats the request's number, and its payload form depends on that number alone,
//! except that any request with `need_reply` may be answered by a plain `u64` (zero is success).

use crate::ConfigSpace;
use crate::Error;
use crate::Header;
use crate::Inflight;
use crate::LogBase;
use crate::Request;
use crate::VringState;
use crate::message::decode_config;
use crate::message::decode_fixed;
use crate::message::decode_inflight;
use crate::message::encode_config;
use zerocopy::IntoBytes;

/// What a back-end answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A number; as acknowledgement, zero is success.
    U64(u64),
    /// `GET_VRING_BASE`.
    Vring(VringState),
    /// `SET_LOG_BASE` with `LOG_SHMFD`.
    Log(LogBase),
    /// `GET_CONFIG`.
    Config(ConfigSpace),
    /// `GET_INFLIGHT_FD`, with the payload length to send (20 or 24).
    Inflight(Inflight, usize),
    /// No payload: `GET_CONFIG` failed.
    Empty,
}

impl Reply {
    /// Acknowledges success (`REPLY_ACK`).
    pub const OK: Self = Self::U64(0);
    /// Acknowledges failure (`REPLY_ACK`).
    pub const FAILED: Self = Self::U64(1);

    /// The reply's bytes, header included.
    pub fn encode(&self, request: Request) -> Vec<u8> {
        let payload = match self {
            Self::U64(v) => v.to_ne_bytes().to_vec(),
            Self::Vring(v) => v.as_bytes().to_vec(),
            Self::Log(v) => v.as_bytes().to_vec(),
            Self::Config(v) => encode_config(v),
            Self::Inflight(v, length) => {
                let bytes = v.as_bytes();
                bytes.get(..*length).unwrap_or(bytes).to_vec()
            }
            Self::Empty => Vec::new(),
        };
        let mut out = Header::reply(request.0, payload.len()).encode().to_vec();
        out.extend_from_slice(&payload);
        out
    }

    /// Decodes the reply to `request` (the front-end's half).
    pub fn decode(request: Request, payload: &[u8]) -> Result<Self, Error> {
        Ok(match request {
            _ if payload.is_empty() => Self::Empty,
            Request::GetVringBase => Self::Vring(decode_fixed(request, payload)?),
            Request::SetLogBase if payload.len() == size_of::<LogBase>() => {
                Self::Log(decode_fixed(request, payload)?)
            }
            Request::GetConfig => Self::Config(decode_config(request, payload)?),
            Request::GetInflightFd => {
                Self::Inflight(decode_inflight(request, payload)?, payload.len())
            }
            _ => Self::U64(decode_fixed(request, payload)?),
        })
    }

    /// The number, for a reply that is one.
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::U64(v) => Some(*v),
            _ => None,
        }
    }
}
