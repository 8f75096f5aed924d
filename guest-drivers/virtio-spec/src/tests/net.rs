//! Cross-checks of the network module against `virtio-bindings`, generated from the kernel's headers.
//!
//! One rule: a number that the bindings know is compared with them; what they lack (tunnel hashes, the
//! bits from 64 on) is checked for consistency.

use core::mem::offset_of;

use virtio_bindings::virtio_net as nb;

use crate::net;
use crate::net::control;
use crate::net::feature;
use crate::net::rss;

#[test]
fn net_feature_bits_are_the_kernels() {
    let pairs = [
        (feature::CSUM, nb::VIRTIO_NET_F_CSUM),
        (feature::GUEST_CSUM, nb::VIRTIO_NET_F_GUEST_CSUM),
        (
            feature::CTRL_GUEST_OFFLOADS,
            nb::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
        ),
        (feature::MTU, nb::VIRTIO_NET_F_MTU),
        (feature::MAC, nb::VIRTIO_NET_F_MAC),
        (feature::GSO, nb::VIRTIO_NET_F_GSO),
        (feature::GUEST_TSO4, nb::VIRTIO_NET_F_GUEST_TSO4),
        (feature::GUEST_TSO6, nb::VIRTIO_NET_F_GUEST_TSO6),
        (feature::GUEST_ECN, nb::VIRTIO_NET_F_GUEST_ECN),
        (feature::GUEST_UFO, nb::VIRTIO_NET_F_GUEST_UFO),
        (feature::HOST_TSO4, nb::VIRTIO_NET_F_HOST_TSO4),
        (feature::HOST_TSO6, nb::VIRTIO_NET_F_HOST_TSO6),
        (feature::HOST_ECN, nb::VIRTIO_NET_F_HOST_ECN),
        (feature::HOST_UFO, nb::VIRTIO_NET_F_HOST_UFO),
        (feature::MRG_RXBUF, nb::VIRTIO_NET_F_MRG_RXBUF),
        (feature::STATUS, nb::VIRTIO_NET_F_STATUS),
        (feature::CTRL_VQ, nb::VIRTIO_NET_F_CTRL_VQ),
        (feature::CTRL_RX, nb::VIRTIO_NET_F_CTRL_RX),
        (feature::CTRL_VLAN, nb::VIRTIO_NET_F_CTRL_VLAN),
        (feature::CTRL_RX_EXTRA, nb::VIRTIO_NET_F_CTRL_RX_EXTRA),
        (feature::GUEST_ANNOUNCE, nb::VIRTIO_NET_F_GUEST_ANNOUNCE),
        (feature::MQ, nb::VIRTIO_NET_F_MQ),
        (feature::CTRL_MAC_ADDR, nb::VIRTIO_NET_F_CTRL_MAC_ADDR),
        (feature::DEVICE_STATS, nb::VIRTIO_NET_F_DEVICE_STATS),
        (feature::VQ_NOTF_COAL, nb::VIRTIO_NET_F_VQ_NOTF_COAL),
        (feature::NOTF_COAL, nb::VIRTIO_NET_F_NOTF_COAL),
        (feature::GUEST_USO4, nb::VIRTIO_NET_F_GUEST_USO4),
        (feature::GUEST_USO6, nb::VIRTIO_NET_F_GUEST_USO6),
        (feature::HOST_USO, nb::VIRTIO_NET_F_HOST_USO),
        (feature::HASH_REPORT, nb::VIRTIO_NET_F_HASH_REPORT),
        (feature::GUEST_HDRLEN, nb::VIRTIO_NET_F_GUEST_HDRLEN),
        (feature::RSS, nb::VIRTIO_NET_F_RSS),
        (feature::RSC_EXT, nb::VIRTIO_NET_F_RSC_EXT),
        (feature::STANDBY, nb::VIRTIO_NET_F_STANDBY),
        (feature::SPEED_DUPLEX, nb::VIRTIO_NET_F_SPEED_DUPLEX),
    ];
    for (mask, bit) in pairs {
        assert_eq!(mask, 1 << bit);
    }
    assert_eq!(feature::HASH_TUNNEL, 1 << 51, "not in the bindings");
    let all = pairs
        .iter()
        .fold(feature::HASH_TUNNEL, |set, pair| set | pair.0);
    assert_eq!(all.count_ones() as usize, pairs.len() + 1);
    assert_eq!(all & crate::feature::RING_AND_TRANSPORT, 0);
    assert_eq!(feature::GUEST_OFFLOADS & !all, 0);
}

