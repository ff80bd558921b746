//! What programs need that use streams, consumers or buckets: which failures pass, repeating a call
//! through an outage, taking messages from a durable consumer through all that can happen to it.

mod durable;
mod failure;
mod progress;
mod publish;
mod pull;
mod retry;
mod stream;

pub use durable::open_durable;
pub use failure::{Failure, Refused, code, explain, failure};
pub use progress::with_progress;
pub use publish::{Window, print_stored, publish_all};
pub use pull::{Batch, Pull};
pub use retry::retry;
pub use stream::create_stream;
