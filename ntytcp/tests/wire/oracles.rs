//! Reads bytes with our parsers, with smoltcp's and with etherparse's, and panics where they differ and we cannot say why.
//!
//! Property tests and fuzz targets share this file. smoltcp's `verify_checksum` says yes to everything when fuzzed, so sums are
//! computed here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ntytcp::wire::{
    ArpOperation, ArpPacket, EtherType, EthernetHeader, Icmpv4Message, Icmpv6Header, IpProtocol, Ipv4Header,
    Ipv4Options, Ipv6Header, ParseError, SackBlocks, Seq, TcpFlags, TcpHeader, TcpOptions, Timestamps,
    UdpHeader, UpperLayer, walk_extensions,
};
use smoltcp::wire as smol;

/// Reads a frame from the outside in, for as long as the headers are valid. Answers whether all of them are, checksums
/// included; a fragment has no more than its IP header.
pub(crate) fn frame(bytes: &[u8]) -> bool {
    let Some((ethertype, payload)) = ethernet(bytes) else { return false };
    let upper = match ethertype {
        EtherType::ARP => return arp(payload),
        EtherType::IPV4 => ipv4(payload),
        EtherType::IPV6 => ipv6(payload),
        _ => Packet::Invalid,
    };
    let (protocol, src, dst, payload) = match upper {
        Packet::Invalid => return false,
        Packet::Fragment => return true,
        Packet::Whole { protocol, src, dst, payload } => (protocol, src, dst, payload),
    };
    match (protocol, src, dst) {
        (IpProtocol::TCP, ..) => tcp(src, dst, payload),
        (IpProtocol::UDP, ..) => udp(src, dst, payload),
        (IpProtocol::ICMP, ..) => icmpv4(payload),
        (IpProtocol::ICMPV6, IpAddr::V6(src), IpAddr::V6(dst)) => icmpv6(src, dst, payload),
        _ => false,
    }
}

/// Reads the same bytes as every protocol.
pub(crate) fn every_layer(bytes: &[u8]) {
    let (v4, v6) = (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::LOCALHOST);
    ethernet(bytes);
    arp(bytes);
    ipv4(bytes);
    ipv6(bytes);
    tcp(v4.into(), v4.into(), bytes);
    tcp(v6.into(), v6.into(), bytes);
    udp(v4.into(), v4.into(), bytes);
    udp(v6.into(), v6.into(), bytes);
    icmpv4(bytes);
    icmpv6(v6, v6, bytes);
    let (area, _) = bytes.split_at(bytes.len().min(40));
    tcp_options(area);
    // No oracle reads IPv4 options; the iterator must come to an end, and an error must be the last item.
    let items: Vec<_> = Ipv4Options::new(area).collect();
    assert!(items.len() <= area.len() && items.iter().rev().skip(1).all(Result::is_ok));
    for protocol in [0, 43, 44, 51, 60] {
        _ = extensions(IpProtocol(protocol), bytes);
    }
}

fn ethernet(bytes: &[u8]) -> Option<(EtherType, &[u8])> {
    let ours = EthernetHeader::parse(bytes);
    let theirs = smol::EthernetFrame::new_checked(bytes);
    let Ok((header, payload)) = ours else {
        assert_eq!(ours, Err(ParseError::Truncated));
        assert!(theirs.is_err() || bytes.len() < 22, "only a tag can be cut off");
        return None;
    };
    let theirs = theirs.expect("smoltcp reads every header that we read");
    assert_eq!((header.dst.0, header.src.0), (theirs.dst_addr().0, theirs.src_addr().0));

    let (outer, mut rest) = etherparse::Ethernet2Header::from_slice(bytes).unwrap();
    let mut ethertype = outer.ether_type.0;
    let mut tags = Vec::new();
    while tags.len() < 2 && matches!(ethertype, 0x8100 | 0x88a8) {
        let (tag, inner) = etherparse::SingleVlanHeader::from_slice(rest).unwrap();
        tags.push((ethertype, tag.pcp.value(), tag.drop_eligible_indicator, tag.vlan_id.value()));
        (ethertype, rest) = (tag.ether_type.0, inner);
    }
    let ours: Vec<_> = header.vlan.iter().map(|t| (t.tpid.0, t.pcp(), t.dei(), t.vid())).collect();
    assert_eq!((ours, header.ethertype.0, payload), (tags, ethertype, rest));
    Some((header.ethertype, payload))
}

