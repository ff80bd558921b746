//! Streams with the settings that a program wants.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use async_nats::jetstream::stream::{Config, Stream};
use async_nats::jetstream::{Context, ErrorCode};
use serde_json::{Map, Value};

use super::failure::{Refused, code};

/// Creates the stream, or returns the one that exists if it has the same settings.
///
/// # Errors
///
/// [`Refused`] if it exists with other settings, and which they are. Otherwise the library's error.
pub async fn create_stream(jetstream: &Context, wanted: &Config) -> Result<Stream> {
    match jetstream.create_stream(wanted).await {
        Err(error) if code(&error) == Some(ErrorCode::STREAM_NAME_EXIST) => {
            let found = jetstream.get_stream(&wanted.name).await?;
            compare(&found.cached_info().config, wanted)?;
            Ok(found)
        }
        created => Ok(created?),
    }
}

/// Fails if the settings differ, and says which do.
fn compare(found: &Config, wanted: &Config) -> Result<()> {
    let stream = &wanted.name;
    let (mut found, wanted) = (settings(found)?, settings(wanted)?);
    if !wanted.contains_key("num_replicas") {
        // Left to the people who run the servers.
        found.remove("num_replicas");
    }
    let text = |value: Option<&Value>| match value {
        None => "unset".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let names: BTreeSet<&String> = found.keys().chain(wanted.keys()).collect();
    let differences: Vec<String> = names
        .into_iter()
        .map(|name| (name, found.get(name), wanted.get(name)))
        .filter(|(_, found, wanted)| found != wanted)
        .map(|(name, found, wanted)| format!("{name} is {}, not {}", text(found), text(wanted)))
        .collect();
    ensure!(
        differences.is_empty(),
        Refused::because(format!(
            "the stream {stream} exists with other settings: {}; delete it with \
             `nats stream rm {stream}`, or ask for these settings",
            differences.join(", ")
        ))
    );
    Ok(())
}

/// The settings that are set, by name. One that is left to the server comes back from it as 0, -1,
/// false or "none".
fn settings(config: &Config) -> Result<Map<String, Value>> {
    let unset = [Value::Null, 0.into(), (-1).into(), false.into(), "none".into()];
    let Value::Object(mut settings) = serde_json::to_value(config)? else {
        bail!("the settings of a stream are no JSON object")
    };
    // The server adds its own version to the metadata.
    settings.retain(|name, value| name != "metadata" && !unset.contains(value));
    Ok(settings)
}
