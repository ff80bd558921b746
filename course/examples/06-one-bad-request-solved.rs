//! 06 One bad request
//!
//! This server adds two numbers, and refuses what it cannot add: 400 for a
//! request that is wrong, 422 for a sum that does not fit into 64 bits. It
//! ran for weeks. Then a new client sent something that is not JSON, and the
//! server was gone; a minute later the second one, then the third.
//!
//! Make it refuse that request, too, and go on.

use async_nats::HeaderMap;
use futures::StreamExt;
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let client = async_nats::connect(url).await?;
    let group = "math_servers".into();
    let mut requests = client.queue_subscribe("math.sum", group).await?;

    while let Some(request) = requests.next().await {
        let Some(reply) = request.reply else { continue };
        // What is not JSON has no numbers: it is refused below.
        let numbers: Value =
            serde_json::from_slice(&request.payload).unwrap_or_default();
        let x = numbers["x"].as_i64();
        let y = numbers["y"].as_i64();
        let sum = match x.zip(y) {
            Some((x, y)) => {
                x.checked_add(y).ok_or(("422", "the sum is too big"))
            }
            None => Err(("400", "expected two whole numbers, x and y")),
        };
        match sum {
            Ok(sum) => {
                let body = json!({ "result": sum }).to_string();
                client.publish(reply, body.into()).await?;
            }
            Err((code, text)) => {
                let mut headers = HeaderMap::new();
                headers.insert("Nats-Service-Error-Code", code);
                headers.insert("Nats-Service-Error", text);
                client
                    .publish_with_headers(reply, headers, "".into())
                    .await?;
            }
        }
    }
    Ok(())
}