fn arp(bytes: &[u8]) -> bool {
    let theirs = smol::ArpPacket::new_checked(bytes).and_then(|p| smol::ArpRepr::parse(&p));
    let second =
        etherparse::ArpPacketSlice::from_slice(bytes).ok().and_then(|p| p.to_packet().try_eth_ipv4().ok());
    let Ok(ours) = ArpPacket::parse(bytes) else {
        assert!(theirs.is_err() && second.is_none());
        return false;
    };
    let Ok(smol::ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    }) = theirs
    else {
        panic!("smoltcp refuses {ours:?}");
    };
    let code = match ours.operation {
        ArpOperation::Request => 1,
        ArpOperation::Reply => 2,
        ArpOperation::Other(code) => code,
    };
    assert_eq!(code, u16::from(operation));
    assert_eq!((ours.sender_mac.0, ours.sender_ip), (source_hardware_addr.0, source_protocol_addr));
    assert_eq!((ours.target_mac.0, ours.target_ip), (target_hardware_addr.0, target_protocol_addr));
    let second = second.expect("etherparse reads what we read");
    assert_eq!((code, ours.sender_mac.0), (second.operation.0, second.sender_mac));
    assert_eq!((ours.sender_ip, ours.target_ip), (second.sender_ipv4.into(), second.target_ipv4.into()));
    true
}

enum Packet<'a> {
    Invalid,
    Fragment,
    Whole { protocol: IpProtocol, src: IpAddr, dst: IpAddr, payload: &'a [u8] },
}

fn ipv4(bytes: &[u8]) -> Packet<'_> {
    let ours = Ipv4Header::parse(bytes);
    let theirs = smol::Ipv4Packet::new_checked(bytes).ok().filter(|p| {
        let sum = smol::checksum::data(&bytes[..usize::from(p.header_len())]);
        p.version() == 4 && sum == !0 && usize::from(p.frag_offset()) + p.payload().len() <= 65_535
    });
    let Ok((header, payload)) = ours else {
        assert!(theirs.is_none(), "{ours:?} although smoltcp reads it");
        return Packet::Invalid;
    };
    let theirs = theirs.expect("smoltcp reads what we read");
    assert_eq!((header.src, header.dst), (theirs.src_addr(), theirs.dst_addr()));
    assert_eq!(
        (header.total_len, header.ident, header.ttl),
        (theirs.total_len(), theirs.ident(), theirs.hop_limit())
    );
    assert_eq!(
        (header.protocol.0, header.dscp_ecn),
        (theirs.next_header().into(), theirs.dscp() << 2 | theirs.ecn())
    );
    assert_eq!((header.dont_fragment, header.more_fragments), (theirs.dont_frag(), theirs.more_frags()));
    assert_eq!((header.fragment_offset, payload), (theirs.frag_offset(), theirs.payload()));

    let second = etherparse::Ipv4HeaderSlice::from_slice(bytes).expect("etherparse reads what we read");
    assert_eq!(header.options, second.options());
    assert_eq!((header.src, header.dst), (second.source_addr(), second.destination_addr()));
    assert_eq!(Ok(payload.len()), second.payload_len().map(usize::from));
    assert_eq!(header.is_fragment(), second.is_fragmenting_payload());
    if header.is_fragment() {
        return Packet::Fragment;
    }
    Packet::Whole { protocol: header.protocol, src: header.src.into(), dst: header.dst.into(), payload }
}

fn ipv6(bytes: &[u8]) -> Packet<'_> {
    let ours = Ipv6Header::parse(bytes);
    let theirs = smol::Ipv6Packet::new_checked(bytes).ok().filter(|p| p.version() == 6);
    let Ok((header, payload)) = ours else {
        assert!(theirs.is_none(), "{ours:?} although smoltcp reads it");
        return Packet::Invalid;
    };
    let theirs = theirs.expect("smoltcp reads what we read");
    assert_eq!((header.src, header.dst), (theirs.src_addr(), theirs.dst_addr()));
    assert_eq!((header.traffic_class, header.flow_label), (theirs.traffic_class(), theirs.flow_label()));
    assert_eq!((header.next_header.0, header.hop_limit), (theirs.next_header().into(), theirs.hop_limit()));
    assert_eq!((header.payload_len, payload), (theirs.payload_len(), theirs.payload()));
    let (second, _) = etherparse::Ipv6Header::from_slice(bytes).expect("etherparse reads what we read");
    assert_eq!((header.traffic_class, header.flow_label), (second.traffic_class, second.flow_label.value()));
    assert_eq!(header.src.octets(), second.source);

    match extensions(header.next_header, payload) {
        Err(_) => Packet::Invalid,
        Ok(at) if at.fragment.is_some_and(|f| !f.is_atomic()) => Packet::Fragment,
        Ok(UpperLayer { protocol, payload, .. }) => {
            Packet::Whole { protocol, src: header.src.into(), dst: header.dst.into(), payload }
        }
    }
}

