//! The Services API: what a service says about itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use async_nats::Subscriber;
use async_nats::service::{Info, PingResponse, endpoint, error::Error};
use common::Connection;
use futures::StreamExt;
use futures::stream::{SelectAll, select_all};
use serde_json::{Value, json};

use crate::{QUEUE_GROUP, SUBJECT};

/// A service with one endpoint: its name, and how often it was called.
///
/// The Services API is a convention, not a part of nats-server: to every tool and client library a
/// program is a service if it subscribes to `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`, and replies
/// with these JSON documents. `async_nats::service` does all of it, including the requests. But it
/// loses requests when it leaves a queue group, so here the program keeps its own subscription.
#[derive(Debug)]
pub struct Service {
    info: Info,
    started: SystemTime,
    stats: Mutex<endpoint::Stats>,
}

impl Service {
    /// Starts to answer `$SRV` requests as the service `math`, one instance of possibly many.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn start(nats: &Connection) -> Result<Arc<Self>> {
        let endpoint = endpoint::Info {
            name: "sum".into(),
            subject: SUBJECT.into(),
            queue_group: QUEUE_GROUP.into(),
            ..Default::default()
        };
        let service = Arc::new(Self {
            stats: Mutex::new(endpoint::Stats {
                name: endpoint.name.clone(),
                subject: endpoint.subject.clone(),
                queue_group: endpoint.queue_group.clone(),
                // For a service's own figures. Clients in some languages insist on an object.
                data: Some(json!({})),
                ..Default::default()
            }),
            started: SystemTime::now(),
            info: Info {
                kind: "io.nats.micro.v1.info_response".into(),
                name: "math".into(),
                // The unique part of a new inbox.
                id: nats.new_inbox().split('.').skip(1).collect(),
                description: "Adds two whole numbers".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                metadata: [].into(),
                endpoints: vec![endpoint],
            },
        });
        // Requests to all services, to those of this name, to this instance. There is no queue
        // group: each instance answers.
        let Info { name, id, .. } = &service.info;
        let requests = select_all([
            nats.subscribe("$SRV.*").await?,
            nats.subscribe(format!("$SRV.*.{name}")).await?,
            nats.subscribe(format!("$SRV.*.{name}.{id}")).await?,
        ]);
        let describing = Arc::clone(&service);
        let nats = nats.clone();
        tokio::spawn(async move { describing.describe(&nats, requests).await });
        Ok(service)
    }

    /// Counts a request to the endpoint.
    pub fn count(&self, took: Duration, error: Option<&Error>) {
        let stats = &mut *self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.requests += 1;
        stats.processing_time += took;
        if let Some(error) = error {
            stats.errors += 1;
            stats.last_error = Some(error.clone());
        }
    }

    async fn describe(&self, nats: &Connection, mut requests: SelectAll<Subscriber>) {
        while let Some(request) = requests.next().await {
            let Some(reply_to) = crate::reply_subject(&request) else {
                continue;
            };
            let document = match request.subject.split('.').nth(1) {
                Some("PING") => json!(self.ping()),
                Some("INFO") => json!(self.info),
                Some("STATS") => self.stats(),
                _ => continue,
            };
            if let Err(error) = nats.publish(reply_to, document.to_string().into()).await {
                tracing::warn!("cannot answer {}: {error}", request.subject);
            }
        }
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

    /// The library's type for this document lacks the metadata.
    fn stats(&self) -> Value {
        let mut endpoint = self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let requests = u32::try_from(endpoint.requests).unwrap_or(u32::MAX);
        endpoint.average_processing_time = endpoint.processing_time / requests.max(1);
        json!({
            "type": "io.nats.micro.v1.stats_response",
            "name": self.info.name,
            "id": self.info.id,
            "version": self.info.version,
            "metadata": self.info.metadata,
            // Clients in some languages read at most six digits of a second.
            "started": humantime::format_rfc3339_micros(self.started).to_string(),
            "endpoints": [endpoint],
        })
    }
}
