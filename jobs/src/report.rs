//! What a worker prints.

use std::fmt::Display;

use anyhow::Result;
use common::{CancellationToken, Output, Tally};
use tokio::sync::Mutex;

/// A line for each job, and the count of those that are done.
pub struct Report {
    printed: Mutex<(Output, Tally)>,
    quiet: bool,
    limit: Option<u64>,
    stop: CancellationToken,
}

impl Report {
    /// Cancels `stop` when `limit` jobs are done. If `quiet`, it prints no line for a job.
    #[must_use]
    pub fn new(output: Output, quiet: bool, limit: Option<u64>, stop: CancellationToken) -> Self {
        Self { printed: Mutex::new((output, Tally::default())), quiet, limit, stop }
    }

    /// Prints a line for a job.
    ///
    /// # Errors
    ///
    /// If stdout is closed.
    pub async fn line(&self, line: impl Display) -> Result<()> {
        if self.quiet { Ok(()) } else { self.printed.lock().await.0.line(line).await }
    }

    /// Counts a job that is done, and prints its line.
    ///
    /// # Errors
    ///
    /// If stdout is closed.
    pub async fn done(&self, id: &str) -> Result<()> {
        let (output, tally) = &mut *self.printed.lock().await;
        tally.add();
        if tally.left(self.limit) == 0 {
            self.stop.cancel();
        }
        if self.quiet { Ok(()) } else { output.line(format_args!("{id} done")).await }
    }

    /// Prints the summary of a run with a limit, and waits until all lines are printed.
    ///
    /// # Errors
    ///
    /// If stdout is closed.
    pub async fn finish(self) -> Result<()> {
        let (mut output, tally) = self.printed.into_inner();
        if self.limit.is_some() {
            output.line(tally.summary("jobs")).await?;
        }
        output.flush().await
    }
}