fn extensions(next_header: IpProtocol, bytes: &[u8]) -> Result<UpperLayer<'_>, ParseError> {
    let ours = walk_extensions(next_header, bytes);
    let theirs = etherparse::Ipv6ExtensionsSlice::from_slice(etherparse::IpNumber(next_header.0), bytes);
    match (&ours, &theirs) {
        // We stop at a true fragment, they read on in what may be the middle of a header.
        (Ok(at), _) if at.fragment.is_some_and(|f| !f.is_atomic()) => {
            assert_eq!(at.payload, &bytes[at.offset..]);
        }
        (Ok(at), Ok((_, protocol, rest))) => {
            assert_eq!((at.protocol.0, at.payload), (protocol.0, *rest));
            assert_eq!(at.payload, &bytes[at.offset..]);
            let named_at = at.protocol_offset.map_or(next_header.0, |offset| bytes[offset]);
            assert_eq!(named_at, at.protocol.0);
        }
        (Err(_), Err(_)) => {}
        (Err(ParseError::Malformed), Ok((slice, ..))) => {
            // Eight headers are at least 64 bytes.
            assert!(slice.slice().len() > 64, "only the number of headers can be the reason");
        }
        (ours, theirs) => panic!("{ours:?} but etherparse {theirs:?}"),
    }
    ours
}

fn pseudo_sum(src: IpAddr, dst: IpAddr, protocol: smol::IpProtocol, data: &[u8]) -> u16 {
    let pseudo = smol::checksum::pseudo_header(&src.into(), &dst.into(), protocol, data.len() as u32);
    smol::checksum::combine(&[pseudo, smol::checksum::data(data)])
}

fn tcp(src: IpAddr, dst: IpAddr, bytes: &[u8]) -> bool {
    let ours = TcpHeader::parse(bytes);
    let theirs = smol::TcpPacket::new_checked(bytes);
    let second = etherparse::TcpHeaderSlice::from_slice(bytes);
    let Ok((header, data)) = ours else {
        // The fixed part is read alike; what remains is an option that reaches beyond the header.
        match (theirs, second) {
            (Ok(theirs), Ok(_)) => assert!(TcpOptions::parse(theirs.options()).is_err()),
            (theirs, second) => assert!(theirs.is_err() && second.is_err()),
        }
        return false;
    };
    let (theirs, second) = (theirs.expect("smoltcp reads what we read"), second.expect("etherparse too"));
    assert_eq!((header.src_port, header.dst_port), (theirs.src_port(), theirs.dst_port()));
    assert_eq!((header.seq.0, header.ack.0), (theirs.seq_number().0 as u32, theirs.ack_number().0 as u32));
    assert_eq!((header.window, header.urgent), (theirs.window_len(), theirs.urgent_at()));
    assert_eq!((header.checksum, data), (theirs.checksum(), theirs.payload()));
    let flags = [
        (TcpFlags::FIN, theirs.fin(), second.fin()),
        (TcpFlags::SYN, theirs.syn(), second.syn()),
        (TcpFlags::RST, theirs.rst(), second.rst()),
        (TcpFlags::PSH, theirs.psh(), second.psh()),
        (TcpFlags::ACK, theirs.ack(), second.ack()),
        (TcpFlags::URG, theirs.urg(), second.urg()),
        (TcpFlags::ECE, theirs.ece(), second.ece()),
        (TcpFlags::CWR, theirs.cwr(), second.cwr()),
    ];
    assert!(flags.iter().all(|&(flag, a, b)| header.flags.contains(flag) == a && a == b), "{flags:?}");
    assert_eq!((header.seq.0, header.ack.0), (second.sequence_number(), second.acknowledgment_number()));
    tcp_options(second.options());
    let valid = TcpHeader::verify(src, dst, bytes);
    if bytes.len() <= 65_535 {
        assert_eq!(valid, pseudo_sum(src, dst, smol::IpProtocol::Tcp, bytes) == !0);
    }
    valid
}

