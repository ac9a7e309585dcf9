//! Pure: packets to bytes and back, by MQTT 3.1.1 sections 2 and 3, and 3.1 where it differs.
//!
//! Strict where a wrong byte could change a meaning; lenient with what old clients are known to do: long client ids in 3.1,
//! and its DUP bit on SUBSCRIBE, UNSUBSCRIBE and PUBREL.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{
    Connect, ConnectCode, Delivery, Message, Packet, PacketId, Publish, Qos, Version, Will, is_filter,
    is_topic,
};

/// Largest packet that is taken if nothing else is said, bytes, header included.
pub const PACKET_LIMIT: usize = 1024 * 1024;

/// What MQTT's length field can say.
const LENGTH_MAX: usize = 268_435_455;

/// The bytes are no packet that may be said. The connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than the limit.
    #[error("a packet of {size} bytes; at most {limit} are taken")]
    TooLarge {
        /// As announced.
        size: usize,
        /// As allowed.
        limit: usize,
    },
    /// A CONNECT of another protocol, such as MQTT 5. To be answered with `ConnectCode::Version`.
    #[error("protocol {name:?} level {level}; MQTT 3.1 and 3.1.1 are spoken here")]
    Version {
        /// Its name.
        name: String,
        /// Its number.
        level: u8,
    },
    /// Against the rules.
    #[error("{packet}: {why}")]
    Malformed {
        /// Which packet.
        packet: &'static str,
        /// Which rule.
        why: &'static str,
    },
}

/// The packet cannot be said in MQTT: a text above 65,535 bytes, or more than 256 MiB in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too long for an MQTT packet")]
pub struct EncodeError;

/// Takes one packet off the front of `buffer`, or says `None` until it is whole. After an error the rest makes no sense.
pub fn decode(buffer: &mut BytesMut, limit: usize) -> Result<Option<Packet>, DecodeError> {
    let Some((first, head, size)) = frame(buffer)? else { return Ok(None) };
    let total = head + size;
    if total > limit {
        return Err(DecodeError::TooLarge { size: total, limit });
    }
    if buffer.len() < total {
        return Ok(None);
    }
    let frame = buffer.split_to(total);
    packet(first, frame.get(head..).unwrap_or_default()).map(Some)
}

/// First byte, length of the header, length of what follows it.
fn frame(buffer: &[u8]) -> Result<Option<(u8, usize, usize)>, DecodeError> {
    let Some((first, rest)) = buffer.split_first() else { return Ok(None) };
    let (mut size, mut shift) = (0_usize, 0);
    for (at, byte) in rest.iter().take(4).enumerate() {
        size |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Ok(Some((*first, at + 2, size)));
        }
    }
    if rest.len() < 4 {
        return Ok(None);
    }
    Err(DecodeError::Malformed { packet: "header", why: "the length has more than four bytes" })
}

fn packet(first: u8, body: &[u8]) -> Result<Packet, DecodeError> {
    let (kind, flags) = (first >> 4, first & 0x0f);
    let name = name(kind);
    let mut rest = Reader { packet: name, rest: body };
    let flags_are_right = match kind {
        3 => true,
        // 3.1 allows DUP here.
        6 | 8 | 10 => flags & 0b0111 == 0b0010,
        _ => flags == 0,
    };
    if !flags_are_right {
        return Err(rest.wrong("wrong flags"));
    }
    let packet = match kind {
        1 => connect(&mut rest)?,
        2 => {
            let (present, code) = (rest.byte()?, rest.byte()?);
            let code = ConnectCode::from_number(code).ok_or_else(|| rest.wrong("unknown code"))?;
            Packet::ConnAck { session_present: present & 1 == 1, code }
        }
        3 => publish(flags, &mut rest)?,
        4 => Packet::PubAck(rest.id()?),
        5 => Packet::PubRec(rest.id()?),
        6 => Packet::PubRel(rest.id()?),
        7 => Packet::PubComp(rest.id()?),
        8 => {
            let (id, mut filters) = (rest.id()?, Vec::new());
            while !rest.is_empty() {
                let filter = rest.filter()?;
                let qos = Qos::from_number(rest.byte()?).ok_or_else(|| rest.wrong("QoS above 2"))?;
                filters.push((filter, qos));
            }
            rest.some(&filters)?;
            Packet::Subscribe { id, filters }
        }
        9 => {
            let (id, mut granted) = (rest.id()?, Vec::new());
            while !rest.is_empty() {
                let code = rest.byte()?;
                let qos = Qos::from_number(code);
                if qos.is_none() && code != 0x80 {
                    return Err(rest.wrong("unknown code"));
                }
                granted.push(qos);
            }
            Packet::SubAck { id, granted }
        }
        10 => {
            let (id, mut filters) = (rest.id()?, Vec::new());
            while !rest.is_empty() {
                filters.push(rest.filter()?);
            }
            rest.some(&filters)?;
            Packet::Unsubscribe { id, filters }
        }
        11 => Packet::UnsubAck(rest.id()?),
        12 => Packet::PingReq,
        13 => Packet::PingResp,
        14 => Packet::Disconnect,
        _ => return Err(rest.wrong("no such packet")),
    };
    if rest.is_empty() { Ok(packet) } else { Err(rest.wrong("bytes after its end")) }
}

