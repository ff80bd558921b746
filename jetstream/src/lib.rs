//! What the two programs agree on.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;

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
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// Between two attempts.
pub const PAUSE: Duration = Duration::from_millis(100);

/// What to do where JetStream is switched off.
pub const OFF: &str =
    "JetStream is off; start the server with --jetstream, or allow it for this account";

/// Whether it is JetStream as a whole that is missing.
#[must_use]
pub fn is_off(code: ErrorCode) -> bool {
    [
        ErrorCode::JETSTREAM_NOT_ENABLED,
        ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
    ]
    .contains(&code)
}

/// Whether the server refuses only now, because servers of a cluster are electing a leader, or
/// because it is stopping: the same request is worth another attempt.
#[must_use]
pub fn is_passing(code: ErrorCode) -> bool {
    /// The same message id is just being stored: this is a repetition of it.
    const DUPLICATE_IN_PROCESS: ErrorCode = ErrorCode(10158);
    [
        DUPLICATE_IN_PROCESS,
        ErrorCode::CLUSTER_NOT_AVAILABLE,
        ErrorCode::CLUSTER_NOT_LEADER,
        ErrorCode::CLUSTER_NOT_ACTIVE,
        ErrorCode::STREAM_OFFLINE,
        ErrorCode::CONSUMER_OFFLINE,
    ]
    .contains(&code)
}