/// Reads an option area, and emits it again.
pub(crate) fn tcp_options(area: &[u8]) {
    let ours = TcpOptions::parse(area);
    match (smoltcp_options(area), &ours) {
        (Some(theirs), Ok(ours)) => {
            let mut sack = SackBlocks::default();
            ours.sack.iter().take(3).for_each(|(left, right)| assert!(sack.push(left, right)));
            assert_eq!(TcpOptions { sack, fast_open: None, ..*ours }, theirs, "smoltcp on {area:02x?}");
        }
        (Some(_), Err(error)) => panic!("{error} although smoltcp reads {area:02x?}"),
        (None, _) => {}
    }
    if let Some(theirs) = etherparse_options(area) {
        let ours = ours.expect("etherparse reads it");
        assert_eq!(TcpOptions { fast_open: None, ..ours }, theirs, "etherparse on {area:02x?}");
    }
    let Ok(ours) = ours else { return };
    let mut buf = [0; 40];
    let len = ours.emit(&mut buf).expect("what was read fits into 40 bytes");
    assert_eq!((len, len % 4), (ours.len(), 0));
    let again = TcpOptions::parse(&buf[..len]).expect("what was emitted is read");
    assert_eq!(TcpOptions { sack: ours.sack, ..again }, ours);
    assert!(ours.sack.as_slice().starts_with(again.sack.as_slice()));
}

/// `None` where smoltcp finds fault with an option, which is more often than we do.
fn smoltcp_options(mut area: &[u8]) -> Option<TcpOptions> {
    let mut options = TcpOptions::NONE;
    while !area.is_empty() {
        let (rest, option) = smol::TcpOption::parse(area).ok()?;
        area = rest;
        match option {
            smol::TcpOption::EndOfList => break,
            smol::TcpOption::NoOperation | smol::TcpOption::Unknown { .. } => {}
            smol::TcpOption::MaxSegmentSize(mss) => options.mss = Some(mss),
            smol::TcpOption::WindowScale(shift) => options.window_scale = Some(shift.min(14)),
            smol::TcpOption::SackPermitted => options.sack_permitted = true,
            smol::TcpOption::SackRange(ranges) => options.sack = sack(ranges.into_iter().flatten()),
            smol::TcpOption::TimeStamp { tsval, tsecr } => {
                options.timestamps = Some(Timestamps { value: tsval, echo: tsecr });
            }
        }
    }
    Some(options)
}

/// `None` where etherparse finds fault with an option, or does not know it.
fn etherparse_options(area: &[u8]) -> Option<TcpOptions> {
    use etherparse::TcpOptionElement as Element;
    let mut options = TcpOptions::NONE;
    for element in etherparse::TcpOptionsIterator::from_slice(area) {
        match element.ok()? {
            Element::Noop => {}
            Element::MaximumSegmentSize(mss) => options.mss = Some(mss),
            Element::WindowScale(shift) => options.window_scale = Some(shift.min(14)),
            Element::SelectiveAcknowledgementPermitted => options.sack_permitted = true,
            Element::SelectiveAcknowledgement(first, more) => {
                options.sack = sack(std::iter::once(first).chain(more.into_iter().flatten()));
            }
            Element::Timestamp(value, echo) => options.timestamps = Some(Timestamps { value, echo }),
        }
    }
    Some(options)
}

fn sack(edges: impl Iterator<Item = (u32, u32)>) -> SackBlocks {
    let mut blocks = SackBlocks::default();
    edges.for_each(|(left, right)| assert!(blocks.push(Seq(left), Seq(right))));
    blocks
}

fn udp(src: IpAddr, dst: IpAddr, bytes: &[u8]) -> bool {
    let ours = UdpHeader::parse(bytes);
    let theirs = smol::UdpPacket::new_checked(bytes);
    let Ok((header, payload)) = ours else {
        assert!(theirs.is_err());
        return false;
    };
    let theirs = theirs.expect("smoltcp reads what we read");
    assert_eq!((header.src_port, header.dst_port), (theirs.src_port(), theirs.dst_port()));
    assert_eq!((header.length, header.checksum), (theirs.len(), theirs.checksum()));
    assert_eq!(payload, theirs.payload());
    let (second, _) = etherparse::UdpHeader::from_slice(bytes).expect("etherparse reads what we read");
    assert_eq!((header.length, header.checksum), (second.length, second.checksum));
    let datagram = &bytes[..usize::from(header.length)];
    let valid = UdpHeader::verify(src, dst, datagram);
    let sum_is_right = pseudo_sum(src, dst, smol::IpProtocol::Udp, datagram) == !0;
    assert_eq!(valid, if header.checksum == 0 { src.is_ipv4() } else { sum_is_right });
    valid
}