#[test]
fn net_configuration_has_the_kernels_layout() {
    same_offsets!(
        net::Config,
        nb::virtio_net_config,
        mac = mac,
        status = status,
        max_virtqueue_pairs = max_virtqueue_pairs,
        mtu = mtu,
        speed = speed,
        duplex = duplex,
        rss_max_key_size = rss_max_key_size,
        rss_max_indirection_table_length = rss_max_indirection_table_length,
        supported_hash_types = supported_hash_types,
    );
    let known = size_of::<nb::virtio_net_config>();
    assert_eq!(net::CONFIG_SIZE_UNTUNNELED, known);
    assert_eq!(offset_of!(net::Config, supported_tunnel_types), known);
    assert_eq!(size_of::<net::Config>(), known + 4);
    assert_eq!(u32::from(net::status::LINK_UP), nb::VIRTIO_NET_S_LINK_UP);
    assert_eq!(u32::from(net::status::ANNOUNCE), nb::VIRTIO_NET_S_ANNOUNCE);
    assert_eq!(
        u32::from(net::PAIRS_MAX),
        nb::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX
    );
}

#[test]
fn net_headers_have_the_kernels_layout() {
    same_offsets!(
        net::Header,
        nb::virtio_net_hdr_v1,
        flags = flags,
        gso_type = gso_type,
        hdr_len = hdr_len,
        gso_size = gso_size,
        csum_start = __bindgen_anon_1,
        num_buffers = num_buffers,
    );
    assert_eq!(net::HEADER_SIZE, size_of::<nb::virtio_net_hdr_v1>());
    assert_eq!(net::HEADER_SIZE, 12);
    same_offsets!(
        net::HashHeader,
        nb::virtio_net_hdr_v1_hash,
        header = hdr,
        hash_value = hash_value,
        hash_report = hash_report,
        padding = padding,
    );
    assert_eq!(
        net::HASH_HEADER_SIZE,
        size_of::<nb::virtio_net_hdr_v1_hash>()
    );
    assert_eq!(net::LEGACY_HEADER_SIZE, size_of::<nb::virtio_net_hdr>());
    assert_eq!(
        net::LEGACY_HEADER_SIZE,
        offset_of!(net::Header, num_buffers)
    );
}

#[test]
fn the_size_of_a_net_header_follows_from_the_features_that_have_a_say() {
    let version_1 = crate::feature::VERSION_1;
    let sizes = [
        (0, 10),
        (version_1, 12),
        (feature::MRG_RXBUF, 12),
        (version_1 | feature::MRG_RXBUF, 12),
        (feature::HASH_REPORT, 20),
        (version_1 | feature::HASH_REPORT, 20),
        (version_1 | feature::MRG_RXBUF | feature::HASH_REPORT, 20),
    ];
    let others = !(version_1 | feature::MRG_RXBUF | feature::HASH_REPORT);
    for (features, size) in sizes {
        assert_eq!(net::header_size(features), size, "{features:#x}");
        assert_eq!(net::header_size(features | others), size, "{features:#x}");
    }
}

#[test]
fn net_header_values_are_the_kernels() {
    use net::gso;
    use net::header_flags as flags;
    let pairs = [
        (flags::NEEDS_CSUM, nb::VIRTIO_NET_HDR_F_NEEDS_CSUM),
        (flags::DATA_VALID, nb::VIRTIO_NET_HDR_F_DATA_VALID),
        (flags::RSC_INFO, nb::VIRTIO_NET_HDR_F_RSC_INFO),
        (gso::NONE, nb::VIRTIO_NET_HDR_GSO_NONE),
        (gso::TCPV4, nb::VIRTIO_NET_HDR_GSO_TCPV4),
        (gso::UDP, nb::VIRTIO_NET_HDR_GSO_UDP),
        (gso::TCPV6, nb::VIRTIO_NET_HDR_GSO_TCPV6),
        (gso::UDP_L4, nb::VIRTIO_NET_HDR_GSO_UDP_L4),
        (gso::ECN, nb::VIRTIO_NET_HDR_GSO_ECN),
    ];
    for (ours, theirs) in pairs {
        assert_eq!(u32::from(ours), theirs);
    }
}

