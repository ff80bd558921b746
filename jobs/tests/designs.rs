//! Designs that people build, and what is wrong with them. The README says it; these tests show it
//! with nats-server alone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, ensure};
use async_nats::jetstream::consumer::{PriorityPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{self, RetentionPolicy, Stream};
use async_nats::jetstream::{self, AckKind, Message};
use async_nats::{Client, Subscriber};
use futures::StreamExt;
use serde_json::Value;
use testkit::Server;
use tokio::time::timeout;

const MOMENT: Duration = Duration::from_secs(2);

/// A work queue with a consumer, and its advisories.
struct Raw {
    stream: Stream,
    consumer: PullConsumer,
    advisories: Subscriber,
    client: Client,
    server: Server,
}

impl Raw {
    async fn start(config: pull::Config) -> Result<Self> {
        let server = Server::start()?;
        let client = async_nats::connect(server.url()).await?;
        let advisories = client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.>").await?;
        let queue = stream::Config {
            name: "queue".into(),
            subjects: vec!["queue.>".into()],
            retention: RetentionPolicy::WorkQueue,
            ..Default::default()
        };
        let stream = jetstream::new(client.clone()).create_stream(queue).await?;
        let config = pull::Config { durable_name: Some("workers".into()), ..config };
        let consumer = stream.create_consumer(config).await?;
        Ok(Self { stream, consumer, advisories, client, server })
    }

    async fn publish(&self, text: &str) -> Result<()> {
        let jetstream = jetstream::new(self.client.clone());
        jetstream.publish("queue.job", text.to_owned().into()).await?.await?;
        Ok(())
    }

    /// The next message, if one comes within a time.
    async fn next(&self, within: Duration) -> Result<Option<Message>> {
        let mut batch = self.consumer.batch().max_messages(1).expires(within).messages().await?;
        batch.next().await.transpose().map_err(Error::from_boxed)
    }

    async fn nak(&self, delay: Option<Duration>) -> Result<()> {
        let message = self.next(MOMENT * 5).await?.context("no message")?;
        message.ack_with(AckKind::Nak(delay)).await.map_err(Error::from_boxed)?;
        Ok(self.client.flush().await?)
    }

    /// The next advisory of this kind, if one comes within a moment.
    async fn advisory(&mut self, kind: &str) -> Result<Option<Value>> {
        let advisory = async {
            loop {
                let message = self.advisories.next().await.context("no subscription")?;
                if message.subject.contains(kind) {
                    return anyhow::Ok(serde_json::from_slice(&message.payload)?);
                }
            }
        };
        timeout(MOMENT, advisory).await.ok().transpose()
    }
}

/// `max_deliver` as the limit, and its advisory as a dead-letter queue.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_at_max_deliver_stays_for_ever_and_its_advisory_waits_until_a_program_pulls()
-> Result<()> {
    let mut queue =
        Raw::start(pull::Config { max_deliver: 2, ack_wait: MOMENT / 2, ..Default::default() })
            .await?;
    queue.publish("precious").await?;
    queue.next(MOMENT).await?.context("no first delivery")?;
    queue.next(MOMENT * 3).await?.context("no second delivery")?;
    // The worker dies here, so no program pulls.
    ensure!(queue.advisory("MAX_DELIVERIES").await?.is_none(), "it came without a pull");
    ensure!(queue.next(MOMENT).await?.is_none(), "it was delivered a third time");
    let advisory = queue.advisory("MAX_DELIVERIES").await?.context("no advisory after a pull")?;
    assert_eq!(advisory["stream_seq"], 1);
    assert!(!advisory.to_string().contains("precious"), "{advisory}");

    assert_eq!(queue.stream.get_info().await?.state.messages, 1);
    let raised = pull::Config {
        durable_name: Some("workers".into()),
        max_deliver: 10,
        ack_wait: MOMENT / 2,
        ..Default::default()
    };
    queue.stream.update_consumer(raised).await?;
    ensure!(queue.next(MOMENT).await?.is_none(), "it is offered after the limit was raised");
    Ok(())
}

/// `Term`, and its advisory as a dead-letter queue.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_message_is_deleted_and_its_advisory_has_no_payload() -> Result<()> {
    let mut queue = Raw::start(pull::Config::default()).await?;
    queue.publish("precious").await?;
    let message = queue.next(MOMENT).await?.context("no message")?;
    message.ack_with(AckKind::Term).await.map_err(Error::from_boxed)?;
    let advisory = queue.advisory("MSG_TERMINATED").await?.context("no advisory")?;
    assert!(!advisory.to_string().contains("precious"), "{advisory}");
    assert_eq!(queue.stream.get_info().await?.state.messages, 0);
    assert!(queue.stream.get_raw_message(1).await.is_err());
    Ok(())
}

