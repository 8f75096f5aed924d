//! Messages from a hostile frontend: what decodes must encode to the same bytes again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vhost_user_protocol::FrontendMessage;
use vhost_user_protocol::HEADER_SIZE;
use vhost_user_protocol::Header;
use vhost_user_protocol::Request;

fuzz_target!(|data: &[u8]| {
    let Some((head, payload)) = data.split_at_checked(HEADER_SIZE) else {
        return;
    };
    let Ok(header) = Header::decode(head) else {
        return;
    };
    if let Ok(message) = FrontendMessage::decode(Request(header.request), payload) {
        let again = message.encode(header.flags.need_reply());
        let decoded = FrontendMessage::decode(message.request(), &again[HEADER_SIZE..]);
        assert!(
            decoded.is_ok(),
            "{message:?} does not survive its own encoding"
        );
    }
});
