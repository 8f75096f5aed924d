//! What `set` changes on a card that runs.
//!
//! Rule: every word is understood before the first is done.

use control_protocol::LinkState;
use control_protocol::NetSettings;
use control_protocol::Settled;
use control_protocol::Toggle;
use net_backend::NetDevice;
use serde::Serialize;

/// The answer to `set`.
#[derive(Debug, Serialize)]
pub struct NetSettled {
    /// What is now.
    #[serde(flatten)]
    pub settled: Settled<NetSettings>,
    /// The MTU was set, and the driver hears of it at once; else when it starts anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu_at_once: Option<bool>,
}

/// Whether `set` can be carried out as a whole.
///
/// # Errors
/// A sentence for the client.
pub fn check(set: &NetSettings, card: &NetDevice) -> Result<(), String> {
    set.mtu.map_or(Ok(()), net_backend::check_mtu)?;
    if set.capture.is_some() && card.capturing().is_none() {
        return Err(
            "the card has no file to record to; give it one with capture=FILE in its configuration"
                .to_owned(),
        );
    }
    Ok(())
}

/// Makes the changes; returns whether the driver hears of a new MTU at once.
///
/// # Errors
/// A sentence for the client.
pub fn apply(set: &NetSettings, card: &NetDevice) -> Result<Option<bool>, String> {
    let change_mtu = |mtu| {
        let changed = card.change_mtu(mtu);
        changed.map_err(|error| daemon_shell::exit::chain(&error))
    };
    let mtu_at_once = set.mtu.map(change_mtu).transpose()?;
    let mut limits = card.limits();
    limits.bytes = set.rate_bytes.unwrap_or(limits.bytes);
    limits.packets = set.rate_packets.unwrap_or(limits.packets);
    card.set_limits(limits);
    if let Some(Toggle(on)) = set.capture {
        card.set_capture(on);
    }
    if let Some(link) = set.link {
        card.set_link(link == LinkState::Up);
    }
    Ok(mtu_at_once)
}

/// All that can be set, as it is now.
pub fn now(card: &NetDevice) -> NetSettings {
    let limits = card.limits();
    NetSettings {
        link: Some(if card.link_up() {
            LinkState::Up
        } else {
            LinkState::Down
        }),
        mtu: Some(card.mtu()),
        rate_bytes: Some(limits.bytes),
        rate_packets: Some(limits.packets),
        capture: card.capturing().map(Toggle),
    }
}
