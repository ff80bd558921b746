//! Connection errors in words that say what to do.

use std::error::Error;
use std::iter::successors;

use async_nats::{ConnectError, ConnectErrorKind, ServerError};

/// What went wrong when connecting, and what to do about it.
pub(crate) fn explain(error: &ConnectError) -> String {
    let text = last_cause(error);
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => {
            "it refuses these credentials; check --user and --password, --token, --creds, --nkey or \
             --tlscert"
                .into()
        }
        ConnectErrorKind::Authentication => {
            "the challenge cannot be signed; check the seed in --nkey or --creds".into()
        }
        ConnectErrorKind::TimedOut => silent(),
        _ if text.contains("account active connections exceeded") => format!(
            "{text}; end another program of this account, or raise its max_connections"
        ),
        ConnectErrorKind::Dns => format!("unknown host ({text}); check --server"),
        kind => match explain_tls(error) {
            Some(tls) => tls,
            None if matches!(kind, ConnectErrorKind::Tls) => {
                format!("TLS failed ({text}); check --tlsca, --tlscert and --tlskey")
            }
            None if text.contains("expected INFO") => {
                "what listens there is no NATS server, or one that expects TLS before it says anything; \
                 check --server, and give --tlsfirst for the latter"
                    .into()
            }
            None => format!(
                "{text}; start a server with `cargo xtask up` or `docker compose up -d`, or name another with --server"
            ),
        },
    }
}

/// What to do about a limit of the account that a message or a subscription has exceeded. None if the
/// error is something else.
pub(crate) fn over_limit(error: &ServerError) -> Option<&'static str> {
    let error = error.to_string().to_lowercase();
    if error.contains("maximum payload violation") {
        Some("send less in one message, or raise max_payload of the account")
    } else if error.contains("maximum subscriptions exceeded") {
        Some("subscribe to less on one connection, or raise max_subscriptions of the account")
    } else {
        None
    }
}

/// Why a TLS connection was not made, and what to do about it. None if the error is not from rustls,
/// or says nothing that a person can put right.
#[must_use]
pub fn explain_tls(error: &(dyn Error + 'static)) -> Option<String> {
    let debug = format!("{error:?}");
    let says = |text| debug.contains(text);
    Some(if says("InvalidContentType") || says("tls handshake eof") {
        "it does not speak TLS there, or not from the start; check scheme and port of its address"
            .into()
    // The second if both authorities have the same name.
    } else if says("UnknownIssuer") || says("BadSignature") {
        "its certificate is signed by an unknown authority; name its file with --tlsca".into()
    } else if says("NotValidForName") {
        format!("its certificate is for another name: {}", last_cause(error))
    } else if says("InvalidCertificate(Expired") {
        "its certificate has expired, or this machine's clock is wrong".into()
    } else if says("CertificateRequired") {
        "it asks for a client certificate; give one with --tlscert and --tlskey".into()
    } else if says("InvalidCertificate") {
        format!("its certificate is not accepted: {}", last_cause(error))
    } else {
        return None;
    })
}

fn last_cause(error: &(dyn Error + 'static)) -> String {
    let causes = successors(Some(error), |&error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

/// The server did not answer in time.
pub(crate) fn silent() -> String {
    "no answer in time; check --server, the network and the server's health, and give --tlsfirst if \
     the server expects TLS before it says anything"
        .into()
}
