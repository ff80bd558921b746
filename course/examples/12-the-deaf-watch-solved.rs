//! 12 The deaf watch
//!
//! An application follows a switch in a bucket, and prints each change. One
//! day an operator deletes the bucket and makes it anew, with other settings.
//! The switch is turned on, and the application says off, for hours. It is
//! connected, and its watch reports no error.
//!
//! Notice that it is another bucket, a second or two later, and watch that.

use std::time::Duration;

use async_nats::jetstream;
use futures::StreamExt;
use tokio::time::interval;

const BUCKET: &str = "configs_playgrnd";
const KEY: &str = "site_maintenance";

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or("localhost:4222".into());
    let jetstream = jetstream::new(async_nats::connect(url).await?);
    let bucket = jetstream.get_key_value(BUCKET).await?;

    let mut every_second = interval(Duration::from_secs(1));
    let mut created = bucket.stream.cached_info().created;
    let mut changes = bucket.watch_with_history(KEY).await?;

    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            _ = every_second.tick() => {
                // A bucket that was made anew has another time of creation.
                if let Ok(now) = jetstream.get_key_value(BUCKET).await
                    && now.stream.cached_info().created != created
                {
                    created = now.stream.cached_info().created;
                    changes = now.watch_with_history(KEY).await?;
                }
                continue;
            }
        };
        let Some(change) = change.transpose()? else { return Ok(()) };
        let state = if change.value == "true" { "on" } else { "off" };
        println!("#{} {KEY} is {state}", change.revision);
    }
}
