//! The first version of `math-service`: `math.sum` as an endpoint of the client library's Services
//! API.
//!
//! ```sh
//! cargo run -p rpc --example service-api                 # terminal 1
//! cargo run -p rpc --example first-math-client -- 17 25  # terminal 2
//! ```
//!
//! What it does not survive:
//!
//! - Ctrl-C: `Service::stop` forgets the endpoint before nats-server knows of it. The requests that
//!   are on their way to it at that moment get no reply, 64 of 64 in the test.
//! - A message on `math.sum` that names no reply subject: `respond` fails, and that ends it.
//! - A bad request with the reply subject `$JS.API.STREAM.DELETE.orders`: the error reply deletes the
//!   stream `orders`.
//!
//! The service, src/bin/math-service.rs, survives both.

use std::io::{Write, stdout};

use async_nats::service::{ServiceExt, error::Error};
use futures::StreamExt;
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("nats://localhost:4222".into());
    let nats = async_nats::connect(url).await?;
    let service = nats.service_builder().queue_group("math_servers");
    let service = service.start("math", "1.0.0").await?;
    let endpoint = service.endpoint_builder().name("sum");
    let mut requests = endpoint.add("math.sum").await?;
    nats.flush().await?;
    writeln!(stdout(), "waiting for requests on math.sum")?;

    tokio::spawn(async move {
        tokio::signal::ctrl_c().await?;
        service.stop().await
    });
    while let Some(request) = requests.next().await {
        let sum = add(&request.message.payload).map(Into::into);
        request.respond(sum).await?;
    }
    nats.flush().await?;
    Ok(())
}

fn add(request: &[u8]) -> Result<String, Error> {
    let numbers: Value = serde_json::from_slice(request).unwrap_or_default();
    let (Some(x), Some(y)) = (numbers["x"].as_i64(), numbers["y"].as_i64()) else {
        let status = "expected two whole numbers, x and y".to_owned();
        return Err(Error { status, code: 400 });
    };
    Ok(json!({ "result": x + y }).to_string())
}
