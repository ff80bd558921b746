//! The protocol of NATS clients: lines, some of which say how many bytes follow.

use testkit::Way;

use super::Message;

/// Lines are shorter: nats-server allows 4 KiB, and its own `INFO` has a few hundred bytes.
const LONGEST_LINE: usize = 32 * 1024;

/// The first thing in `bytes`: how many bytes it has, and the message if it is one. None if it is
/// not complete.
pub fn next(bytes: &[u8], way: Way) -> Option<(usize, Option<Message>)> {
    let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else {
        // Not the protocol: what has come is forgotten.
        return (bytes.len() > LONGEST_LINE).then_some((bytes.len(), None));
    };
    let line = String::from_utf8_lossy(&bytes[..end]);
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let begin = end + 2;
    let (subject, reply, headers, total) = match words[..] {
        ["PUB", subject, size] | ["MSG", subject, _, size] => (subject, "", "0", size),
        ["PUB", subject, reply, size] | ["MSG", subject, _, reply, size] => {
            (subject, reply, "0", size)
        }
        ["HPUB", subject, headers, size] | ["HMSG", subject, _, headers, size] => {
            (subject, "", headers, size)
        }
        ["HPUB", subject, reply, headers, size] | ["HMSG", subject, _, reply, headers, size] => {
            (subject, reply, headers, size)
        }
        _ => return Some((begin, None)),
    };
    let (Ok(headers), Ok(total)) = (headers.parse::<usize>(), total.parse::<usize>()) else {
        return Some((begin, None));
    };
    let body = bytes.get(begin..begin.checked_add(total)?.checked_add(2)?)?;
    let message = Message {
        way,
        subject: subject.into(),
        reply: reply.into(),
        status: status(body.get(..headers).unwrap_or_default()),
        has_headers: headers > 0,
        payload: body.get(headers..total).unwrap_or_default().to_vec(),
        qos: 0,
    };
    Some((begin + body.len(), Some(message)))
}

/// `NATS/1.0 503` …
fn status(headers: &[u8]) -> Option<u16> {
    let digits = headers.strip_prefix(b"NATS/1.0 ")?.get(..3)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
