//! What every program of the playground needs around its lesson: the connection flags, a connection
//! with sound settings, a clean end, errors of one line, and the ways through an outage.
//!
//! It hides no NATS call. What [`NatsArgs::connect`] returns is the client library's own
//! [`Client`](async_nats::Client), and a program subscribes, publishes, and opens streams, consumers
//! and buckets with it directly. What several programs do when something breaks is here, once:
//! [`until_shutdown`] leaves a subject without loss, [`lost`] tells that an answer will not come,
//! and with the feature `jetstream` [`retry`] knows which failures pass, and [`Pull`] keeps taking
//! messages through all of them.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use clap::Parser;
//!
//! /// Says when it is connected.
//! #[derive(Parser)]
//! struct Args {
//!     #[command(flatten)]
//!     nats: common::NatsArgs,
//! }
//!
//! fn main() -> ExitCode {
//!     common::run(connected(common::parse()))
//! }
//!
//! async fn connected(args: Args) -> anyhow::Result<()> {
//!     let client = args.nats.connect("connected").await?;
//!     // … subscribe, publish, request: the lesson …
//!     common::shutdown().await;
//!     common::close(&client).await
//! }
//! ```

mod connection;
#[cfg(feature = "jetstream")]
mod failure;
mod leave;
pub mod payload;
mod process;
#[cfg(feature = "jetstream")]
mod pull;
mod seen;
mod tally;
mod text;

pub use connection::{NatsArgs, close, lost};
#[cfg(feature = "jetstream")]
pub use failure::{Failure, Refused, code, explain, failure, retry};
pub use leave::until_shutdown;
pub use process::{
    Stopped, is_shutting_down, parse, run, run_multi_thread, shutdown, unless_stopped,
};
#[cfg(feature = "jetstream")]
pub use pull::Pull;
pub use seen::Seen;
pub use tally::{Tally, summary};
pub use text::printable;
