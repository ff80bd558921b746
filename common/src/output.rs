//! Lines on stdout.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::thread::{self, JoinHandle};

use anyhow::Result;
use tokio::sync::{SetOnce, mpsc, oneshot};

/// How many lines may wait to be written. A program that prints faster waits, too.
const WAITING: usize = 1024;

/// Stdout is closed. A process has one stdout, so this is no state of a connection.
static CLOSED: SetOnce<()> = SetOnce::const_new();

/// Resolves when lines can no longer be printed. A program that waits for a message, not for its
/// output, learns it here.
pub(crate) async fn closed() {
    CLOSED.wait().await;
}

/// Prints lines from a thread of its own. If the reader of a pipe falls behind, the program waits,
/// and its connection still reads what the server sends: the server cuts off a client that does not
/// read.
#[derive(Debug)]
pub struct Output {
    lines: mpsc::Sender<Line>,
    writer: Option<JoinHandle<io::Result<()>>>,
    is_flushed: bool,
}

/// A line, and whom to tell when it is printed.
type Line = (String, Option<oneshot::Sender<()>>);

impl Output {
    /// Stdout.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "starts a thread")]
    pub fn new() -> Self {
        let (lines, waiting) = mpsc::channel(WAITING);
        let writer = thread::spawn(|| {
            write(waiting).inspect_err(|_| {
                let _ = CLOSED.set(());
            })
        });
        Self { lines, writer: Some(writer), is_flushed: true }
    }

    /// Prints a line soon. Waits only if many lines wait.
    ///
    /// # Errors
    ///
    /// If stdout is closed. [`run`](crate::run) takes a closed pipe for a good end.
    pub async fn line(&mut self, line: impl Display) -> Result<()> {
        self.is_flushed = false;
        self.send((format!("{line}\n"), None)).await
    }

    /// Waits until all lines are printed. The last call before a program ends.
    ///
    /// # Errors
    ///
    /// Those of [`line`](Self::line).
    pub async fn flush(&mut self) -> Result<()> {
        if self.is_flushed {
            return Ok(());
        }
        let (done, flushed) = oneshot::channel();
        self.send((String::new(), Some(done))).await?;
        if flushed.await.is_err() {
            return self.failure();
        }
        self.is_flushed = true;
        Ok(())
    }

    async fn send(&mut self, line: Line) -> Result<()> {
        if self.lines.send(line).await.is_err() {
            return self.failure();
        }
        Ok(())
    }

    /// Why the writer has ended.
    fn failure(&mut self) -> Result<()> {
        let ended = self.writer.take().and_then(|writer| writer.join().ok());
        Ok(ended.unwrap_or(Err(io::ErrorKind::BrokenPipe.into()))?)
    }
}

/// Writes lines, all that wait at a time: one after another, each costs a change of threads.
fn write(mut lines: mpsc::Receiver<Line>) -> io::Result<()> {
    let (mut waiting, mut text, mut flushed) = (Vec::new(), String::new(), Vec::new());
    while lines.blocking_recv_many(&mut waiting, WAITING) > 0 {
        for (line, done) in waiting.drain(..) {
            text += &line;
            flushed.extend(done);
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        text.clear();
        for done in flushed.drain(..) {
            let _ = done.send(());
        }
    }
    Ok(())
}
