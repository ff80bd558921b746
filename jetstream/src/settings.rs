//! What a stream has otherwise than was asked for.

use anyhow::Result;
use async_nats::jetstream::stream;
use serde_json::{Map, Value};

/// What a stream that exists has otherwise than it should, by the names of its settings.
///
/// # Errors
///
/// Where they cannot be written as JSON.
pub fn differences(wanted: &stream::Config, found: &stream::Config) -> Result<String> {
    let (wanted, found) = (settings(wanted)?, settings(found)?);
    let text = |value: Option<&Value>| match value {
        None => "unset".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let mut names: Vec<_> = wanted.keys().chain(found.keys()).collect();
    names.sort();
    names.dedup();
    let different = names
        .into_iter()
        .filter(|name| wanted.get(*name) != found.get(*name))
        .map(|name| {
            let (found, wanted) = (text(found.get(name)), text(wanted.get(name)));
            format!("{name} is {found}, not {wanted}")
        });
    Ok(different.collect::<Vec<_>>().join(", "))
}

/// The settings that are set. What is left to the server comes back from it as 0, -1 or "none".
fn settings(config: &stream::Config) -> Result<Map<String, Value>> {
    let unset = [
        Value::Null,
        0.into(),
        (-1).into(),
        false.into(),
        "none".into(),
    ];
    let mut settings = match serde_json::to_value(config)? {
        Value::Object(settings) => settings,
        _ => Map::new(),
    };
    // The server notes its own version among the metadata.
    settings.retain(|name, value| name != "metadata" && !unset.contains(value));
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_named() -> Result<()> {
        let wanted = stream::Config {
            name: "orders".into(),
            subjects: vec!["orders.>".into()],
            num_replicas: 1,
            ..Default::default()
        };
        let as_the_server_says_it = stream::Config {
            max_messages: -1,
            max_bytes: -1,
            ..wanted.clone()
        };
        assert_eq!(differences(&wanted, &as_the_server_says_it)?, "");
        let other = stream::Config {
            storage: stream::StorageType::Memory,
            num_replicas: 3,
            max_messages: 5,
            ..wanted.clone()
        };
        assert_eq!(
            differences(&wanted, &other)?,
            "max_msgs is 5, not unset, num_replicas is 3, not 1, storage is memory, not file"
        );
        Ok(())
    }
}
