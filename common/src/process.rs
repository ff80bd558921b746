//! How a program begins and ends.

use std::io::{self, IsTerminal, Write};
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::output;

/// Time that a program has to finish what it has begun after it was told to stop. Supervisors send
/// SIGKILL some seconds after SIGTERM (Docker after 10).
const GRACE: Duration = Duration::from_secs(4);

/// Runs a program: parses its command line, and turns its result into an exit code.
///
/// ```no_run
/// # use std::process::ExitCode;
/// # use common::CancellationToken;
/// # #[derive(clap::Parser)] struct Args { #[command(flatten)] nats: common::NatsArgs }
/// fn main() -> ExitCode {
///     common::run(serve)
/// }
///
/// async fn serve(args: Args, stop: CancellationToken) -> anyhow::Result<()> {
///     let nats = args.nats.connect("server", &stop).await?;
///     // … until `stop.cancelled()` …
///     nats.close().await
/// }
/// ```
///
/// - SIGINT (Ctrl-C) and SIGTERM cancel `stop`. The program then finishes what it has begun.
/// - After 4 s the process ends with one line and exit code 1, whatever the program is waiting
///   for. A second signal ends it at once, with 128 plus the signal's number (130 for Ctrl-C).
/// - An error becomes one line on stderr and exit code 1. [`Stopped`] and a closed pipe
///   (`… | head -1`) end the program quietly with 0. A closed pipe cancels `stop`, too.
/// - Diagnostics go to stderr, filtered by `RUST_LOG` (default: `info`).
///
/// All of it runs on one thread: handing each message to another thread costs more than most
/// programs do with it. Print with [`Output`](crate::Output), which does not block that thread.
pub fn run<A: Parser, F: Future<Output = Result<()>>>(
    program: impl FnOnce(A, CancellationToken) -> F,
) -> ExitCode {
    let args = parse();
    init_logging();
    let stop = CancellationToken::new();
    let result = listen_for_signals(stop.clone()).and_then(|()| {
        let runtime = runtime()?;
        let result = runtime.block_on(async {
            let program = program(args, stop.clone());
            tokio::spawn(async move {
                output::closed().await;
                stop.cancel();
            });
            program.await
        });
        // Not dropped: that would wait for a name look-up that hangs.
        runtime.shutdown_background();
        result
    });
    match result {
        Err(error) if !error.is::<Stopped>() && !is_broken_pipe(&error) => {
            // Fails only if stderr is closed, too.
            let _ = writeln!(io::stderr(), "error: {}", one_line(&error));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn runtime() -> Result<Runtime> {
    let mut builder = runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build();
    runtime.context("cannot start the async runtime")
}

/// The program was told to stop before it had begun: while it connected, or waited for a stream.
/// [`run`] ends with exit code 0.
#[derive(Debug, thiserror::Error)]
#[error("told to stop")]
pub struct Stopped;

/// Reads the command line like clap's `parse`. If an argument is refused, the message does not
/// repeat a password in it.
fn parse<A: Parser>() -> A {
    A::try_parse().unwrap_or_else(|error| {
        let text = error.to_string();
        let plain = without_passwords(&text);
        if plain != text {
            let _ = write!(io::stderr(), "{plain}");
            process::exit(error.exit_code());
        }
        error.exit()
    })
}

/// Listens on a thread of its own, so that a program whose thread is busy can be stopped, too.
fn listen_for_signals(stop: CancellationToken) -> Result<()> {
    let runtime = runtime()?;
    let guard = runtime.enter();
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    drop(guard);
    thread::spawn(move || {
        runtime.block_on(async {
            exit_code(&mut interrupt, &mut terminate).await;
            stop.cancel();
            tokio::select! {
                code = exit_code(&mut interrupt, &mut terminate) => process::exit(code),
                () = sleep(GRACE) => {}
            }
        });
        // Stderr can be a full pipe.
        thread::spawn(|| {
            thread::sleep(Duration::from_millis(500));
            process::exit(1);
        });
        let _ = writeln!(
            io::stderr(),
            "error: not finished {GRACE:?} after the signal: the rest is left undone"
        );
        process::exit(1);
    });
    Ok(())
}

/// Waits for a signal, and returns the exit code of a process that it ends.
async fn exit_code(interrupt: &mut Signal, terminate: &mut Signal) -> i32 {
    tokio::select! {
        _ = interrupt.recv() => 128 + 2,
        _ = terminate.recv() => 128 + 15,
    }
}

fn init_logging() {
    // The client library also logs connection errors that the program reports itself.
    let filter = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = format!("async_nats=off,{}", filter.as_deref().unwrap_or("info"));
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .without_time()
        .init();
}

/// The text without what stands between `://` and the last `@` of the same word. A password can
/// contain anything, even a slash that should have been encoded.
fn without_passwords(text: &str) -> String {
    let mut parts = text.split("://");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(char::is_whitespace).unwrap_or(part.len());
        let host = part[..end].rfind('@').map_or(0, |at| at + 1);
        plain += "://";
        plain += &part[host..];
    }
    plain
}

/// Whether the program's own output failed because the reader of the pipe is gone. (Errors of the
/// network come in the client library's types, not as a plain [`io::Error`].)
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The error and its causes in one line, without repetitions. Many libraries repeat the cause in
/// their own text.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn an_error_is_one_line_that_says_nothing_twice() {
        let error =
            anyhow!("refused\nby the server").context("cannot connect: refused\nby the server");
        assert_eq!(one_line(&error), "cannot connect: refused by the server");
        let error = anyhow!("no such file").context("cannot read `ca.pem`");
        assert_eq!(one_line(&error), "cannot read `ca.pem`: no such file");
    }

    #[test]
    fn a_password_in_an_argument_is_not_repeated() {
        let text = "unexpected argument 'nats://me:p@s/s'@host:4222' found, a@b mqtt://host";
        let plain = "unexpected argument 'nats://host:4222' found, a@b mqtt://host";
        assert_eq!(without_passwords(text), plain);
    }

    #[test]
    fn only_a_broken_pipe_of_our_own_is_quiet() {
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&pipe().into()));
        assert!(!is_broken_pipe(&io::Error::from(io::ErrorKind::NotFound).into()));
        assert!(!is_broken_pipe(&anyhow!(io::Error::other(pipe()))));
    }
}
