//! The documents of the decentralized form: an operator vouches for accounts, an account for its users.
//!
//! A JWT of NATS is JSON, signed with an NKEY ([ADR-14](https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-14.md)).
//! A limit that is missing counts as 0: -1 says that there is none.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::access::{ACCOUNTS, Account, Kind, Protocol, User};

/// Vouches for an operator, by itself.
pub fn operator(operator: &KeyPair, system_account: &KeyPair) -> Result<String> {
    let nats = json!({
        "type": "operator", "version": 2, "system_account": system_account.public_key(),
    });
    sign(operator, &operator.public_key(), "PLAYGROUND", None, &nats)
}

/// Vouches for an account with nothing but its name: the system account.
pub fn system_account(operator: &KeyPair, key: &KeyPair) -> Result<String> {
    let nats = json!({ "type": "account", "version": 2, "limits": limits(false) });
    sign(operator, &key.public_key(), "SYS", None, &nats)
}

/// Vouches for an account. `public_key` returns the public key of an account of that name.
pub fn account(
    operator: &KeyPair,
    account: &Account,
    public_key: impl Fn(&str) -> String,
) -> Result<String> {
    let word = |kind| match kind {
        Kind::Service => "service",
        Kind::Stream => "stream",
    };
    let exports: Vec<_> = account
        .exports
        .iter()
        .map(|export| {
            json!({ "name": export.subject, "subject": export.subject, "type": word(export.kind) })
        })
        .collect();
    let imports = ACCOUNTS.iter().flat_map(|from| from.exports.iter().map(move |it| (from, it)));
    let imports: Vec<_> = imports
        .filter(|(_, export)| export.to == account.name)
        .map(|(from, export)| {
            json!({
                "name": export.subject, "subject": export.subject, "type": word(export.kind),
                "account": public_key(from.name),
            })
        })
        .collect();
    let nats = json!({
        "type": "account", "version": 2, "limits": limits(account.jetstream),
        "exports": exports, "imports": imports,
    });
    sign(operator, &public_key(account.name), account.name, None, &nats)
}

/// Vouches for a user, until a time in seconds since 1970-01-01 UTC, or for ever.
pub fn user(account: &KeyPair, user: &User, key: &KeyPair, until: Option<u64>) -> Result<String> {
    let list = |subjects: &[&str]| {
        if subjects.is_empty() { json!({ "deny": [">"] }) } else { json!({ "allow": subjects }) }
    };
    let is_device = user.protocol == Protocol::Mqtt;
    let nats = json!({
        "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
        "pub": list(user.publish), "sub": list(user.subscribe),
        // An MQTT client cannot sign: the document alone is its password.
        "bearer_token": is_device,
        "allowed_connection_types": [if is_device { "MQTT" } else { "STANDARD" }],
    });
    sign(account, &key.public_key(), user.name, until, &nats)
}

fn limits(jetstream: bool) -> Value {
    let storage = if jetstream { -1 } else { 0 };
    json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": storage, "disk_storage": storage,
        "streams": storage, "consumer": storage,
    })
}

fn sign(
    issuer: &KeyPair,
    subject: &str,
    name: &str,
    until: Option<u64>,
    nats: &Value,
) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut claims = json!({
        "jti": format!("{subject}-{now}"), "iat": now, "iss": issuer.public_key(),
        "sub": subject, "name": name, "nats": nats,
    });
    if let Some(until) = until {
        claims["exp"] = until.into();
    }
    let header = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
    let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    let text = format!("{}.{}", encode(header), encode(&claims.to_string()));
    let signature = BASE64URL_NOPAD.encode(&issuer.sign(text.as_bytes())?);
    Ok(format!("{text}.{signature}"))
}