fn name(kind: u8) -> &'static str {
    match kind {
        1 => "CONNECT",
        2 => "CONNACK",
        3 => "PUBLISH",
        4 => "PUBACK",
        5 => "PUBREC",
        6 => "PUBREL",
        7 => "PUBCOMP",
        8 => "SUBSCRIBE",
        9 => "SUBACK",
        10 => "UNSUBSCRIBE",
        11 => "UNSUBACK",
        12 => "PINGREQ",
        13 => "PINGRESP",
        14 => "DISCONNECT",
        _ => "unknown packet",
    }
}

fn connect(rest: &mut Reader<'_>) -> Result<Packet, DecodeError> {
    let name = rest.text()?;
    let level = rest.byte()?;
    // The highest bit is how bridges name themselves.
    let version = match (name.as_str(), level & 0x7f) {
        ("MQIsdp", 3) => Version::V31,
        ("MQTT", 4) => Version::V311,
        _ => return Err(DecodeError::Version { name: name.chars().take(16).collect(), level }),
    };
    let flags = rest.byte()?;
    let flag = |bit: u8| flags & (1 << bit) != 0;
    if flag(0) {
        return Err(rest.wrong("wrong flags"));
    }
    let keep_alive_secs = rest.number()?;
    let client = rest.text()?;
    let qos = Qos::from_number((flags >> 3) & 0b11).ok_or_else(|| rest.wrong("QoS above 2"))?;
    let will = if flag(2) {
        let topic = rest.topic()?;
        let payload = Bytes::copy_from_slice(rest.counted()?);
        Some(Will { message: Message { topic: topic.into(), payload }, qos, retain: flag(5) })
    } else if flag(5) || qos != Qos::AtMostOnce {
        return Err(rest.wrong("QoS or retain of a will without a will"));
    } else {
        None
    };
    if flag(6) && !flag(7) {
        return Err(rest.wrong("a password without a user"));
    }
    let user = flag(7).then(|| rest.text()).transpose()?;
    let password = flag(6).then(|| rest.counted().map(Bytes::copy_from_slice)).transpose()?;
    Ok(Packet::Connect(Connect { version, clean: flag(1), keep_alive_secs, client, will, user, password }))
}

fn publish(flags: u8, rest: &mut Reader<'_>) -> Result<Packet, DecodeError> {
    let topic = rest.topic()?;
    let delivery = match (flags >> 1) & 0b11 {
        0 => Delivery::AtMostOnce,
        1 => Delivery::AtLeastOnce(rest.id()?),
        2 => Delivery::ExactlyOnce(rest.id()?),
        _ => return Err(rest.wrong("QoS above 2")),
    };
    // Copied: a kept message must not hold the buffer of a whole read.
    let payload = Bytes::copy_from_slice(std::mem::take(&mut rest.rest));
    let message = Message { topic: topic.into(), payload };
    // DUP means nothing at QoS 0, and some clients set it.
    let dup = flags & 0b1000 != 0 && delivery != Delivery::AtMostOnce;
    Ok(Packet::Publish(Publish { message, delivery, retain: flags & 1 != 0, dup }))
}

