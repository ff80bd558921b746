//! What `config-admin` and `config-app` agree on, and what would distract from their lesson.

mod failure;
mod history;
mod patience;
mod place;
mod switch;

pub use failure::{Failure, explain, failure};
pub use history::{author, new_id, tell};
pub use patience::{PATIENCE, PAUSE, connected, retry};
pub use place::Place;
pub use switch::{counts, read, text, word};

/// The bucket. To JetStream it is the stream `KV_configs_playgrnd`.
pub const BUCKET: &str = "configs_playgrnd";
/// The switch in it.
pub const KEY: &str = "site_maintenance";
/// What the switch is to JetStream.
pub const SUBJECT: &str = "$KV.configs_playgrnd.site_maintenance";
