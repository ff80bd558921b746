//! Publishes a message that is no order on `orders.created`: see what a consumer does with it.
//!
//! ```sh
//! cargo run -p jetstream --example malformed-order
//! ```

use async_nats::jetstream;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("nats://localhost:4222".into());
    let jetstream = jetstream::new(async_nats::connect(url).await?);
    jetstream.publish("orders.created", "no order".into()).await?.await?;
    Ok(())
}