struct Reader<'a> {
    packet: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn wrong(&self, why: &'static str) -> DecodeError {
        DecodeError::Malformed { packet: self.packet, why }
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn some<T>(&self, found: &[T]) -> Result<(), DecodeError> {
        if found.is_empty() { Err(self.wrong("no filter")) } else { Ok(()) }
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.rest.try_get_u8().map_err(|_| self.wrong("too short"))
    }

    fn number(&mut self) -> Result<u16, DecodeError> {
        self.rest.try_get_u16().map_err(|_| self.wrong("too short"))
    }

    fn id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.number()?).ok_or_else(|| self.wrong("packet id 0"))
    }

    fn counted(&mut self) -> Result<&'a [u8], DecodeError> {
        let size = usize::from(self.number()?);
        let (found, rest) = self.rest.split_at_checked(size).ok_or_else(|| self.wrong("too short"))?;
        self.rest = rest;
        Ok(found)
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        let text = std::str::from_utf8(self.counted()?).map_err(|_| self.wrong("text that is not UTF-8"))?;
        if text.contains('\0') { Err(self.wrong("text with a NUL")) } else { Ok(text.to_owned()) }
    }

    fn topic(&mut self) -> Result<String, DecodeError> {
        let topic = self.text()?;
        if is_topic(&topic) { Ok(topic) } else { Err(self.wrong("an empty topic, or one with wildcards")) }
    }

    fn filter(&mut self) -> Result<String, DecodeError> {
        let filter = self.text()?;
        if is_filter(&filter) {
            Ok(filter)
        } else {
            Err(self.wrong("an empty filter, or a misplaced wildcard"))
        }
    }
}

/// Appends a packet. On an error `out` is as before.
pub fn encode(packet: &Packet, out: &mut BytesMut) -> Result<(), EncodeError> {
    match packet {
        Packet::Connect(connect) => encode_connect(connect, out),
        Packet::ConnAck { session_present, code } => {
            out.put_slice(&[0x20, 2, u8::from(*session_present), code.number()]);
            Ok(())
        }
        Packet::Publish(publish) => encode_publish(publish, out),
        Packet::PubAck(id) => with_id(0x40, *id, out),
        Packet::PubRec(id) => with_id(0x50, *id, out),
        Packet::PubRel(id) => with_id(0x62, *id, out),
        Packet::PubComp(id) => with_id(0x70, *id, out),
        Packet::Subscribe { id, filters } => {
            let size = 2 + filters.iter().map(|(filter, _)| filter.len() + 3).sum::<usize>();
            texts_fit(filters.iter().map(|(filter, _)| filter.as_str()))?;
            head(0x82, size, out)?;
            out.put_u16(id.get());
            for (filter, qos) in filters {
                put_counted(filter.as_bytes(), out);
                out.put_u8(qos.number());
            }
            Ok(())
        }
        Packet::SubAck { id, granted } => {
            head(0x90, 2 + granted.len(), out)?;
            out.put_u16(id.get());
            for qos in granted {
                out.put_u8(qos.map_or(0x80, Qos::number));
            }
            Ok(())
        }
        Packet::Unsubscribe { id, filters } => {
            let size = 2 + filters.iter().map(|filter| filter.len() + 2).sum::<usize>();
            texts_fit(filters.iter().map(String::as_str))?;
            head(0xa2, size, out)?;
            out.put_u16(id.get());
            for filter in filters {
                put_counted(filter.as_bytes(), out);
            }
            Ok(())
        }
        Packet::UnsubAck(id) => with_id(0xb0, *id, out),
        Packet::PingReq => head(0xc0, 0, out),
        Packet::PingResp => head(0xd0, 0, out),
        Packet::Disconnect => head(0xe0, 0, out),
    }
}

fn encode_connect(connect: &Connect, out: &mut BytesMut) -> Result<(), EncodeError> {
    let (name, level) = match connect.version {
        Version::V31 => ("MQIsdp", 3),
        Version::V311 => ("MQTT", 4),
    };
    let mut flags = u8::from(connect.clean) << 1;
    let mut fields = vec![connect.client.as_bytes()];
    if let Some(will) = &connect.will {
        flags |= 0b100 | will.qos.number() << 3 | u8::from(will.retain) << 5;
        fields.push(will.message.topic.as_bytes());
        fields.push(&will.message.payload);
    }
    if let Some(user) = &connect.user {
        flags |= 1 << 7;
        fields.push(user.as_bytes());
    }
    if let Some(password) = connect.password.as_ref().filter(|_| connect.user.is_some()) {
        flags |= 1 << 6;
        fields.push(password);
    }
    if fields.iter().any(|field| field.len() > usize::from(u16::MAX)) {
        return Err(EncodeError);
    }
    let size = name.len() + 6 + fields.iter().map(|field| field.len() + 2).sum::<usize>();
    head(0x10, size, out)?;
    put_counted(name.as_bytes(), out);
    out.put_u8(level);
    out.put_u8(flags);
    out.put_u16(connect.keep_alive_secs);
    for field in fields {
        put_counted(field, out);
    }
    Ok(())
}

