//! Lines on stdout.

use std::fmt::{self, Display};
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
pub struct Output {
    requests: mpsc::Sender<Request>,
    writer: Option<JoinHandle<io::Result<()>>>,
}

enum Request {
    Line(String),
    Flush(oneshot::Sender<()>),
}

impl Output {
    /// Stdout.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "starts a thread")]
    pub fn new() -> Self {
        let (requests, waiting) = mpsc::channel(WAITING);
        let writer = thread::spawn(|| {
            write(waiting).inspect_err(|_| {
                let _ = CLOSED.set(());
            })
        });
        Self { requests, writer: Some(writer) }
    }

    /// Prints a line soon. Waits only if many lines wait.
    ///
    /// # Errors
    ///
    /// If stdout is closed. [`run`](crate::run) takes a closed pipe for a good end.
    pub async fn line(&mut self, line: impl Display) -> Result<()> {
        self.request(Request::Line(format!("{line}\n"))).await
    }

    /// Waits until all lines are printed. The last call before a program ends.
    ///
    /// # Errors
    ///
    /// Those of [`line`](Self::line).
    pub async fn flush(&mut self) -> Result<()> {
        let (done, flushed) = oneshot::channel();
        self.request(Request::Flush(done)).await?;
        if flushed.await.is_err() {
            return self.failure();
        }
        Ok(())
    }

    async fn request(&mut self, request: Request) -> Result<()> {
        if self.requests.send(request).await.is_err() {
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

impl fmt::Debug for Output {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Output")
    }
}

/// Writes lines, all that wait at a time: one after another, each costs a change of threads.
fn write(mut requests: mpsc::Receiver<Request>) -> io::Result<()> {
    let (mut waiting, mut text, mut flushed) = (Vec::new(), String::new(), Vec::new());
    while requests.blocking_recv_many(&mut waiting, WAITING) > 0 {
        for request in waiting.drain(..) {
            match request {
                Request::Line(line) => text.push_str(&line),
                Request::Flush(done) => flushed.push(done),
            }
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
