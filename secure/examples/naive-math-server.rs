//! A server as it stands in many examples: it replies to any subject that a request names.
//!
//! ```sh
//! cargo run -p secure --example naive-math-server   # with math-server's line
//! ```

use std::io::{Write, stdout};

use futures::StreamExt;

mod user;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let (nats, mut denials) = user::connect().await?;
    let mut requests = nats.queue_subscribe("math.sum", "math_servers".into()).await?;
    user::handled(&nats, &mut denials).await?;
    writeln!(stdout(), "waiting for requests on math.sum")?;
    while let Some(request) = requests.next().await {
        // As the Services API of the client libraries does it: an error is in the headers.
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Service-Error", "a bad request");
        headers.insert("Nats-Service-Error-Code", "400");
        let Some(reply_to) = request.reply else { continue };
        nats.publish_with_headers(reply_to, headers, "".into()).await?;
    }
    Ok(())
}
