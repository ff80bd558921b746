//! The bucket with the switch, which `config-admin` and `config-app` share.

use anyhow::Result;
use async_nats::Client;
use async_nats::jetstream;
use async_nats::jetstream::kv::{Config, Store};

pub(super) const BUCKET: &str = "configs_playgrnd";
pub(super) const KEY: &str = "site_maintenance";

/// Opens the bucket, or makes it.
pub(super) async fn bucket(nats: &Client) -> Result<Store> {
    let config = Config { bucket: BUCKET.into(), history: 64, ..Config::default() };
    Ok(jetstream::new(nats.clone()).create_key_value(config).await?)
}

/// Deletes the bucket.
pub(super) async fn delete(nats: &Client) -> Result<()> {
    jetstream::new(nats.clone()).delete_key_value(BUCKET).await?;
    Ok(())
}