#[test]
fn net_control_numbers_are_the_kernels() {
    use control::announce;
    use control::class;
    use control::coalescing;
    use control::guest_offloads;
    use control::mac;
    use control::mq;
    use control::rx;
    use control::stats;
    use control::vlan;
    let pairs = [
        (control::ack::OK, nb::VIRTIO_NET_OK),
        (control::ack::ERR, nb::VIRTIO_NET_ERR),
        (class::RX, nb::VIRTIO_NET_CTRL_RX),
        (class::MAC, nb::VIRTIO_NET_CTRL_MAC),
        (class::VLAN, nb::VIRTIO_NET_CTRL_VLAN),
        (class::ANNOUNCE, nb::VIRTIO_NET_CTRL_ANNOUNCE),
        (class::MQ, nb::VIRTIO_NET_CTRL_MQ),
        (class::GUEST_OFFLOADS, nb::VIRTIO_NET_CTRL_GUEST_OFFLOADS),
        (class::NOTF_COAL, nb::VIRTIO_NET_CTRL_NOTF_COAL),
        (class::STATS, nb::VIRTIO_NET_CTRL_STATS),
        (rx::PROMISC, nb::VIRTIO_NET_CTRL_RX_PROMISC),
        (rx::ALLMULTI, nb::VIRTIO_NET_CTRL_RX_ALLMULTI),
        (rx::ALLUNI, nb::VIRTIO_NET_CTRL_RX_ALLUNI),
        (rx::NOMULTI, nb::VIRTIO_NET_CTRL_RX_NOMULTI),
        (rx::NOUNI, nb::VIRTIO_NET_CTRL_RX_NOUNI),
        (rx::NOBCAST, nb::VIRTIO_NET_CTRL_RX_NOBCAST),
        (mac::TABLE_SET, nb::VIRTIO_NET_CTRL_MAC_TABLE_SET),
        (mac::ADDR_SET, nb::VIRTIO_NET_CTRL_MAC_ADDR_SET),
        (vlan::ADD, nb::VIRTIO_NET_CTRL_VLAN_ADD),
        (vlan::DEL, nb::VIRTIO_NET_CTRL_VLAN_DEL),
        (announce::ACK, nb::VIRTIO_NET_CTRL_ANNOUNCE_ACK),
        (mq::VQ_PAIRS_SET, nb::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET),
        (mq::RSS_CONFIG, nb::VIRTIO_NET_CTRL_MQ_RSS_CONFIG),
        (mq::HASH_CONFIG, nb::VIRTIO_NET_CTRL_MQ_HASH_CONFIG),
        (guest_offloads::SET, nb::VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET),
        (coalescing::TX_SET, nb::VIRTIO_NET_CTRL_NOTF_COAL_TX_SET),
        (coalescing::RX_SET, nb::VIRTIO_NET_CTRL_NOTF_COAL_RX_SET),
        (coalescing::VQ_SET, nb::VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET),
        (coalescing::VQ_GET, nb::VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET),
        (stats::QUERY, nb::VIRTIO_NET_CTRL_STATS_QUERY),
        (stats::GET, nb::VIRTIO_NET_CTRL_STATS_GET),
    ];
    for (ours, theirs) in pairs {
        assert_eq!(u32::from(ours), theirs);
    }
}

#[test]
fn net_control_payloads_have_the_kernels_layout() {
    assert_eq!(
        size_of::<control::CommandHeader>(),
        size_of::<nb::virtio_net_ctrl_hdr>()
    );
    assert_eq!(
        size_of::<control::TableHeader>(),
        offset_of!(nb::virtio_net_ctrl_mac, macs)
    );
    same_offsets!(
        control::Coalescing,
        nb::virtio_net_ctrl_coal,
        max_packets = max_packets,
        max_usecs = max_usecs,
    );
    same_offsets!(
        control::QueueCoalescing,
        nb::virtio_net_ctrl_coal_vq,
        vq_index = vqn,
        reserved = reserved,
        coalescing = coal,
    );
    assert_eq!(
        size_of::<control::QueueCoalescing>(),
        size_of::<nb::virtio_net_ctrl_coal_vq>()
    );
    assert_eq!(
        size_of::<control::StatsCapabilities>(),
        size_of::<nb::virtio_net_stats_capabilities>()
    );
}

