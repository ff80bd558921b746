//! What this page itself asks nats-server and hears from it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use futures::StreamExt;
use futures::future::ready;
use serde_json::Value;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::board::Board;
use crate::cast::PLANS;

/// The name of the connection.
const NAME: &str = "live";
/// How often nats-server is asked about streams.
const ASK: Duration = Duration::from_millis(500);
/// Time that it has to answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Time that it has to answer if something is to be deleted: its disk may be slow.
const PATIENCE: Duration = Duration::from_secs(20);
/// Strangers publish so often, so many messages each time. A message of theirs has to come between
/// two lines that `hello` sends together.
const STRANGERS: (Duration, usize) = (Duration::from_millis(1), 10);

/// Subjects that can be listened to without changing what the programs see.
const LISTEN: [(&str, &str); 3] = [
    ("kv", "$KV.configs_playgrnd.>"),
    ("mqtt-bridge", "device.status.*"),
    ("jobs", "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.jobs.*"),
];
/// Subjects that are listened to in addition if the lines of the programs are not seen. Replies, and
/// not `math.sum`: a subscription there would keep nats-server from telling a requester that there
/// is no server.
const LISTEN_MORE: [(&str, &str); 6] = [
    ("hello", "hello"),
    ("queue-groups", "logs.process"),
    ("rpc", "_INBOX.>"),
    ("jetstream", "orders.>"),
    ("mqtt-bridge", "device.temp"),
    ("jobs", "jobs.new.>"),
];

/// A connection of this page's own to nats-server.
#[derive(Debug)]
pub struct Observer {
    nats: Client,
    /// The task that publishes as strangers, while it runs.
    strangers: Mutex<Option<AbortHandle>>,
}

impl Observer {
    /// Connects to `url`, listens and asks. If it `is_alone`, without the lines of programs, it
    /// listens to more, and fails if the server is not there.
    ///
    /// # Errors
    ///
    /// If it cannot connect or subscribe.
    pub async fn start(url: &str, is_alone: bool, board: &Arc<Board>) -> Result<Arc<Self>> {
        let address: ServerAddr = url.parse().context("this is no URL of a server")?;
        let pause = |attempt| Duration::from_millis(if attempt <= 1 { 0 } else { 100 });
        let mut options = ConnectOptions::new().name(NAME).reconnect_delay_callback(pause);
        // The library does not take them from the URL.
        if let Some(user) = address.username() {
            let password = address.password().unwrap_or_default();
            options = options.user_and_password(user.into(), password.into());
        }
        if is_alone {
            let board = Arc::clone(board);
            options = options.event_callback(move |event| {
                match event {
                    Event::Connected => board.server(true, "runs"),
                    Event::Disconnected => board.server(false, "is away"),
                    _ => {}
                }
                ready(())
            });
        }
        let nats = options.connect(address).await.context("cannot connect")?;
        let observer = Arc::new(Self { nats, strangers: Mutex::default() });
        let more = if is_alone { &LISTEN_MORE[..] } else { &[] };
        for (scene, subject) in LISTEN.iter().chain(more) {
            observer.listen(scene, subject, board).await?;
        }
        tokio::spawn(ask(observer.nats.clone(), Arc::clone(board)));
        Ok(observer)
    }

    async fn listen(&self, scene: &'static str, subject: &str, board: &Arc<Board>) -> Result<()> {
        let mut messages = self.nats.subscribe(subject.to_owned()).await?;
        let board = Arc::clone(board);
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                board.with(scene, |scene| {
                    scene.play.seen(&mut scene.desk, &message.subject, &message.payload);
                });
            }
        });
        Ok(())
    }

    /// Publishes a message that is meant to be bad, and waits until nats-server has it.
    ///
    /// # Errors
    ///
    /// If nats-server is away.
    pub async fn publish_bad(&self, scene: &str, subject: &str, board: &Board) -> Result<()> {
        let publish = async {
            if scene == "rpc" {
                // With an inbox for the error reply.
                let inbox = self.nats.new_inbox();
                let publish =
                    self.nats.publish_with_reply(subject.to_owned(), inbox, "not json".into());
                publish.await?;
            } else {
                self.nats.publish(subject.to_owned(), "not json".into()).await?;
            }
            anyhow::Ok(self.nats.flush().await?)
        };
        timeout(TIMEOUT, publish).await.context("nats-server is away")??;
        board.with(scene, |scene| scene.play.published(&mut scene.desk));
        Ok(())
    }

    /// Deletes the stream of orders.
    ///
    /// # Errors
    ///
    /// If nats-server does not answer.
    pub async fn delete_orders(&self, board: &Board) -> Result<()> {
        board.with("jetstream", |scene| {
            scene.play.answered(&mut scene.desk, "deleted", &Value::Null);
        });
        self.request("$JS.API.STREAM.DELETE.playgrnd_stream").await.map(|_| ())
    }

    /// Deletes the consumers of the job workers. The jobs stay in the stream.
    ///
    /// # Errors
    ///
    /// If nats-server does not answer.
    pub async fn delete_job_consumers(&self) -> Result<()> {
        let names = self.request("$JS.API.CONSUMER.NAMES.jobs").await?;
        for name in names["consumers"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.request(&format!("$JS.API.CONSUMER.DELETE.jobs.{name}")).await?;
        }
        Ok(())
    }

    async fn request(&self, subject: &str) -> Result<Value> {
        let answer = timeout(PATIENCE, self.nats.request(subject.to_owned(), "".into())).await;
        let answer = answer.context("nats-server is away")??;
        Ok(serde_json::from_slice(&answer.payload)?)
    }

    /// Lets strangers publish on `hello`, or no more. Returns whether they do.
    pub fn toggle_strangers(self: &Arc<Self>, board: &Arc<Board>) -> bool {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = strangers.take() {
            task.abort();
            return false;
        }
        let (observer, board) = (Arc::clone(self), Arc::clone(board));
        let task = tokio::spawn(async move {
            let mut ticks = interval(STRANGERS.0);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                for _ in 0..STRANGERS.1 {
                    let publish = async {
                        observer.nats.publish("hello", "Is this thing on?".into()).await?;
                        // Each in a packet of its own.
                        anyhow::Ok(observer.nats.flush().await?)
                    };
                    if matches!(timeout(TIMEOUT, publish).await, Ok(Ok(()))) {
                        board.with("hello", |scene| scene.play.published(&mut scene.desk));
                    }
                }
            }
        });
        *strangers = Some(task.abort_handle());
        true
    }
}

/// Asks the questions of all scenes, again and again.
async fn ask(nats: Client, board: Arc<Board>) {
    let mut questions = HashMap::new();
    for plan in &PLANS {
        board.with(plan.id, |scene| {
            questions.insert(plan.id, scene.play.questions());
        });
    }
    loop {
        for (scene, questions) in &questions {
            for (subject, payload) in questions {
                let answer = timeout(TIMEOUT, nats.request(*subject, (*payload).into())).await;
                if let Ok(Ok(answer)) = answer
                    && let Ok(answer) = serde_json::from_slice(&answer.payload)
                {
                    board.with(scene, |scene| {
                        scene.play.answered(&mut scene.desk, subject, &answer);
                    });
                }
            }
        }
        sleep(ASK).await;
    }
}
