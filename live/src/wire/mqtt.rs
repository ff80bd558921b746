//! MQTT 3.1.1: packets that begin with their kind and their length.

use testkit::Way;

use super::{Message, PUBACK};

const PUBLISH: u8 = 3;
const ACKNOWLEDGED: u8 = 4;

/// The first packet in `bytes`: how many bytes it has, and the message if it is one. None if it is
/// not complete.
pub fn next(bytes: &[u8], way: Way) -> Option<(usize, Option<Message>)> {
    let first = *bytes.first()?;
    let (mut length, mut at) = (0_usize, 1);
    loop {
        let byte = *bytes.get(at)?;
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 || at > 4 {
            break;
        }
    }
    let packet = bytes.get(at..at + length)?;
    let message = match first >> 4 {
        PUBLISH => publish(packet, (first >> 1) & 3, way),
        ACKNOWLEDGED => Some(message(way, PUBACK.into(), Vec::new(), 1)),
        _ => None,
    };
    Some((at + length, message))
}

fn publish(packet: &[u8], qos: u8, way: Way) -> Option<Message> {
    let length = usize::from(u16::from_be_bytes([*packet.first()?, *packet.get(1)?]));
    let topic = String::from_utf8_lossy(packet.get(2..2 + length)?);
    // A number follows if there is to be an acknowledgement.
    let payload = packet.get(2 + length + if qos > 0 { 2 } else { 0 }..)?;
    Some(message(way, topic.replace('/', "."), payload.to_vec(), qos))
}

fn message(way: Way, subject: String, payload: Vec<u8>, qos: u8) -> Message {
    Message { way, subject, reply: String::new(), status: None, has_headers: false, payload, qos }
}