fn icmpv4(bytes: &[u8]) -> bool {
    let ours = Icmpv4Message::parse(bytes);
    let theirs = smol::Icmpv4Packet::new_checked(bytes);
    // Behind 65,535 bytes smoltcp's sum may overflow.
    if bytes.len() > 65_535 {
        return ours.is_ok();
    }
    let Ok(message) = ours else {
        assert!(theirs.is_err() || smol::checksum::data(bytes) != !0);
        return false;
    };
    let theirs = theirs.expect("smoltcp reads what we read");
    assert_eq!(smol::checksum::data(bytes), !0);
    assert_eq!(message.len(), bytes.len());
    let second = etherparse::Icmpv4Slice::from_slice(bytes).map(|slice| slice.icmp_type());
    match message {
        Icmpv4Message::EchoRequest { ident, seq, payload } => {
            assert_eq!(theirs.msg_type(), smol::Icmpv4Message::EchoRequest);
            assert_eq!((ident, seq, payload), (theirs.echo_ident(), theirs.echo_seq_no(), theirs.data()));
            let header = etherparse::IcmpEchoHeader { id: ident, seq };
            assert_eq!(second, Ok(etherparse::Icmpv4Type::EchoRequest(header)));
        }
        Icmpv4Message::EchoReply { ident, seq, payload } => {
            assert_eq!(theirs.msg_type(), smol::Icmpv4Message::EchoReply);
            assert_eq!((ident, seq, payload), (theirs.echo_ident(), theirs.echo_seq_no(), theirs.data()));
            let header = etherparse::IcmpEchoHeader { id: ident, seq };
            assert_eq!(second, Ok(etherparse::Icmpv4Type::EchoReply(header)));
        }
        Icmpv4Message::DestinationUnreachable { code, next_hop_mtu, quote } => {
            assert_eq!(theirs.msg_type(), smol::Icmpv4Message::DstUnreachable);
            assert_eq!((code, quote), (theirs.msg_code(), theirs.data()));
            use etherparse::icmpv4::DestUnreachableHeader as Reason;
            if let Ok(etherparse::Icmpv4Type::DestinationUnreachable(reason)) = second {
                assert_eq!(reason.code_u8(), code);
                if let Reason::FragmentationNeeded { next_hop_mtu: theirs } = reason {
                    assert_eq!(next_hop_mtu, theirs);
                }
            }
        }
        Icmpv4Message::TimeExceeded { code, quote } => {
            assert_eq!(theirs.msg_type(), smol::Icmpv4Message::TimeExceeded);
            assert_eq!((code, quote), (theirs.msg_code(), theirs.data()));
        }
        Icmpv4Message::ParameterProblem { code, quote, .. } => {
            assert_eq!(theirs.msg_type(), smol::Icmpv4Message::ParamProblem);
            assert_eq!((code, quote), (theirs.msg_code(), theirs.data()));
        }
        Icmpv4Message::Other { kind, code, .. } => {
            assert_eq!((kind, code), (u8::from(theirs.msg_type()), theirs.msg_code()));
        }
    }
    true
}

fn icmpv6(src: Ipv6Addr, dst: Ipv6Addr, bytes: &[u8]) -> bool {
    let ours = Icmpv6Header::parse(src, dst, bytes);
    let sum_is_right = pseudo_sum(src.into(), dst.into(), smol::IpProtocol::Icmpv6, bytes) == !0;
    assert_eq!(ours.is_ok(), bytes.len() >= 4 && (sum_is_right || bytes.len() > 65_535));
    if let (Ok((header, _)), Ok(theirs)) = (ours, smol::Icmpv6Packet::new_checked(bytes)) {
        assert_eq!((header.kind, header.code), (theirs.msg_type().into(), theirs.msg_code()));
        assert_eq!(header.checksum, theirs.checksum());
    }
    ours.is_ok()
}

