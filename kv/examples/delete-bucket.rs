//! Deletes the bucket `configs_playgrnd`, as `nats kv del configs_playgrnd` does: a fault to try
//! the programs with.
//!
//! ```sh
//! cargo run -p kv --example delete-bucket
//! ```

use std::io::{Write, stdout};

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or_else(|_| "localhost:4222".into());
    let jetstream = async_nats::jetstream::new(async_nats::connect(url).await?);
    jetstream.delete_key_value("configs_playgrnd").await?;
    writeln!(stdout(), "deleted the bucket configs_playgrnd")?;
    Ok(())
}
