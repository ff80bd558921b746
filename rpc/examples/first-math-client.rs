//! The first version of `math-client`: asks for a sum, and prints it.
//!
//! ```sh
//! cargo run -p rpc --example first-math-server           # terminal 1
//! cargo run -p rpc --example first-math-client -- 17 25  # terminal 2
//! ```
//!
//! What it does not survive:
//!
//! - A server that refuses: it does not look at the headers, fails to parse the empty body ("EOF
//!   while parsing a value"), and cannot say what is wrong with the request.
//! - A connection that is lost before the reply: it waits 10 s for a reply that cannot come.
//!
//! The service, src/bin/math-client.rs, survives both.

use std::io::{Write, stdout};

use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("nats://localhost:4222".into());
    let nats = async_nats::connect(url).await?;
    let mut args = std::env::args().skip(1);
    let x: i64 = args.next().unwrap_or("17".into()).parse()?;
    let y: i64 = args.next().unwrap_or("25".into()).parse()?;

    let request = json!({ "x": x, "y": y }).to_string();
    let reply = nats.request("math.sum", request.into()).await?;
    let reply: Value = serde_json::from_slice(&reply.payload)?;
    writeln!(stdout(), "{x} + {y} = {}", reply["result"])?;
    Ok(())
}
