//! The Services API: what a service says about itself.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use async_nats::service::{Info, PingResponse, endpoint, error::Error};
use async_nats::{Client, Subscriber};
use futures::StreamExt;
use futures::stream::{SelectAll, select_all};
use serde_json::{Value, json};

use crate::{QUEUE_GROUP, SUBJECT};

/// A service with one endpoint: its name, and how often it was called.
///
/// The Services API is a convention, not a part of the server. Whoever subscribes to `$SRV.PING`,
/// `$SRV.INFO` and `$SRV.STATS` and answers with these JSON documents is a service, to every tool
/// and client library. `async_nats::service` does all of it, including the requests; but it
/// cannot leave a queue group without losing some, so here the requests stay with the program.
#[derive(Debug)]
pub struct Service {
    info: Info,
    started: SystemTime,
    stats: RefCell<endpoint::Stats>,
}

impl Service {
    /// The service `math`, one instance of possibly many.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        // Whatever is unique.
        let inbox = client.new_inbox();
        let endpoint = endpoint::Info {
            name: "sum".into(),
            subject: SUBJECT.into(),
            queue_group: QUEUE_GROUP.into(),
            ..Default::default()
        };
        Self {
            stats: RefCell::new(endpoint::Stats {
                name: endpoint.name.clone(),
                subject: endpoint.subject.clone(),
                queue_group: endpoint.queue_group.clone(),
                // Room for figures of one's own. Clients in some languages insist on it.
                data: Some(json!({})),
                ..Default::default()
            }),
            started: SystemTime::now(),
            info: Info {
                kind: "io.nats.micro.v1.info_response".into(),
                name: "math".into(),
                id: inbox.trim_start_matches("_INBOX.").into(),
                description: "Adds two whole numbers".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                metadata: [].into(),
                endpoints: vec![endpoint],
            },
        }
    }

    /// Subscribes to what is asked of all services, of those of this name, and of this instance.
    /// No queue group: everyone is to answer.
    ///
    /// # Errors
    ///
    /// Where the connection is closed.
    pub async fn subscribe(&self, client: &Client) -> Result<SelectAll<Subscriber>> {
        let Info { name, id, .. } = &self.info;
        Ok(select_all([
            client.subscribe("$SRV.*").await?,
            client.subscribe(format!("$SRV.*.{name}")).await?,
            client.subscribe(format!("$SRV.*.{name}.{id}")).await?,
        ]))
    }

    /// Answers such questions for as long as they come.
    ///
    /// # Errors
    ///
    /// Where the connection is closed.
    pub async fn describe(
        &self,
        client: &Client,
        mut questions: SelectAll<Subscriber>,
    ) -> Result<()> {
        while let Some(question) = questions.next().await {
            let (Some(verb), Some(reply)) = (question.subject.split('.').nth(1), question.reply)
            else {
                continue;
            };
            let answer = match verb {
                "PING" => serde_json::to_vec(&self.ping()),
                "INFO" => serde_json::to_vec(&self.info),
                "STATS" => serde_json::to_vec(&self.stats()),
                _ => continue,
            };
            if let Err(error) = client.publish(reply, answer?.into()).await {
                tracing::warn!("cannot answer {}: {error}", question.subject);
            }
        }
        Ok(())
    }

    /// Counts a request.
    pub fn count(&self, took: Duration, error: Option<Error>) {
        let mut stats = self.stats.borrow_mut();
        stats.requests += 1;
        stats.processing_time += took;
        stats.errors += usize::from(error.is_some());
        stats.last_error = error.or_else(|| stats.last_error.take());
    }

    fn ping(&self) -> PingResponse {
        PingResponse {
            kind: "io.nats.micro.v1.ping_response".into(),
            name: self.info.name.clone(),
            id: self.info.id.clone(),
            version: self.info.version.clone(),
            metadata: self.info.metadata.clone(),
        }
    }

    /// The library's type for this lacks the metadata.
    fn stats(&self) -> Value {
        let Info {
            name,
            id,
            version,
            metadata,
            ..
        } = &self.info;
        let mut endpoint = self.stats.borrow().clone();
        let requests = u32::try_from(endpoint.requests).unwrap_or(u32::MAX);
        endpoint.average_processing_time = endpoint.processing_time / requests.max(1);
        json!({
            "type": "io.nats.micro.v1.stats_response",
            "name": name,
            "id": id,
            "version": version,
            "metadata": metadata,
            // Clients in some languages read no more than six digits of a second.
            "started": humantime::format_rfc3339_micros(self.started).to_string(),
            "endpoints": [endpoint],
        })
    }
}
