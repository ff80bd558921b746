//! How a program begins and ends.

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::SetOnce;
use tracing_subscriber::EnvFilter;

use crate::connection;

/// How long a program may take to finish what it has begun once it was told to stop. Supervisors
/// send SIGKILL some seconds after SIGTERM (Docker after 10): after that, nobody chooses any more
/// what is left undone.
const GRACE: Duration = Duration::from_secs(4);

static SHUTDOWN: SetOnce<()> = SetOnce::const_new();

/// Reads the command line, as clap's `parse` does; but an argument that is refused is not repeated
/// with the password that it may hold.
#[must_use]
pub fn parse<A: Parser>() -> A {
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

/// Runs a program to its end and turns that into an exit code.
///
/// - SIGINT and SIGTERM do not end the process: they resolve [`shutdown`], from the first moment
///   on. A program that has not come to its end 4 s later is left where it is.
/// - What the server denies ends the program: a publish without permission would otherwise look
///   like success, a subscription without permission like silence.
/// - An error becomes one line on stderr and exit code 1. [`Stopped`] is none, nor is a closed pipe
///   (`… | head -1`): it ends the program quietly.
/// - Diagnostics go to stderr, filtered by `RUST_LOG` (`info` unless it says otherwise).
///
/// It runs on one thread: handing each message to another one costs more than most programs do with
/// it. (Signals have a thread of their own: wherever the program stands still, it can be told to
/// stop.)
pub fn run(program: impl Future<Output = Result<()>>) -> ExitCode {
    run_in(runtime::Builder::new_current_thread(), program)
}

/// As [`run`], on several threads: for a program that is sent messages without having asked for
/// them, or waits for many answers, and prints. It can stand still, at a full pipe for instance, and
/// its connection has to be read all the same: the server cuts off whoever does not read.
pub fn run_multi_thread(program: impl Future<Output = Result<()>>) -> ExitCode {
    run_in(runtime::Builder::new_multi_thread(), program)
}

fn run_in(mut builder: runtime::Builder, program: impl Future<Output = Result<()>>) -> ExitCode {
    init_logging();
    let result = builder
        .enable_all()
        .build()
        .context("cannot start the async runtime")
        .and_then(|runtime| {
            listen_for_signals()?;
            let result = runtime.block_on(until_the_end(program));
            // Not dropped: that would wait for a name look-up that hangs.
            runtime.shutdown_background();
            result
        });
    match result {
        Err(error) if !error.is::<Stopped>() && !is_broken_pipe(&error) => {
            // Nobody is left to tell when stderr is closed, too.
            let _ = writeln!(io::stderr(), "error: {}", one_line(&error));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// The program was told to stop before it had begun: while it connected, or waited for a stream.
/// [`run`] takes it for a good end.
#[derive(Debug)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("told to stop")
    }
}

impl Error for Stopped {}

/// Waits for something, unless the program is told to stop.
///
/// # Errors
///
/// [`Stopped`], or as it fails.
pub async fn unless_stopped<T>(something: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        result = something => result,
        () = shutdown() => bail!(Stopped),
    }
}

/// Resolves when the program was told to stop, by SIGINT (Ctrl-C) or SIGTERM, and from then on
/// at once for everybody who asks.
pub async fn shutdown() {
    SHUTDOWN.wait().await;
}

/// Whether [`shutdown`] has resolved.
#[must_use]
pub fn is_shutting_down() -> bool {
    SHUTDOWN.get().is_some()
}

/// On a thread of its own, for all others may stand still, at a full pipe for instance.
fn listen_for_signals() -> Result<()> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    drop(guard);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            let _ = SHUTDOWN.set(());
            tokio::time::sleep(GRACE).await;
        });
        // Stderr can be the very pipe that nobody reads: this is tried, not waited for.
        thread::spawn(|| {
            tracing::warn!(
                "not done {GRACE:?} after the signal: what was begun is left where it is"
            );
        });
        thread::sleep(Duration::from_millis(100));
        process::exit(0);
    });
    Ok(())
}

async fn until_the_end(program: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        biased;
        denied = connection::denied() => Err(denied),
        result = program => result,
    }
}

fn init_logging() {
    // The client library logs connection errors which we report ourselves: once is enough.
    let filter = std::env::var("RUST_LOG")
        .ok()
        .filter(|filter| !filter.is_empty());
    let filter = format!("async_nats=off,{}", filter.as_deref().unwrap_or("info"));
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .without_time()
        .init();
}

/// The text without what stands between `://` and the last `@` of the same word: whatever is in a
/// password, a slash that should have been encoded included.
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

/// Printing is the one thing a program does with an [`io::Error`] of its own: errors of the
/// network come wrapped in the client library's types.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The error and its causes, each said once: many libraries repeat the cause in their own text.
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
        assert!(!is_broken_pipe(
            &io::Error::from(io::ErrorKind::NotFound).into()
        ));
        assert!(!is_broken_pipe(&anyhow!(io::Error::other(pipe()))));
    }
}
