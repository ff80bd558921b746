//! 07 No answer
//!
//! A client asks for a sum. If there is none, it says "no sum". At night an
//! operator has to find out why, and cannot: no server running, a server
//! that is too slow, and a server that refuses the numbers look alike.
//!
//! Make it say which of the three happened, in words of its own for each,
//! and what the server says when it refuses.

use std::time::Duration;

use async_nats::Request;
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let client = async_nats::connect(url).await?;
    let mut args = std::env::args().skip(1);
    let x: i64 = args.next().unwrap_or("17".into()).parse()?;
    let y: i64 = args.next().unwrap_or("25".into()).parse()?;

    let request = Request::new()
        .payload(json!({ "x": x, "y": y }).to_string().into())
        .timeout(Some(Duration::from_secs(3)));
    let reply = client.send_request("math.sum", request).await;
    let Ok(reply) = reply else { return Err("no sum".into()) };
    let Ok(reply) = serde_json::from_slice::<Value>(&reply.payload) else {
        return Err("no sum".into());
    };
    println!("{x} + {y} = {}", reply["result"]);
    Ok(())
}
