//! What every program of the playground needs around its lesson: connection flags, a connection with
//! sound settings, a clean stop, errors in one line, payload types.
//!
//! `common` hides no NATS call. A [`Connection`] dereferences to the client library's own
//! [`Client`](async_nats::Client), so a program subscribes, publishes, and opens streams, consumers
//! and buckets directly.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use clap::Parser;
//! use common::{CancellationToken, Output};
//! use futures::StreamExt;
//!
//! /// Prints the news.
//! #[derive(Parser)]
//! struct Args {
//!     #[command(flatten)]
//!     nats: common::NatsArgs,
//! }
//!
//! fn main() -> ExitCode {
//!     common::run(print_news)
//! }
//!
//! async fn print_news(args: Args, stop: CancellationToken) -> anyhow::Result<()> {
//!     let nats = args.nats.connect("news", &stop).await?;
//!     let mut out = Output::new();
//!     let mut news = nats.drain_on_stop(nats.subscribe("news").await?);
//!     while let Some(message) = news.next().await {
//!         out.line(String::from_utf8_lossy(&message.payload)).await?;
//!     }
//!     out.flush().await?;
//!     nats.permitted()
//! }
//! ```

mod args;
mod connection;
mod dedup;
mod drain;
mod explain;
#[cfg(feature = "jetstream")]
pub mod jetstream;
mod output;
pub mod payload;
mod process;
mod refusals;
mod tally;
mod text;

pub use tokio_util::sync::CancellationToken;

pub use args::NatsArgs;
pub use connection::{Connection, Disconnected};
pub use dedup::Dedup;
pub use explain::explain_tls;
pub use output::Output;
pub use process::{Stopped, run};
pub use tally::{Tally, summary};
pub use text::printable;
