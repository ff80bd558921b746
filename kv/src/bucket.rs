//! A bucket whose calls ride out an outage.

use std::error::Error;
use std::io;
use std::time::Duration;

use anyhow::{Result, bail};
use async_nats::jetstream::kv::{Config, Entry, Store};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{Context, ErrorCode};
use common::jetstream::{Failure, code, failure, retry};
use common::{CancellationToken, Connection, Stopped};
use tokio::time::sleep;

use crate::history::{message_id, new_message_id};
use crate::{jetstream, jetstream_at};

/// Reads and writes like the library's [`Store`], but:
///
/// - a bucket that is missing is created;
/// - a call without an answer is repeated;
/// - a write is stored once, however often it is repeated;
/// - a mirror stands for the bucket that it copies, which may be far away: the mirror itself takes no
///   writes, and what it has may be old;
/// - Ctrl-C does not interrupt a call: the program would not know whether a write is stored.
pub struct Bucket {
    /// Its stop token is cancelled `stop_timeout` after the program was told to stop.
    nats: Connection,
    jetstream: Context,
    config: Config,
    timeout: Duration,
    stop_timeout: Duration,
}

impl Bucket {
    /// A bucket whose calls are repeated for `timeout`, and no longer than `stop_timeout` after the
    /// program was told to stop. If the bucket exists, it is used as it is, whatever `config` says.
    #[must_use]
    pub fn new(
        nats: &Connection,
        config: Config,
        timeout: Duration,
        stop_timeout: Duration,
    ) -> Self {
        let (stop, overdue) = (nats.stop().clone(), CancellationToken::new());
        let nats = nats.with_stop(overdue.clone());
        tokio::spawn(async move {
            stop.cancelled().await;
            sleep(stop_timeout).await;
            overdue.cancel();
        });
        Self { jetstream: jetstream(&nats), nats, config, timeout, stop_timeout }
    }

    /// The last entry of a key, with its revision; a delete marker, too.
    ///
    /// # Errors
    ///
    /// Those of [`retry`].
    pub async fn entry(&self, key: &str) -> Result<Option<Entry>> {
        self.retry(async || Ok(self.open().await?.store.entry(key).await?)).await
    }

    /// Writes a value, and returns its revision.
    ///
    /// # Errors
    ///
    /// Those of [`retry`].
    pub async fn put(&self, key: &str, value: String) -> Result<u64> {
        self.write(key, value, None).await
    }

    /// Writes a value if `revision` is still the last one of the key (0: if there is none), and
    /// returns the new revision.
    ///
    /// # Errors
    ///
    /// One that [`is_wrong_revision`] recognises if another program wrote in between. Those of
    /// [`retry`].
    pub async fn update(&self, key: &str, value: String, revision: u64) -> Result<u64> {
        self.write(key, value, Some(revision)).await
    }

    async fn write(&self, key: &str, value: String, revision: Option<u64>) -> Result<u64> {
        // If the acknowledgement is lost, the write may be stored or not. All attempts have the same
        // message id, and nats-server acknowledges a repetition without storing it. The library's
        // `put` and `update` have no message id.
        let id = new_message_id();
        let mut message = PublishMessage::build().payload(value.into()).message_id(&id);
        if let Some(revision) = revision {
            message = message.expected_last_subject_sequence(revision);
        }
        self.retry(async || {
            let Opened { store, put_prefix } = self.open().await?;
            let to = format!("{put_prefix}{key}");
            let publish = self.jetstream.send_publish(to, message.clone()).await?;
            match publish.await {
                Ok(ack) => Ok(ack.sequence),
                // The server checks the revision before the message id. So the write in between may
                // be an earlier attempt of this one.
                Err(error) if is_wrong_revision(&error) => {
                    let next = revision.unwrap_or_default() + 1;
                    let subject = format!("{}{key}", store.prefix);
                    match store.stream.get_first_raw_message_by_subject(&subject, next).await {
                        Ok(found) if message_id(&found.headers) == Some(&id) => Ok(found.sequence),
                        Err(silent) if failure(&silent) == Failure::Unanswered => {
                            Err(silent.into())
                        }
                        _ => Err(error.into()),
                    }
                }
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// Opens the bucket, or creates it. If it is a mirror, opens the bucket that it copies.
    async fn open(&self) -> Result<Opened> {
        let store = self.open_here().await?;
        let Some(mirror) = &store.stream.cached_info().config.mirror else {
            let put_prefix = store.prefix.clone();
            return Ok(Opened { store, put_prefix });
        };
        let name = mirror.name.strip_prefix("KV_").unwrap_or(&mirror.name);
        // The JetStream API of another domain also takes writes to its buckets.
        let api = mirror.external.as_ref().map(|external| external.api_prefix.as_str());
        let store = match jetstream_at(&self.nats, api).get_key_value(name).await {
            // With the line to it down, no server answers for its JetStream.
            Err(error) if [Failure::Off, Failure::Unanswered].contains(&failure(&error)) => {
                let why = format!("{name} is a mirror here, and its origin does not answer");
                return Err(io::Error::new(io::ErrorKind::TimedOut, why).into());
            }
            opened => opened?,
        };
        let put_prefix = api.map_or_else(String::new, |api| format!("{api}.")) + &store.prefix;
        Ok(Opened { store, put_prefix })
    }

    async fn open_here(&self) -> Result<Store> {
        let name = &self.config.bucket;
        match self.jetstream.get_key_value(name).await {
            Err(error) if failure(&error) == Failure::Missing => {}
            opened => return Ok(opened?),
        }
        match self.jetstream.create_key_value(self.config.clone()).await {
            Ok(bucket) => {
                tracing::info!("created the bucket {name}");
                Ok(bucket)
            }
            // Another program may have created it meanwhile, with other settings.
            Err(error) => self.jetstream.get_key_value(name).await.or(Err(error.into())),
        }
    }

    async fn retry<T>(&self, call: impl AsyncFn() -> Result<T>) -> Result<T> {
        // The bucket can disappear between two calls. Then it is created again.
        let retry_on = [Failure::Unanswered, Failure::Missing];
        match retry(&self.nats, &retry_on, self.timeout, call).await {
            Err(error) if error.is::<Stopped>() => {
                bail!(
                    "nats-server confirmed no change within {:?} of the signal",
                    self.stop_timeout
                )
            }
            result => result,
        }
    }
}

/// A bucket that takes writes.
struct Opened {
    store: Store,
    /// What stands before a key in the subject of a write.
    put_prefix: String,
}

/// Whether nats-server refused a write because another program wrote after the given revision.
#[must_use]
pub fn is_wrong_revision(error: &(dyn Error + 'static)) -> bool {
    let code = code(error);
    code == Some(ErrorCode::STREAM_WRONG_LAST_SEQUENCE)
        || code == Some(ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)
}
