//! Connection errors in words that say what to do.

use std::error::Error;
use std::iter::successors;

use async_nats::{ConnectError, ConnectErrorKind};

/// What went wrong when connecting, and what to do about it. `authority` is the file with the
/// certificate authority that was given.
pub(crate) fn explain(error: &ConnectError, authority: Option<&str>) -> String {
    let first: &(dyn Error + 'static) = error;
    let causes = successors(Some(first), |&error| error.source());
    let text = causes.last().map(ToString::to_string).unwrap_or_default();
    let debug = format!("{error:?}");
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
        ConnectErrorKind::Dns => format!("unknown host ({text}); check --server"),
        _ if debug.contains("InvalidContentType") => {
            "it does not speak TLS, or not from the start; use nats:// in place of tls://, or leave \
             out --tlsfirst"
                .into()
        }
        // The second if both authorities have the same name.
        _ if debug.contains("UnknownIssuer") || debug.contains("BadSignature") => match authority {
            None => "its certificate is signed by an unknown authority; name the file with --tlsca"
                .into(),
            Some(file) => format!("its certificate is not signed by the authority in --tlsca {file}"),
        },
        _ if debug.contains("NotValidForName") => {
            format!("its certificate is for another name ({text}); use that name in --server")
        }
        _ if debug.contains("InvalidCertificate(Expired") => {
            "its certificate has expired; it needs a new one, or this machine's clock is wrong".into()
        }
        _ if debug.contains("CertificateRequired") => {
            "it asks for a client certificate; give one with --tlscert and --tlskey".into()
        }
        ConnectErrorKind::Tls => {
            format!("TLS failed ({text}); check --tlsca, --tlscert and --tlskey")
        }
        _ if debug.contains("InvalidCertificate") => {
            format!("its certificate is not accepted: {text}")
        }
        _ if text.contains("expected INFO") => {
            "what listens there is no NATS server; check --server".into()
        }
        _ => format!(
            "{text}; start a server with `cargo xtask up` or `docker compose up -d`, or name another with --server"
        ),
    }
}

/// The server did not answer in time.
pub(crate) fn silent() -> String {
    "no answer in time; check --server, the network and the server's health, and give --tlsfirst if \
     the server expects TLS before it says anything"
        .into()
}