/// Whatever is read and emitted again reads as the same.
pub(crate) fn reemit(frame: &[u8]) {
    let Ok((ethernet, packet)) = EthernetHeader::parse(frame) else { return };
    let mut buf = [0; 64];
    assert_eq!(ethernet.emit(&mut buf), Some(ethernet.len()));
    assert_eq!(buf[..ethernet.len()], frame[..ethernet.len()]);
    match ethernet.ethertype {
        EtherType::ARP => {
            let Ok(arp) = ArpPacket::parse(packet) else { return };
            assert_eq!(arp.emit(&mut buf), Some(28));
            assert_eq!(buf[..28], packet[..28]);
        }
        EtherType::IPV4 => {
            let Ok((header, payload)) = Ipv4Header::parse(packet) else { return };
            let mut copy = vec![0; header.header_len()];
            assert_eq!(header.emit(&mut copy), Some(header.header_len()));
            copy.extend(payload);
            assert_eq!(Ipv4Header::parse(&copy), Ok((header, payload)));
            reemit_upper(header.protocol, payload);
        }
        EtherType::IPV6 => {
            let Ok((header, _)) = Ipv6Header::parse(packet) else { return };
            assert_eq!(header.emit(&mut buf), Some(40));
            assert_eq!(buf[..40], packet[..40]);
        }
        _ => {}
    }
}

fn reemit_upper(protocol: IpProtocol, bytes: &[u8]) {
    let mut buf = vec![0; bytes.len() + 40];
    match protocol {
        IpProtocol::UDP => {
            let Ok((header, _)) = UdpHeader::parse(bytes) else { return };
            assert_eq!(header.emit(&mut buf), Some(8));
            assert_eq!(buf[..8], bytes[..8]);
        }
        IpProtocol::TCP => {
            let Ok((header, _)) = TcpHeader::parse(bytes) else { return };
            let len = header.emit(&mut buf).expect("60 bytes are enough");
            let (again, rest) = TcpHeader::parse(&buf[..len]).expect("what was emitted is read");
            assert!(rest.is_empty());
            let sack = header.options.sack;
            assert!(sack.as_slice().starts_with(again.options.sack.as_slice()));
            assert_eq!(TcpHeader { options: TcpOptions { sack, ..again.options }, ..again }, header);
        }
        IpProtocol::ICMP => {
            let Ok(message) = Icmpv4Message::parse(bytes) else { return };
            let len = message.emit(&mut buf).expect("as long as it was");
            assert_eq!(Icmpv4Message::parse(&buf[..len]), Ok(message));
        }
        _ => {}
    }
}

/// Makes the checksums right of whatever can still be recognised, so that a mutation gets past them.
pub(crate) fn repair_checksums(frame: &mut [u8]) {
    let Ok((header, packet)) = EthernetHeader::parse(frame) else { return };
    let at = frame.len() - packet.len();
    let packet = &mut frame[at..];
    if header.ethertype == EtherType::IPV4 && packet.len() >= 20 {
        let header_len = (usize::from(packet[0] & 0xf) * 4).min(packet.len());
        if header_len < 20 {
            return;
        }
        packet[10..12].fill(0);
        let sum = !smol::checksum::data(&packet[..header_len]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let upper = match header.ethertype {
        EtherType::IPV4 => Ipv4Header::parse(packet)
            .ok()
            .map(|(h, payload)| (h.protocol, h.src.into(), h.dst.into(), h.header_len(), payload.len())),
        EtherType::IPV6 => Ipv6Header::parse(packet).ok().and_then(|(h, payload)| {
            let at = walk_extensions(h.next_header, payload).ok()?;
            Some((at.protocol, h.src.into(), h.dst.into(), Ipv6Header::LEN + at.offset, at.payload.len()))
        }),
        _ => None,
    };
    let Some((protocol, src, dst, start, len)) = upper else { return };
    let bytes = &mut packet[start..start + len];
    let _too_short = match (protocol, src, dst) {
        (IpProtocol::TCP, ..) => TcpHeader::fill_checksum(src, dst, bytes),
        (IpProtocol::UDP, ..) => UdpHeader::fill_checksum(src, dst, bytes),
        (IpProtocol::ICMPV6, IpAddr::V6(src), IpAddr::V6(dst)) => {
            Icmpv6Header::fill_checksum(src, dst, bytes)
        }
        (IpProtocol::ICMP, ..) if bytes.len() >= 4 => {
            bytes[2..4].fill(0);
            let sum = !smol::checksum::data(bytes);
            bytes[2..4].copy_from_slice(&sum.to_be_bytes());
            Some(())
        }
        _ => None,
    };
}
