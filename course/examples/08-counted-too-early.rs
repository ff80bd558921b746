//! 08 Counted too early
//!
//! A shop stores its orders in a stream, and prints a line for each. In
//! March the disk of nats-server was full. The shop went on to print that
//! each order was stored, with exit code 0; after the eighth, none was.
//!
//! Make it report only orders that nats-server has stored, and end with an
//! error if it refuses one.

use async_nats::jetstream::{self, stream};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let client = async_nats::connect(url).await?;
    let jetstream = jetstream::new(client.clone());
    let mut args = std::env::args();
    let count = args.find_map(|arg| arg.parse().ok()).unwrap_or(10);

    let config = stream::Config {
        name: "playgrnd_stream".into(),
        subjects: vec!["orders.>".into()],
        ..Default::default()
    };
    jetstream.get_or_create_stream(config).await?;

    for number in 1..=count {
        let id = format!("order-{}-{number:06}", std::process::id());
        let order = json!({ "order_id": id, "item": "mouse", "quantity": 1 });
        let order = order.to_string();
        jetstream.publish("orders.created", order.into()).await?;
        println!("{id} is stored");
    }
    client.flush().await?;
    Ok(())
}