/// The list of `backoff` beside a nak with its own delay.
#[tokio::test(flavor = "multi_thread")]
async fn backoff_distorts_the_delay_of_a_nak() -> Result<()> {
    let half = Duration::from_millis(500);
    let plain = pull::Config { max_deliver: -1, ..Default::default() };
    let distorted = pull::Config {
        max_deliver: 10,
        backoff: vec![half, 5 * half, 9 * half],
        ..Default::default()
    };
    let mut pauses = Vec::new();
    for config in [plain, distorted] {
        let queue = Raw::start(config).await?;
        queue.publish("job").await?;
        queue.nak(Some(half)).await?;
        let mut of_config = Vec::new();
        for _ in 0..3 {
            let since = Instant::now();
            queue.nak(Some(half)).await?;
            of_config.push(since.elapsed().as_secs_f64());
        }
        pauses.push(of_config);
    }
    let [plain, distorted] = &pauses[..] else { anyhow::bail!("two are measured") };
    // The same delay each time, unless the list is there too.
    ensure!(plain.iter().all(|pause| *pause < 1.5), "{plain:?}");
    ensure!(distorted[1] > 2.0 && distorted[2] > 4.0, "{distorted:?}");
    Ok(())
}

/// A pinned consumer for order, with more than one message in flight.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_pinned_program_dies_later_messages_come_before_its_own() -> Result<()> {
    let config = pull::Config {
        ack_wait: 3 * MOMENT,
        priority_policy: PriorityPolicy::PinnedClient,
        priority_groups: vec!["all".into()],
        priority_timeout: MOMENT / 2,
        ..Default::default()
    };
    let queue = Raw::start(config).await?;
    queue.publish("1").await?;
    queue.publish("2").await?;
    let client = async_nats::connect(queue.server.url()).await?;
    let stream = jetstream::new(client.clone()).get_stream("queue").await?;
    let pinned: PullConsumer = stream.get_consumer("workers").await.map_err(Error::from_boxed)?;
    let pinned = pinned.stream().group("all").max_messages_per_batch(2);
    let mut messages = pinned.messages().await?;
    for expected in ["1", "2"] {
        let message = messages.next().await.context("no message")??;
        assert_eq!(&message.payload[..], expected.as_bytes());
    }
    // It dies with both unacknowledged.
    client.drain().await?;
    queue.server.monitor_until("/connz", |connz| connz["num_connections"] == 1)?;
    drop(messages);
    queue.publish("3").await?;
    queue.publish("4").await?;
    let standby = queue.consumer.stream().group("all").max_messages_per_batch(1);
    let mut messages = standby.messages().await?;
    let mut order = Vec::new();
    while order.len() < 4 {
        let message = messages.next().await.context("no message")??;
        order.push(String::from_utf8_lossy(&message.payload).into_owned());
        message.ack().await.map_err(Error::from_boxed)?;
    }
    // Those of the dead program come when `ack_wait` is over, in any order.
    assert_eq!(order[..2], ["3", "4"], "{order:?}");
    Ok(())
}

/// A consumer without a filter for a second kind of worker.
#[tokio::test(flavor = "multi_thread")]
async fn a_work_queue_refuses_a_second_consumer_for_the_same_subjects() -> Result<()> {
    let queue = Raw::start(pull::Config::default()).await?;
    for filter in ["", "queue.job"] {
        let config = pull::Config {
            durable_name: Some("others".into()),
            filter_subject: filter.into(),
            ..Default::default()
        };
        let error = queue.stream.create_consumer(config).await.err().context("created")?;
        let error = error.to_string();
        ensure!(error.contains("workqueue stream"), "{error}");
    }
    Ok(())
}
