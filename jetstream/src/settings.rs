//! Comparing a stream with what the program asks for.

use anyhow::{Result, bail};
use async_nats::jetstream::stream::Config;
use common::jetstream::Refused;

/// Checks that a stream which exists keeps messages as `wanted` says.
///
/// # Errors
///
/// [`Refused`], with the settings that differ.
pub fn same_settings(found: &Config, wanted: &Config) -> Result<()> {
    let pairs = settings(found).into_iter().zip(settings(wanted));
    let differences: Vec<String> = pairs
        .filter(|(found, wanted)| found != wanted)
        .map(|((name, found), (_, wanted))| format!("{name} is {found}, not {wanted}"))
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    let name = &wanted.name;
    bail!(Refused::because(format!(
        "the stream {name} exists with other settings: {}; delete it with `nats stream rm {name}`, \
         or ask for what it is with --storage and --replicas",
        differences.join(", ")
    )))
}

/// The settings that decide which messages a stream keeps, where, and for how long.
fn settings(config: &Config) -> [(&'static str, String); 10] {
    let limit = |limit: i64| if limit > 0 { limit.to_string() } else { "unlimited".into() };
    let lower = |name: String| name.to_lowercase();
    [
        ("storage", lower(format!("{:?}", config.storage))),
        ("num_replicas", config.num_replicas.to_string()),
        ("subjects", format!("{:?}", config.subjects)),
        ("retention", lower(format!("{:?}", config.retention))),
        ("discard", lower(format!("{:?}", config.discard))),
        ("max_msgs", limit(config.max_messages)),
        ("max_msgs_per_subject", limit(config.max_messages_per_subject)),
        ("max_bytes", limit(config.max_bytes)),
        ("max_age", format!("{:?}", config.max_age)),
        ("duplicate_window", format!("{:?}", config.duplicate_window)),
    ]
}
