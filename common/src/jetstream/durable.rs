//! Durable consumers.

use anyhow::{Result, bail};
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::{Context, ErrorCode};

use super::failure::{Refused, code};

/// Finds the durable consumer as it was left, or creates it.
///
/// The library's `create_consumer` would change the settings of a consumer that exists, for all
/// programs that use it, without a word.
///
/// # Errors
///
/// [`Refused`] if the consumer exists with another `ack_policy`, `ack_wait`, `max_ack_pending` or
/// `filter_subject`. Otherwise the library's error.
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
        Err(error) => return Err(error.into()),
    };
    let config = &found.cached_info().config;
    let mut differences = Vec::new();
    let mut compare = |setting: &str, found: String, wanted: String| {
        if found != wanted {
            differences.push(format!("{setting} is {found}, not {wanted}"));
        }
    };
    let policies = [config.ack_policy, wanted.ack_policy].map(|policy| format!("{policy:?}"));
    let [found_policy, wanted_policy] = policies;
    compare("ack_policy", found_policy, wanted_policy);
    let [found_wait, wanted_wait] =
        [config.ack_wait, wanted.ack_wait].map(|wait| format!("{wait:?}"));
    compare("ack_wait", found_wait, wanted_wait);
    compare(
        "max_ack_pending",
        config.max_ack_pending.to_string(),
        wanted.max_ack_pending.to_string(),
    );
    compare(
        "filter_subject",
        config.filter_subject.clone(),
        wanted.filter_subject.clone(),
    );
    if differences.is_empty() {
        return Ok(found);
    }
    bail!(Refused::because(format!(
        "the consumer {name} exists with other settings: {}; delete it with \
         `nats consumer rm {stream} {name}`, which also deletes its position in the stream",
        differences.join(", ")
    )))
}
