//! 07 No answer
//!
//! A client asks for a sum. If there is none, it says "no sum". At night an
//! operator has to find out why, and cannot: no server running, a server
//! that is too slow, and a server that refuses the numbers look alike.
//!
//! Make it say which of the three happened, in words of its own for each,
//! and what the server says when it refuses.

use std::time::Duration;

use async_nats::{Request, RequestErrorKind};
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
    let reply = reply.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => "no server",
        RequestErrorKind::TimedOut => "no reply in time",
        _ => "the request cannot be sent",
    })?;
    // A refusal is a reply like any other: only its headers tell.
    if let Some(headers) = &reply.headers
        && let Some(reason) = headers.get("Nats-Service-Error")
    {
        return Err(format!("the server refuses: {reason}").into());
    }
    let reply: Value = serde_json::from_slice(&reply.payload)?;
    println!("{x} + {y} = {}", reply["result"]);
    Ok(())
}
