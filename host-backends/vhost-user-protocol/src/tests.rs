//! Round trips and malformed bytes. One rule: decoding any bytes returns, it never panics.

use crate::*;
use proptest::prelude::*;

/// Every message without a payload.
const BARE: [FrontendMessage; 9] = [
    FrontendMessage::GetFeatures,
    FrontendMessage::SetOwner,
    FrontendMessage::ResetOwner,
    FrontendMessage::GetProtocolFeatures,
    FrontendMessage::GetQueueNum,
    FrontendMessage::ResetDevice,
    FrontendMessage::GetMaxMemSlots,
    FrontendMessage::GetStatus,
    FrontendMessage::CheckDeviceState,
];

/// Messages with one.
fn samples() -> Vec<FrontendMessage> {
    use FrontendMessage as M;
    let state = VringState {
        index: 0x1_0000,
        num: 7,
    };
    let region = MemoryRegion {
        guest_addr: 1,
        size: 2,
        user_addr: 3,
        mmap_offset: 4,
    };
    let inflight = Inflight {
        mmap_size: 9,
        num_queues: 2,
        queue_size: 3,
        ..Default::default()
    };
    let config = ConfigSpace {
        offset: 0x100,
        size: 3,
        flags: 1,
        data: vec![1, 2, 3],
    };
    let transfer = DeviceStateTransfer {
        direction: TransferDirection::Load,
        phase: DeviceStatePhase::Stopped,
    };
    vec![
        M::SetFeatures(u64::MAX),
        M::SetMemTable(vec![region; 8]),
        M::SetMemTable(vec![]),
        M::SetLogBase(LogBase { size: 5, offset: 6 }),
        M::SetLogBaseAddress(7),
        M::SetLogFd,
        M::SetVringNum(state),
        M::SetVringAddr(VringAddress {
            index: 1,
            flags: 1,
            ..Default::default()
        }),
        M::SetVringBase(state),
        M::GetVringBase(state),
        M::SetVringKick(VringFd::new(3, true)),
        M::SetVringCall(VringFd::new(3, false)),
        M::SetVringErr(VringFd::new(255, true)),
        M::SetProtocolFeatures(feature::protocol::MQ),
        M::SetVringEnable(state),
        M::SendRarp(1),
        M::NetSetMtu(1500),
        M::SetBackendReqFd,
        M::GetConfig(config.clone()),
        M::SetConfig(config),
        M::GetInflightFd(inflight, 24),
        M::SetInflightFd(inflight),
        M::AddMemReg(region),
        M::RemMemReg(region),
        M::SetStatus(4),
        M::SetDeviceStateFd(transfer),
        M::Unknown(Request(4711)),
    ]
}

#[test]
fn every_message_survives_a_round_trip() {
    for message in samples().into_iter().chain(BARE) {
        let bytes = message.encode(true);
        let header = Header::decode(&bytes).unwrap();
        assert!(header.flags.need_reply() && !header.flags.is_reply());
        let payload = &bytes[HEADER_SIZE..];
        assert_eq!(payload.len(), header.size as usize);
        let decoded = FrontendMessage::decode(Request(header.request), payload).unwrap();
        assert_eq!(decoded, message);
    }
}

#[test]
fn a_wrong_payload_length_is_refused_for_every_known_message() {
    for message in samples().into_iter().chain(BARE) {
        if matches!(
            message,
            FrontendMessage::Unknown(_)
                | FrontendMessage::SetLogFd
                | FrontendMessage::SetBackendReqFd
        ) {
            continue;
        }
        let mut payload = message.encode(false)[HEADER_SIZE..].to_vec();
        payload.push(0);
        let longer = FrontendMessage::decode(message.request(), &payload);
        assert!(longer.is_err(), "{message:?}");
    }
}

