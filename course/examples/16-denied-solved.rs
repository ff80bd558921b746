//! 16 Denied
//!
//! The nightly job from the first exercise flushes by now. After a change of
//! passwords its user may no longer publish log entries. The job says "sent
//! 30 messages", with exit code 0, and the log is empty again.
//!
//! Let the job notice that nats-server has refused, and end with an error.

use async_nats::{ConnectOptions, Event};
use serde_json::json;
use tokio::time::{Duration, timeout};

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let (refused, mut refusals) = tokio::sync::mpsc::unbounded_channel();
    let options = ConnectOptions::new().event_callback(move |event| {
        if let Event::ServerError(error) = event {
            let _ = refused.send(error);
        }
        async {}
    });
    let client = options.connect(url).await?;

    for id in 1..=30 {
        let log = json!({ "id": id, "level": "INFO", "message": "job done" });
        client.publish("logs.process", log.to_string().into()).await?;
    }
    // nats-server has seen all entries when it has answered this one.
    let _ = client.request("no.such.subject", "".into()).await;
    // The library reports events in a task of its own, a moment later.
    let moment = Duration::from_millis(100);
    if let Ok(Some(error)) = timeout(moment, refusals.recv()).await {
        return Err(error.into());
    }

    println!("sent 30 messages");
    Ok(())
}
