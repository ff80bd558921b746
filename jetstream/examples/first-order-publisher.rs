//! The first version of `order-publisher`: stores orders in a stream, and waits for each
//! acknowledgement before it publishes the next order.
//!
//! ```sh
//! cargo run -p jetstream --example first-order-publisher           # terminal 1; or: -- 100000
//! cargo run -p jetstream --example first-order-consumer            # terminal 2
//! ```
//!
//! What it does not survive:
//!
//! - A nats-server that is away for 5 s: it ends with an error, in the middle. Started again, it
//!   stores the orders from before a second time.
//! - A lost acknowledgement: the order may be stored, and sent again it is stored twice, because it
//!   has no message id.
//! - A hurry: it waits a round trip for each order.
//!
//! The service, src/bin/order-publisher.rs, survives all of this.

use std::io::{Write, stdout};
use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::jetstream::{self, stream};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("nats://localhost:4222".into());
    let jetstream = jetstream::new(async_nats::connect(url).await?);
    let count: u64 = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(10);

    let config = stream::Config {
        name: "playgrnd_stream".into(),
        subjects: vec!["orders.>".into()],
        storage: stream::StorageType::Memory,
        ..Default::default()
    };
    jetstream.get_or_create_stream(config).await?;

    let run = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    for number in 1..=count {
        let id = format!("{run:016x}-{number}");
        let order =
            json!({ "order_id": id, "item": "keyboard", "quantity": 1, "unit_price_cents": 4999 });
        let acknowledgement = jetstream.publish("orders.created", order.to_string().into());
        // The first `await` sends the order. The second one waits until nats-server has stored it.
        let stored = acknowledgement.await?.await?;
        writeln!(stdout(), "{id} stored as number {}: 1 x keyboard", stored.sequence)?;
    }
    Ok(())
}
