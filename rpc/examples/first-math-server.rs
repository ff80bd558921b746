//! The first version of `math-server`: answers each request on `math.sum` with the sum.
//!
//! ```sh
//! cargo run -p rpc --example first-math-server           # terminal 1
//! cargo run -p rpc --example first-math-client -- 17 25  # terminal 2
//! ```
//!
//! What it does not survive:
//!
//! - Bad requests: each ends the server that gets it, so three of them end a group of three.
//! - Ctrl-C, so every new release: the requests that it holds at that moment get no reply, 64 of 64
//!   in the test.
//!
//! The service, src/bin/math-server.rs, survives both.

use std::io::{Write, stdout};

use futures::StreamExt;
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("nats://localhost:4222".into());
    let nats = async_nats::connect(url).await?;
    // Servers that name the same queue group share the requests.
    let group = "math_servers".into();
    let mut requests = nats.queue_subscribe("math.sum", group).await?;
    nats.flush().await?;
    writeln!(stdout(), "waiting for requests on math.sum")?;

    while let Some(request) = requests.next().await {
        let numbers: Value = serde_json::from_slice(&request.payload)?;
        let x = numbers["x"].as_i64().ok_or("x is not a whole number")?;
        let y = numbers["y"].as_i64().ok_or("y is not a whole number")?;
        let sum = json!({ "result": x + y });
        if let Some(reply) = request.reply {
            nats.publish(reply, sum.to_string().into()).await?;
        }
    }
    Ok(())
}
