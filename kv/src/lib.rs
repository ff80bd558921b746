//! What `config-admin` and `config-app` agree on, and what would distract from their lesson.

use std::time::Duration;

mod history;
mod place;
mod retry;
mod switch;

pub use history::{author, new_id, tell};
pub use place::{Place, until_another};
pub use retry::{PATIENCE, is_overtaken, retry};
pub use switch::{counts, read, word};

/// The bucket. To JetStream it is the stream `KV_configs_playgrnd`.
pub const BUCKET: &str = "configs_playgrnd";
/// The switch in it.
pub const KEY: &str = "site_maintenance";
/// What the switch is to JetStream.
pub const SUBJECT: &str = "$KV.configs_playgrnd.site_maintenance";
/// How long JetStream may take to answer.
pub const ANSWER: Duration = Duration::from_secs(1);
