//! Lines on stdout.

use std::fmt::Display;

use anyhow::Result;
use tokio::io::{AsyncWriteExt, Stdout, stdout};

/// Prints lines without blocking the thread. If the reader of a pipe falls behind, the program
/// waits, and its connection still reads what the server sends: the server cuts off a client that
/// does not read.
#[derive(Debug)]
pub struct Output(Stdout);

impl Output {
    /// Stdout.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a handle, not a value")]
    pub fn new() -> Self {
        Self(stdout())
    }

    /// Begins to print a line, after waiting for the one before.
    ///
    /// # Errors
    ///
    /// If stdout is closed. [`run`](crate::run) takes a closed pipe for a good end.
    pub async fn line(&mut self, line: impl Display) -> Result<()> {
        Ok(self.0.write_all(format!("{line}\n").as_bytes()).await?)
    }

    /// Waits until all lines are printed. The last call before a program ends.
    ///
    /// # Errors
    ///
    /// Those of [`line`](Self::line).
    pub async fn flush(&mut self) -> Result<()> {
        Ok(self.0.flush().await?)
    }
}
