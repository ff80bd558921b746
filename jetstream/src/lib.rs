//! What the two programs agree on, and what would distract from their lesson.

use std::time::Duration;

pub mod lines;
pub mod sample;
mod settings;
mod stream;

pub use stream::OrderStream;

/// The stream that keeps the orders.
pub const STREAM: &str = "playgrnd_stream";
/// What it keeps: every message on these subjects.
pub const SUBJECTS: &str = "orders.>";
/// Where new orders go.
pub const SUBJECT: &str = "orders.created";
/// The durable consumer: the server remembers under this name what was acknowledged.
pub const DURABLE: &str = "order_processor";
/// How long an answer may take. Where the connection is lost, nobody waits that long: see
/// [`common::lost`].
pub const ANSWER: Duration = Duration::from_secs(2);