#[test]
fn rss_payloads_have_the_kernels_layout() {
    same_offsets!(
        rss::RssHead,
        nb::virtio_net_rss_config_hdr,
        hash_types = hash_types,
        indirection_table_mask = indirection_table_mask,
        unclassified_queue = unclassified_queue,
    );
    assert_eq!(
        size_of::<rss::RssHead>(),
        offset_of!(nb::virtio_net_rss_config_hdr, indirection_table)
    );
    same_offsets!(
        rss::RssTail,
        nb::virtio_net_rss_config_trailer,
        max_tx_vq = max_tx_vq,
        hash_key_length = hash_key_length,
    );
    assert_eq!(
        size_of::<rss::RssTail>(),
        offset_of!(nb::virtio_net_rss_config_trailer, hash_key_data)
    );
    same_offsets!(
        rss::HashHead,
        nb::virtio_net_hash_config,
        hash_types = hash_types,
        reserved = reserved,
        hash_key_length = hash_key_length,
    );
    assert_eq!(
        size_of::<rss::HashHead>(),
        offset_of!(nb::virtio_net_hash_config, hash_key_data)
    );
}

#[test]
fn hash_types_and_reports_are_the_kernels() {
    use rss::hash_report as report;
    use rss::hash_type as kind;
    let pairs = [
        (kind::IPV4, nb::VIRTIO_NET_RSS_HASH_TYPE_IPv4),
        (kind::TCPV4, nb::VIRTIO_NET_RSS_HASH_TYPE_TCPv4),
        (kind::UDPV4, nb::VIRTIO_NET_RSS_HASH_TYPE_UDPv4),
        (kind::IPV6, nb::VIRTIO_NET_RSS_HASH_TYPE_IPv6),
        (kind::TCPV6, nb::VIRTIO_NET_RSS_HASH_TYPE_TCPv6),
        (kind::UDPV6, nb::VIRTIO_NET_RSS_HASH_TYPE_UDPv6),
        (kind::IP_EX, nb::VIRTIO_NET_RSS_HASH_TYPE_IP_EX),
        (kind::TCP_EX, nb::VIRTIO_NET_RSS_HASH_TYPE_TCP_EX),
        (kind::UDP_EX, nb::VIRTIO_NET_RSS_HASH_TYPE_UDP_EX),
    ];
    for (ours, theirs) in pairs {
        assert_eq!(ours, theirs);
    }
    assert_eq!(
        pairs.iter().fold(0, |set, pair| set | pair.0),
        kind::ALL,
        "a kind is missing"
    );
    let reports = [
        (report::NONE, nb::VIRTIO_NET_HASH_REPORT_NONE),
        (report::IPV4, nb::VIRTIO_NET_HASH_REPORT_IPv4),
        (report::TCPV4, nb::VIRTIO_NET_HASH_REPORT_TCPv4),
        (report::UDPV4, nb::VIRTIO_NET_HASH_REPORT_UDPv4),
        (report::IPV6, nb::VIRTIO_NET_HASH_REPORT_IPv6),
        (report::TCPV6, nb::VIRTIO_NET_HASH_REPORT_TCPv6),
        (report::UDPV6, nb::VIRTIO_NET_HASH_REPORT_UDPv6),
        (report::IPV6_EX, nb::VIRTIO_NET_HASH_REPORT_IPv6_EX),
        (report::TCPV6_EX, nb::VIRTIO_NET_HASH_REPORT_TCPv6_EX),
        (report::UDPV6_EX, nb::VIRTIO_NET_HASH_REPORT_UDPv6_EX),
    ];
    for (ours, theirs) in reports {
        assert_eq!(u32::from(ours), theirs);
    }
}

#[test]
fn queues_of_pairs_alternate_and_the_control_queue_is_last() {
    assert_eq!((net::receive_queue(0), net::transmit_queue(0)), (0, 1));
    assert_eq!((net::receive_queue(3), net::transmit_queue(3)), (6, 7));
    assert_eq!(net::control_queue(1), 2);
    assert_eq!(net::control_queue(net::PAIRS_MAX / 2), 0x8000);
}