fn encode_publish(publish: &Publish, out: &mut BytesMut) -> Result<(), EncodeError> {
    let Message { topic, payload } = &publish.message;
    texts_fit([&**topic].into_iter())?;
    let id = match publish.delivery {
        Delivery::AtMostOnce => None,
        Delivery::AtLeastOnce(id) | Delivery::ExactlyOnce(id) => Some(id),
    };
    let dup = publish.dup && id.is_some();
    let first = 0x30 | u8::from(dup) << 3 | publish.delivery.qos().number() << 1 | u8::from(publish.retain);
    head(first, topic.len() + 2 + id.map_or(0, |_| 2) + payload.len(), out)?;
    put_counted(topic.as_bytes(), out);
    if let Some(id) = id {
        out.put_u16(id.get());
    }
    out.put_slice(payload);
    Ok(())
}

fn with_id(first: u8, id: PacketId, out: &mut BytesMut) -> Result<(), EncodeError> {
    head(first, 2, out)?;
    out.put_u16(id.get());
    Ok(())
}

fn head(first: u8, size: usize, out: &mut BytesMut) -> Result<(), EncodeError> {
    if size > LENGTH_MAX {
        return Err(EncodeError);
    }
    out.put_u8(first);
    let mut rest = size;
    loop {
        let byte = u8::try_from(rest & 0x7f).unwrap_or(0);
        rest >>= 7;
        if rest == 0 {
            out.put_u8(byte);
            return Ok(());
        }
        out.put_u8(byte | 0x80);
    }
}

fn texts_fit<'a>(mut texts: impl Iterator<Item = &'a str>) -> Result<(), EncodeError> {
    if texts.all(|text| text.len() <= usize::from(u16::MAX)) { Ok(()) } else { Err(EncodeError) }
}

