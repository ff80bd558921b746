//! An attack: hears the replies that other programs get.
//!
//! ```sh
//! cargo run -p secure --example attack-eavesdrop   # with the line of any program, order-consumer's for instance
//! ```

use std::io::{Write, stdout};

use futures::StreamExt;

mod user;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let (nats, mut denials) = user::connect().await?;
    let mut replies = nats.subscribe("_INBOX.>").await?;
    user::handled(&nats, &mut denials).await?;
    writeln!(stdout(), "listening")?;
    while let Some(reply) = replies.next().await {
        writeln!(stdout(), "{}: {}", reply.subject, String::from_utf8_lossy(&reply.payload))?;
    }
    Ok(())
}
