//! What passes on a line: messages, read out of the bytes of a connection.

mod mqtt;
mod nats;

use testkit::Way;

/// The protocol of a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// The protocol of NATS clients.
    Nats,
    /// MQTT 3.1.1.
    Mqtt,
}

/// A message that a program has sent, or that nats-server has sent to a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who has sent it.
    pub way: Way,
    /// Its subject. The topic of an MQTT message is written as a subject.
    pub subject: String,
    /// The subject for an answer; empty if none is asked for.
    pub reply: String,
    /// The code in its first header line: 503 if there is no responder.
    pub status: Option<u16>,
    /// Whether it has headers.
    pub has_headers: bool,
    /// Its payload.
    pub payload: Vec<u8>,
    /// MQTT only: the quality of service.
    pub qos: u8,
}

/// The subject of what is no message in MQTT: the acknowledgement of one.
pub const PUBACK: &str = "(PUBACK)";

impl Message {
    /// Whether a program has sent it.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.way == Way::ToServer
    }

    /// The payload as JSON; null if it is something else.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap_or_default()
    }
}

/// Finds messages in the bytes of one way of a connection, which come in pieces.
#[derive(Debug)]
pub struct Reader {
    protocol: Protocol,
    way: Way,
    /// Bytes of a message that is not complete.
    begun: Vec<u8>,
}

impl Reader {
    /// A reader for one way of a new connection.
    #[must_use]
    pub fn new(protocol: Protocol, way: Way) -> Self {
        Self { protocol, way, begun: Vec::new() }
    }

    /// Takes the next bytes, and returns the messages that are complete by now.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Message> {
        self.begun.extend_from_slice(bytes);
        let (mut messages, mut at) = (Vec::new(), 0);
        while let Some((length, message)) = match self.protocol {
            Protocol::Nats => nats::next(&self.begun[at..], self.way),
            Protocol::Mqtt => mqtt::next(&self.begun[at..], self.way),
        } {
            at += length;
            messages.extend(message);
        }
        self.begun.drain(..at);
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_the_bytes_are_cut() {
        let bytes: &[u8] = b"CONNECT {}\r\nSUB logs.process group 1\r\nPUB a 3\r\nx\r\n\r\n\
            PUB math.sum _INBOX.1 2\r\n{}\r\nHPUB b 12 14\r\nNATS/1.0\r\n\r\nhi\r\nPING\r\n";
        for size in 1..bytes.len() {
            let mut reader = Reader::new(Protocol::Nats, Way::ToServer);
            let found: Vec<_> = bytes.chunks(size).flat_map(|some| reader.feed(some)).collect();
            let seen: Vec<_> = found
                .iter()
                .map(|it| (it.subject.as_str(), it.reply.as_str(), it.payload.as_slice()))
                .collect();
            let all: [(&str, &str, &[u8]); 3] =
                [("a", "", b"x\r\n"), ("math.sum", "_INBOX.1", b"{}"), ("b", "", b"hi")];
            assert_eq!(seen, all, "in pieces of {size}");
        }
    }

    #[test]
    fn what_nats_server_sends() {
        let mut reader = Reader::new(Protocol::Nats, Way::ToClient);
        let found = reader.feed(
            b"INFO {}\r\nMSG orders.created 3 $JS.ACK.s.c.2.7.9.1.0 2\r\n{}\r\n\
            HMSG _INBOX.x 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n",
        );
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].reply, "$JS.ACK.s.c.2.7.9.1.0");
        assert_eq!(found[1].status, Some(503));
    }

    #[test]
    fn mqtt_packets() {
        let mut reader = Reader::new(Protocol::Mqtt, Way::ToServer);
        let publish = b"\x32\x10\x00\x0bdevice/temp\x00\x07x\x40\x02\x00\x07\xc0\x00";
        let found: Vec<_> = publish.chunks(3).flat_map(|some| reader.feed(some)).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].subject.as_str(), found[0].qos), ("device.temp", 1));
        assert_eq!(found[0].payload, b"x");
        assert_eq!(found[1].subject, PUBACK);
    }

    #[test]
    fn what_is_no_protocol_does_not_pile_up() {
        let mut reader = Reader::new(Protocol::Nats, Way::ToServer);
        for _ in 0..100 {
            assert_eq!(reader.feed(&vec![b'x'; 64 * 1024]), []);
        }
        assert!(reader.begun.len() <= 64 * 1024, "{} bytes", reader.begun.len());
    }
}
