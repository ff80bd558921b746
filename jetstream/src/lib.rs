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
/// How long the server has to answer. An answer that was on its way when the server stopped
/// never comes, so each restart costs this much.
pub const ANSWER: Duration = Duration::from_secs(2);
