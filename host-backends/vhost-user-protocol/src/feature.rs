//! Feature bits that the vhost-user transport adds. One rule: masks, not bit numbers.

/// `VHOST_F_LOG_ALL`: the back-end marks every page it writes in the dirty log. Virtio feature bit 26.
pub const LOG_ALL: u64 = 1 << 26;
/// `VHOST_USER_F_PROTOCOL_FEATURES`: the protocol-feature messages are legal. Virtio feature bit 30.
pub const PROTOCOL_FEATURES: u64 = 1 << 30;

/// Protocol features (the vhost-user document, "Protocol features").
pub mod protocol {
    /// Several queues; `GET_QUEUE_NUM`.
    pub const MQ: u64 = 1 << 0;
    /// The dirty log comes as a file descriptor.
    pub const LOG_SHMFD: u64 = 1 << 1;
    /// `SEND_RARP`.
    pub const RARP: u64 = 1 << 2;
    /// `need_reply` is honoured.
    pub const REPLY_ACK: u64 = 1 << 3;
    /// `NET_SET_MTU`.
    pub const NET_MTU: u64 = 1 << 4;
    /// A second channel for messages from the back-end.
    pub const BACKEND_REQ: u64 = 1 << 5;
    /// `SET_VRING_ENDIAN`.
    pub const CROSS_ENDIAN: u64 = 1 << 6;
    /// Crypto sessions.
    pub const CRYPTO_SESSION: u64 = 1 << 7;
    /// Postcopy.
    pub const PAGEFAULT: u64 = 1 << 8;
    /// `GET_CONFIG` and `SET_CONFIG`.
    pub const CONFIG: u64 = 1 << 9;
    /// Descriptors may ride on back-end messages.
    pub const BACKEND_SEND_FD: u64 = 1 << 10;
    /// Host notifiers.
    pub const HOST_NOTIFIER: u64 = 1 << 11;
    /// The in-flight record, `GET_INFLIGHT_FD` and `SET_INFLIGHT_FD`.
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    /// `RESET_DEVICE`.
    pub const RESET_DEVICE: u64 = 1 << 13;
    /// Kicks and calls as messages.
    pub const INBAND_NOTIFICATIONS: u64 = 1 << 14;
    /// `GET_MAX_MEM_SLOTS`, `ADD_MEM_REG`, `REM_MEM_REG`.
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// `SET_STATUS` and `GET_STATUS`.
    pub const STATUS: u64 = 1 << 16;
    /// Xen memory mapping.
    pub const XEN_MMAP: u64 = 1 << 17;
    /// Shared objects.
    pub const SHARED_OBJECT: u64 = 1 << 18;
    /// `SET_DEVICE_STATE_FD` and `CHECK_DEVICE_STATE`.
    pub const DEVICE_STATE: u64 = 1 << 19;
    /// `GET_VRING_BASE` leaves requests in flight, recorded, instead of draining them.
    pub const GET_VRING_BASE_INFLIGHT: u64 = 1 << 20;
    /// Guest-physical instead of front-end addresses in memory and ring messages.
    pub const GPA_ADDRESSES: u64 = 1 << 21;
    /// Shared-memory regions.
    pub const SHMEM: u64 = 1 << 22;
}
