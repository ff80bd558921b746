//! Durable consumers.

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::consumer::{Config, IntoConsumerConfig, PullConsumer, pull};
use async_nats::jetstream::{Context, ErrorCode};

use super::failure::{Refused, code};

/// Finds the durable consumer as it was left, or creates it.
///
/// The library's `create_consumer` would change the settings of a consumer that exists, for all
/// programs that use it, without a word.
///
/// # Errors
///
/// [`Refused`] if the consumer exists with other settings: ack_policy, ack_wait, max_ack_pending,
/// max_deliver, deliver_policy or filter_subject. Otherwise the library's error.
pub async fn open_durable(
    jetstream: &Context,
    stream: &str,
    wanted: pull::Config,
) -> Result<PullConsumer> {
    let name = wanted.durable_name.clone().unwrap_or_default();
    let found: PullConsumer = match jetstream.get_consumer_from_stream(&name, stream).await {
        Ok(consumer) => consumer,
        Err(error) if code(&error) == Some(ErrorCode::CONSUMER_NOT_FOUND) => {
            return Ok(jetstream.create_consumer_on_stream(wanted, stream).await?);
        }
        Err(error) if code(&error) == Some(ErrorCode::STREAM_NOT_FOUND) => {
            return Err(error).with_context(|| format!("there is no stream {stream}"));
        }
        Err(error) => return Err(error.into()),
    };
    let wanted = settings(&wanted.into_consumer_config());
    let found_settings = settings(&found.cached_info().config);
    let different = wanted.iter().zip(&found_settings).filter(|(wanted, found)| wanted != found);
    let different = different
        .map(|((setting, wanted), (_, found))| format!("{setting} is {found}, not {wanted}"));
    let differences = different.collect::<Vec<_>>().join(", ");
    ensure!(
        differences.is_empty(),
        Refused::because(format!(
            "the consumer {name} exists with other settings: {differences}; delete it with \
             `nats consumer rm {stream} {name}`, which also deletes its position in the stream"
        ))
    );
    Ok(found)
}

fn settings(config: &Config) -> [(&'static str, String); 6] {
    [
        ("ack_policy", format!("{:?}", config.ack_policy)),
        ("ack_wait", format!("{:?}", config.ack_wait)),
        ("max_ack_pending", config.max_ack_pending.to_string()),
        ("max_deliver", config.max_deliver.max(0).to_string()), // -1 and 0 mean no limit
        ("deliver_policy", format!("{:?}", config.deliver_policy)),
        ("filter_subject", config.filter_subject.clone()),
    ]
}
