//! The stream that captures the readings.

use anyhow::{Result, bail};
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Config;
use common::jetstream::Refused;

/// Creates the stream, or finds it with these subjects and this storage. Limits that somebody has
/// set on it are fine.
///
/// # Errors
///
/// [`Refused`] if the stream exists with other subjects or another storage. Otherwise the library's
/// error.
pub async fn open_stream(jetstream: &Context, wanted: &Config) -> Result<()> {
    let stream = jetstream.get_or_create_stream(wanted.clone()).await?;
    let found = &stream.cached_info().config;
    let mut differences = Vec::new();
    if found.subjects != wanted.subjects {
        let (found, wanted) = (found.subjects.join(", "), wanted.subjects.join(", "));
        differences.push(format!("its subjects are {found}, not {wanted}"));
    }
    if found.storage != wanted.storage {
        let (found, wanted) = (found.storage, wanted.storage);
        differences.push(format!("its storage is {found:?}, not {wanted:?}"));
    }
    if differences.is_empty() {
        return Ok(());
    }
    let name = &wanted.name;
    bail!(Refused::because(format!(
        "the stream {name} exists with other settings: {}; change it with `nats stream edit {name}`, \
         or delete it with `nats stream rm {name}`, which also deletes what it stores",
        differences.join(", ")
    )))
}
