//! What `config-admin` and `config-app` share.
//!
//! - [`Bucket`]: reads and writes that ride out an outage;
//! - [`follow()`]: a watch that survives its bucket;
//! - [`history()`]: who changed what, and when;
//! - [`State`]: what an entry says about the switch.

use std::time::Duration;

use async_nats::jetstream::{Context, ContextBuilder};
use common::Connection;

mod bucket;
mod follow;
mod history;
mod state;

pub use bucket::{Bucket, is_wrong_revision};
pub use follow::{Change, Follow, follow};
pub use history::history;
pub use state::{State, on_or_off};

/// The bucket. To JetStream it is the stream `KV_configs_playgrnd`.
pub const BUCKET: &str = "configs_playgrnd";
/// The switch in it.
pub const KEY: &str = "site_maintenance";

/// Time that nats-server has to answer a call, before the call is repeated.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

fn jetstream(nats: &Connection) -> Context {
    jetstream_at(nats, None)
}

/// The JetStream of another domain, or the one of nats-server.
fn jetstream_at(nats: &Connection, api: Option<&str>) -> Context {
    let client: &async_nats::Client = nats;
    let builder = ContextBuilder::new().timeout(ANSWER_TIMEOUT);
    match api {
        Some(api) => builder.api_prefix(api).build(client.clone()),
        None => builder.build(client.clone()),
    }
}
