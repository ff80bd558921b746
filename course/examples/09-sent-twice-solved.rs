//! 09 Sent twice
//!
//! The shop has learnt to wait for the acknowledgement, and to send an order
//! again if none comes. After each restart of nats-server some customers get
//! two keyboards: their order was stored, only the acknowledgement was lost,
//! and so it was stored a second time.
//!
//! Let nats-server recognise an order that it has already.

use std::time::Duration;

use async_nats::jetstream::{self, message::PublishMessage, stream};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let client = async_nats::connect(url).await?;
    let mut jetstream = jetstream::new(client);
    let mut args = std::env::args();
    let count = args.find_map(|arg| arg.parse().ok()).unwrap_or(10);

    let config = stream::Config {
        name: "playgrnd_stream".into(),
        subjects: vec!["orders.>".into()],
        ..Default::default()
    };
    jetstream.get_or_create_stream(config).await?;
    jetstream.set_timeout(Duration::from_millis(500));

    for number in 1..=count {
        let id = format!("order-{}-{number:06}", std::process::id());
        let order = json!({ "order_id": id, "item": "mouse", "quantity": 1 });
        let order = order.to_string();
        loop {
            // nats-server drops a message whose id it has already stored.
            let message = PublishMessage::build()
                .payload(order.clone().into())
                .message_id(&id);
            let sent = jetstream.send_publish("orders.created", message);
            if let Ok(acknowledgement) = sent.await
                && acknowledgement.await.is_ok()
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        println!("{id} is stored");
    }
    Ok(())
}