/// The caller has checked the length.
fn put_counted(bytes: &[u8], out: &mut BytesMut) {
    out.put_u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(packet: &Packet) -> BytesMut {
        let mut out = BytesMut::new();
        encode(packet, &mut out).unwrap();
        out
    }

    #[test]
    fn bytes_are_those_of_the_standard() {
        let check = |bytes: &[u8], expected: Packet| {
            let mut buffer = BytesMut::from(bytes);
            assert_eq!(decode(&mut buffer, PACKET_LIMIT), Ok(Some(expected.clone())), "{bytes:?}");
            assert!(buffer.is_empty());
            assert_eq!(&bytes_of(&expected)[..], bytes, "{expected:?}");
        };
        let id = PacketId::new(0x0102).unwrap();
        let will = Will {
            message: Message { topic: "w".into(), payload: Bytes::from_static(b"!") },
            qos: Qos::AtLeastOnce,
            retain: true,
        };
        let full = Connect {
            version: Version::V311,
            clean: true,
            keep_alive_secs: 10,
            client: "c".into(),
            will: Some(will),
            user: Some("u".into()),
            password: Some(Bytes::from_static(b"p")),
        };
        check(
            b"\x10\x19\0\x04MQTT\x04\xee\0\x0a\0\x01c\0\x01w\0\x01!\0\x01u\0\x01p",
            Packet::Connect(full.clone()),
        );
        let old =
            Connect { version: Version::V31, clean: false, will: None, user: None, password: None, ..full };
        check(b"\x10\x0f\0\x06MQIsdp\x03\0\0\x0a\0\x01c", Packet::Connect(old));
        check(b"\x20\x02\x01\0", Packet::ConnAck { session_present: true, code: ConnectCode::Accepted });
        check(
            b"\x20\x02\0\x05",
            Packet::ConnAck { session_present: false, code: ConnectCode::NotAuthorized },
        );
        let message = Message { topic: "a/b".into(), payload: Bytes::from_static(b"xy") };
        let publish = |delivery, retain, dup| {
            Packet::Publish(Publish { message: message.clone(), delivery, retain, dup })
        };
        check(b"\x31\x07\0\x03a/bxy", publish(Delivery::AtMostOnce, true, false));
        check(b"\x3a\x09\0\x03a/b\x01\x02xy", publish(Delivery::AtLeastOnce(id), false, true));
        check(b"\x34\x09\0\x03a/b\x01\x02xy", publish(Delivery::ExactlyOnce(id), false, false));
        check(b"\x40\x02\x01\x02", Packet::PubAck(id));
        check(b"\x50\x02\x01\x02", Packet::PubRec(id));
        check(b"\x62\x02\x01\x02", Packet::PubRel(id));
        check(b"\x70\x02\x01\x02", Packet::PubComp(id));
        let filters = vec![("a/#".to_owned(), Qos::AtLeastOnce), ("+".to_owned(), Qos::AtMostOnce)];
        check(b"\x82\x0c\x01\x02\0\x03a/#\x01\0\x01+\0", Packet::Subscribe { id, filters });
        let granted = vec![Some(Qos::ExactlyOnce), None];
        check(b"\x90\x04\x01\x02\x02\x80", Packet::SubAck { id, granted });
        check(b"\xa2\x05\x01\x02\0\x01a", Packet::Unsubscribe { id, filters: vec!["a".to_owned()] });
        check(b"\xb0\x02\x01\x02", Packet::UnsubAck(id));
        check(b"\xc0\0", Packet::PingReq);
        check(b"\xd0\0", Packet::PingResp);
        check(b"\xe0\0", Packet::Disconnect);
    }

    #[test]
    fn what_is_refused_and_why() {
        let check = |bytes: &[u8], expected: &str| {
            let error = decode(&mut BytesMut::from(bytes), 64).unwrap_err();
            assert_eq!(error.to_string(), expected, "{bytes:?}");
        };
        check(b"\x30\x80\x80\x80\x80", "header: the length has more than four bytes");
        check(b"\x30\x7f", "a packet of 129 bytes; at most 64 are taken");
        check(
            b"\x10\x0d\0\x04MQTT\x05\x02\0\x0a\0\0\0",
            "protocol \"MQTT\" level 5; MQTT 3.1 and 3.1.1 are spoken here",
        );
        check(b"\x10\x0c\0\x04MQTT\x04\x03\0\x0a\0\0", "CONNECT: wrong flags");
        check(b"\x10\x0c\0\x04MQTT\x04\x42\0\x0a\0\0", "CONNECT: a password without a user");
        check(b"\x10\x0c\0\x04MQTT\x04\x22\0\x0a\0\0", "CONNECT: QoS or retain of a will without a will");
        check(b"\x10\x0c\0\x04MQTT\x04\x1e\0\x0a\0\0", "CONNECT: QoS above 2");
        check(b"\x36\x05\0\x01a\0\x01", "PUBLISH: QoS above 2");
        check(b"\x32\x05\0\x01a\0\0", "PUBLISH: packet id 0");
        check(b"\x30\x03\0\x01#", "PUBLISH: an empty topic, or one with wildcards");
        check(b"\x30\x02\0\0", "PUBLISH: an empty topic, or one with wildcards");
        check(b"\x30\x03\0\x01\xff", "PUBLISH: text that is not UTF-8");
        check(b"\x30\x03\0\x01\0", "PUBLISH: text with a NUL");
        check(b"\x30\x02\0\x05", "PUBLISH: too short");
        check(b"\x82\x02\0\x01", "SUBSCRIBE: no filter");
        check(b"\x82\x07\0\x01\0\x02a#\0", "SUBSCRIBE: an empty filter, or a misplaced wildcard");
        check(b"\x82\x06\0\x01\0\x01a\x03", "SUBSCRIBE: QoS above 2");
        check(b"\x80\x06\0\x01\0\x01a\x01", "SUBSCRIBE: wrong flags");
        check(b"\xc0\x01\0", "PINGREQ: bytes after its end");
        check(b"\xf0\0", "unknown packet: no such packet");
        check(b"\0\0", "unknown packet: no such packet");
    }

    #[test]
    fn what_mqtt_cannot_say_is_not_begun() {
        let topic = "a".repeat(65_536);
        let message = Message { topic: topic.as_str().into(), payload: Bytes::new() };
        let mut out = BytesMut::new();
        let publish = Publish { message, delivery: Delivery::AtMostOnce, retain: false, dup: false };
        assert_eq!(encode(&Packet::Publish(publish), &mut out), Err(EncodeError));
        let id = PacketId::MIN;
        let subscribe = Packet::Subscribe { id, filters: vec![(topic, Qos::AtMostOnce)] };
        assert_eq!(encode(&subscribe, &mut out), Err(EncodeError));
        assert!(out.is_empty());
    }

    fn id() -> impl Strategy<Value = PacketId> {
        (1..=u16::MAX).prop_map(|id| PacketId::new(id).unwrap())
    }

    fn qos() -> impl Strategy<Value = Qos> {
        (0..3_u8).prop_map(|number| Qos::from_number(number).unwrap())
    }

    fn payload(max: usize) -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
    }

    fn text() -> impl Strategy<Value = String> {
        "[$a-z/äß ]{1,20}"
    }

    fn message() -> impl Strategy<Value = Message> {
        (text(), payload(300)).prop_map(|(topic, payload)| Message { topic: topic.into(), payload })
    }

    fn any_connect() -> impl Strategy<Value = Packet> {
        let will = proptest::option::of((message(), qos(), any::<bool>()));
        let user = proptest::option::of((text(), proptest::option::of(payload(20))));
        (any::<bool>(), any::<bool>(), any::<u16>(), text(), will, user).prop_map(
            |(old, clean, keep_alive_secs, client, will, user)| {
                let (user, password) = user.map_or((None, None), |(user, password)| (Some(user), password));
                Packet::Connect(Connect {
                    version: if old { Version::V31 } else { Version::V311 },
                    clean,
                    keep_alive_secs,
                    client,
                    will: will.map(|(message, qos, retain)| Will { message, qos, retain }),
                    user,
                    password,
                })
            },
        )
    }

    fn any_packet() -> impl Strategy<Value = Packet> {
        let publish = (message(), qos(), id(), any::<bool>(), any::<bool>());
        let publish = publish.prop_map(|(message, qos, id, retain, dup)| {
            let delivery = match qos {
                Qos::AtMostOnce => Delivery::AtMostOnce,
                Qos::AtLeastOnce => Delivery::AtLeastOnce(id),
                Qos::ExactlyOnce => Delivery::ExactlyOnce(id),
            };
            let dup = dup && qos != Qos::AtMostOnce;
            Packet::Publish(Publish { message, delivery, retain, dup })
        });
        let filter = prop_oneof![text(), Just("#".to_owned()), text().prop_map(|text| text + "/+/#")];
        let filters = proptest::collection::vec((filter, qos()), 1..5).boxed();
        prop_oneof![
            any_connect(),
            publish,
            id().prop_map(Packet::PubRel),
            (id(), proptest::collection::vec(proptest::option::of(qos()), 0..200))
                .prop_map(|(id, granted)| Packet::SubAck { id, granted }),
            (id(), filters.clone()).prop_map(|(id, filters)| Packet::Subscribe { id, filters }),
            (id(), filters).prop_map(|(id, filters)| Packet::Unsubscribe {
                id,
                filters: filters.into_iter().map(|(filter, _)| filter).collect()
            }),
        ]
    }

    proptest! {
        #[test]
        fn packets_go_round_however_the_bytes_come(packets in proptest::collection::vec(any_packet(), 1..4), step in 1..50_usize) {
            let mut bytes = BytesMut::new();
            for packet in &packets {
                encode(packet, &mut bytes).unwrap();
            }
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(packet) = decode(&mut buffer, PACKET_LIMIT).unwrap() {
                    found.push(packet);
                }
            }
            prop_assert_eq!(found, packets);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(packet)) = decode(&mut buffer, 128) {
                // What was understood can be said.
                prop_assert!(encode(&packet, &mut BytesMut::new()).is_ok());
            }
        }

        #[test]
        fn no_damage_makes_it_panic(packet in any_packet(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut buffer = bytes_of(&packet);
            let at = at.index(buffer.len());
            buffer[at] = byte;
            while let Ok(Some(_)) = decode(&mut buffer, PACKET_LIMIT) {}
        }
    }
}
