//! The documents of the decentralized form: an operator vouches for accounts, an account for its users.
//!
//! A JWT of NATS is JSON, signed with an NKEY ([ADR-14](https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-14.md)).
//! A limit that is missing counts as 0: -1 says that there is none.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::access::{ACCOUNTS, Account, Export, Kind, Limits, Protocol, Storage, User};

/// Vouches for an operator, by itself.
pub fn operator(operator: &KeyPair, system_account: &KeyPair) -> Result<String> {
    let nats = json!({
        "type": "operator", "version": 2, "system_account": system_account.public_key(),
    });
    sign(operator, &operator.public_key(), "PLAYGROUND", None, &nats)
}

/// Vouches for an account with nothing but its name: the system account.
pub fn system_account(operator: &KeyPair, key: &KeyPair) -> Result<String> {
    let nats = json!({ "type": "account", "version": 2, "limits": limits(None, None) });
    sign(operator, &key.public_key(), "SYS", None, &nats)
}

/// Vouches for an account. `key` returns the key of an account of that name. `more` are further
/// imports.
pub fn account<'a>(
    operator: &KeyPair,
    account: &Account,
    key: impl Fn(&str) -> Result<&'a KeyPair>,
    more: &[Value],
) -> Result<String> {
    let exports = account.exports.iter().map(|export| {
        json!({
            "name": export.subject, "subject": export.subject, "type": word(export.kind),
            // Without it, all accounts of the operator may import it.
            "token_req": true,
        })
    });
    let mut imports = Vec::new();
    for from in ACCOUNTS {
        for export in from.exports.iter().filter(|export| export.to == account.name) {
            let token = activation(key(from.name)?, key(account.name)?, export)?;
            imports.push(import(key(from.name)?, export, Some(&token)));
        }
    }
    imports.extend_from_slice(more);
    let nats = json!({
        "type": "account", "version": 2, "limits": limits(Some(account.limits), account.storage),
        "exports": exports.collect::<Vec<_>>(), "imports": imports,
    });
    sign(operator, &key(account.name)?.public_key(), account.name, None, &nats)
}

/// An entry of the imports of an account. `token` is the other account's word that it may.
pub fn import(from: &KeyPair, export: &Export, token: Option<&str>) -> Value {
    let mut import = json!({
        "name": export.subject, "subject": export.subject, "type": word(export.kind),
        "account": from.public_key(),
    });
    if let Some(token) = token {
        import["token"] = token.into();
    }
    import
}

/// An account's word that another one may use its export.
pub fn activation(from: &KeyPair, to: &KeyPair, export: &Export) -> Result<String> {
    let nats = json!({
        "type": "activation", "version": 2, "subject": export.subject, "kind": word(export.kind),
    });
    sign(from, &to.public_key(), export.subject, None, &nats)
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "service",
        Kind::Stream => "stream",
    }
}

/// Vouches for a user.
pub fn user(account: &KeyPair, user: &User, key: &KeyPair, terms: Terms) -> Result<String> {
    let list = |subjects: &[&str]| {
        if subjects.is_empty() { json!({ "deny": [">"] }) } else { json!({ "allow": subjects }) }
    };
    let is_device = user.protocol == Protocol::Mqtt;
    let nats = json!({
        // nats-server enforces the limits on subscriptions and payload, but not that on data.
        "type": "user", "version": 2, "subs": -1, "data": -1,
        "payload": terms.payload.map_or(-1, i64::from),
        "pub": list(user.publish), "sub": list(user.subscribe),
        // An MQTT client cannot sign: the document alone is its password.
        "bearer_token": is_device,
        "allowed_connection_types": [if is_device { "MQTT" } else { "STANDARD" }],
    });
    sign(account, &key.public_key(), user.name, terms.until, &nats)
}

/// What holds for a user, besides the lists.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// The end of its credentials, in seconds since 1970-01-01 UTC.
    pub until: Option<u64>,
    /// The longest message, in bytes, if that is less than its account's.
    pub payload: Option<u32>,
}

fn limits(limits: Option<Limits>, storage: Option<Storage>) -> Value {
    let all = -1_i64;
    let of = |limit: fn(Limits) -> u32| limits.map_or(all, |limits| limit(limits).into());
    let mut limits = json!({
        "subs": of(|it| it.subscriptions), "conn": of(|it| it.connections),
        "payload": of(|it| it.payload),
        "data": all, "imports": all, "exports": all, "leaf": all, "wildcards": true,
    });
    // Without them, the account has no JetStream.
    if let Some(storage) = storage {
        limits["mem_storage"] = storage.memory.into();
        limits["disk_storage"] = storage.file.into();
        limits["streams"] = storage.streams.into();
        limits["consumer"] = storage.consumers.into();
    }
    limits
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