#[test]
fn ring_index_of_more_than_sixteen_bits_is_not_cut() {
    let bytes = VringState {
        index: 0x1_0000,
        num: 1,
    };
    let encoded = FrontendMessage::SetVringNum(bytes).encode(false);
    let decoded = FrontendMessage::decode(Request::SetVringNum, &encoded[HEADER_SIZE..]).unwrap();
    assert_eq!(decoded, FrontendMessage::SetVringNum(bytes));
}

#[test]
fn inflight_description_is_read_with_and_without_tail_padding() {
    let inflight = Inflight {
        mmap_size: 9,
        num_queues: 2,
        queue_size: 3,
        ..Default::default()
    };
    let bytes = FrontendMessage::SetInflightFd(inflight).encode(false);
    for length in [20, 24] {
        let payload = &bytes[HEADER_SIZE..HEADER_SIZE + length];
        let decoded = FrontendMessage::decode(Request::GetInflightFd, payload).unwrap();
        assert_eq!(decoded, FrontendMessage::GetInflightFd(inflight, length));
        assert_eq!(
            Reply::Inflight(inflight, length)
                .encode(Request::GetInflightFd)
                .len(),
            12 + length
        );
    }
}

#[test]
fn replies_survive_a_round_trip() {
    let config = ConfigSpace {
        offset: 0,
        size: 2,
        flags: 0,
        data: vec![4, 5],
    };
    let cases = [
        (Request::GetFeatures, Reply::U64(3)),
        (
            Request::GetVringBase,
            Reply::Vring(VringState {
                index: 1,
                num: 0x8000_8001,
            }),
        ),
        (
            Request::SetLogBase,
            Reply::Log(LogBase { size: 1, offset: 2 }),
        ),
        (Request::SetLogBase, Reply::FAILED),
        (Request::GetConfig, Reply::Config(config)),
        (Request::GetConfig, Reply::Empty),
        (
            Request::GetInflightFd,
            Reply::Inflight(Inflight::default(), 24),
        ),
        (Request(999), Reply::FAILED),
    ];
    for (request, reply) in cases {
        let bytes = reply.encode(request);
        let header = Header::decode(&bytes).unwrap();
        assert!(header.flags.is_reply());
        assert_eq!(
            Reply::decode(request, &bytes[HEADER_SIZE..]).unwrap(),
            reply
        );
    }
}

#[test]
fn backend_messages_survive_a_round_trip() {
    let state = VringState { index: 2, num: 0 };
    let all = [
        BackendMessage::ConfigChange,
        BackendMessage::VringCall(state),
        BackendMessage::VringErr(state),
        BackendMessage::Unknown(BackendRequest(77)),
    ];
    for message in all {
        let bytes = message.encode(false);
        let header = Header::decode(&bytes).unwrap();
        let request = BackendRequest(header.request);
        assert_eq!(
            BackendMessage::decode(request, &bytes[HEADER_SIZE..]).unwrap(),
            message
        );
    }
}

#[test]
fn header_with_wrong_version_or_huge_size_is_refused() {
    let good = Header::request(1, 8, false).encode();
    assert!(Header::decode(&good).is_ok());
    let mut version = good;
    version[4] = 2;
    assert_eq!(Header::decode(&version), Err(Error::Version(2)));
    let mut size = good;
    size[8..].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert_eq!(Header::decode(&size), Err(Error::TooLong(u32::MAX)));
    assert_eq!(Header::decode(&good[..11]), Err(Error::ShortHeader(11)));
}

#[test]
fn unknown_codes_keep_their_number_in_debug_output() {
    assert_eq!(format!("{:?}", Request(77)), "Unknown(77)");
    assert_eq!(format!("{:?}", Request::SetVringAddr), "SetVringAddr");
    assert_eq!(BackendRequest(99).name(), None);
}

proptest! {
    #[test]
    fn any_bytes_decode_without_panic(request in 0u32..60, payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = FrontendMessage::decode(Request(request), &payload);
        let _ = Reply::decode(Request(request), &payload);
        let _ = BackendMessage::decode(BackendRequest(request), &payload);
        let _ = Header::decode(&payload);
    }
}
