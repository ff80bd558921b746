//! What order-publisher and order-consumer have in common, and what would distract from their lesson.

pub mod lines;
pub mod sample;

/// The stream that stores the orders.
pub const STREAM: &str = "playgrnd_stream";
/// The subjects of the stream: it stores every message on them.
pub const SUBJECTS: &str = "orders.>";
/// The subject of new orders.
pub const SUBJECT: &str = "orders.created";
/// The durable consumer: under this name the server remembers which orders are acknowledged.
pub const DURABLE: &str = "order_processor";
