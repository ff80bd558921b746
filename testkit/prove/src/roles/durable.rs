//! A stream and its durable consumer, seen from outside.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_nats::Client;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, stream};
use futures::StreamExt;
use serde_json::Value;
use testkit::Server;

use crate::Seen;
use crate::instance::Instance;

/// A stream, and the durable consumer that belongs to it.
pub(super) struct Durable {
    pub(super) stream: &'static str,
    pub(super) subjects: &'static str,
    pub(super) consumer: &'static str,
}

impl Durable {
    /// The stream's settings, on disk: it survives nats-server.
    pub(super) fn settings(&self) -> stream::Config {
        let subjects = vec![self.subjects.into()];
        stream::Config { name: self.stream.into(), subjects, ..Default::default() }
    }

    /// What monitoring says of the stream; null if there is none.
    pub(super) fn stream_info(&self, server: &Server) -> Result<Value> {
        let jsz = server.monitor("/jsz?consumers=1&config=1")?;
        let streams = jsz["account_details"][0]["stream_detail"].as_array();
        let found = streams.into_iter().flatten().find(|stream| stream["name"] == self.stream);
        Ok(found.cloned().unwrap_or_default())
    }

    /// What monitoring says of the consumer; null if there is none.
    pub(super) fn consumer_info(&self, server: &Server) -> Result<Value> {
        let stream = self.stream_info(server)?;
        let consumers = stream["consumer_detail"].as_array();
        let found = consumers.into_iter().flatten().find(|it| it["name"] == self.consumer);
        Ok(found.cloned().unwrap_or_default())
    }

    /// Whether the consumer is there, and everything is delivered and acknowledged.
    pub(super) fn is_over(&self, server: &Server) -> Result<bool> {
        let info = self.consumer_info(server)?;
        let left = number(&info, "/num_ack_pending") + number(&info, "/num_pending");
        Ok(!info.is_null() && left == 0)
    }

    /// Waits until these ids are handled, or never will be: the program has ended, nats-server has
    /// nothing left for it, or the time is up. Returns how many are not handled, and how many more
    /// than once.
    pub(super) fn handled(
        &self,
        server: &Server,
        program: &mut Instance,
        seen: &Seen,
        ids: &[String],
        limit: Duration,
    ) -> Result<(usize, usize)> {
        let (begun, mut over_since) = (Instant::now(), None);
        loop {
            let is_over = self.is_over(server)? || program.end()?.is_some();
            over_since = if is_over { over_since.or(Some(Instant::now())) } else { None };
            // The last lines need a moment to be read.
            let is_settled =
                over_since.is_some_and(|since| since.elapsed() > Duration::from_secs(1));
            let counts = seen.missing_and_repeated(ids.iter().map(String::as_str));
            if counts.0 == 0 || is_settled || begun.elapsed() > limit {
                return Ok(counts);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until no message is unacknowledged. Returns how many are nevertheless, and how many
    /// of those that are were delivered more than once.
    pub(super) fn unacknowledged_and_redelivered(
        &self,
        server: &Server,
        limit: Duration,
    ) -> Result<(u64, u64)> {
        let begun = Instant::now();
        loop {
            let info = self.consumer_info(server)?;
            let counts = (number(&info, "/num_ack_pending"), number(&info, "/num_redelivered"));
            if counts == (0, 0) || begun.elapsed() > limit {
                return Ok(counts);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The messages that the stream holds, in its order; null for one that is not JSON.
    pub(super) async fn stored(&self, nats: &Client) -> Result<Vec<Value>> {
        let stream = jetstream::new(nats.clone()).get_stream(self.stream).await?;
        let count = usize::try_from(stream.cached_info().state.messages)?;
        let config = pull::Config { ack_policy: AckPolicy::None, ..Default::default() };
        let mut messages = stream.create_consumer(config).await?.messages().await?.take(count);
        let mut stored = Vec::with_capacity(count);
        while let Some(message) = tokio::time::timeout(Duration::from_secs(20), messages.next())
            .await
            .context("no message")?
        {
            stored.push(serde_json::from_slice(&message?.payload).unwrap_or_default());
        }
        Ok(stored)
    }
}

/// A number in what monitoring says.
pub(super) fn number(info: &Value, pointer: &str) -> u64 {
    info.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}
