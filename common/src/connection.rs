//! A connection to the NATS server, and what is known about it.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use async_nats::{Client, ConnectOptions, Event, ServerError};
use futures::StreamExt;
use tokio::sync::{SetOnce, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::args::{NatsArgs, url};
use crate::explain::{explain, over_limit, silent};
use crate::process::Stopped;
use crate::refusals::{self, HOLDS, Refusals};

/// All of connecting: looking up names, trying each address of each server, TLS, the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(4_500);
/// One of these addresses.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection on which no answers to pings come is given up after 15 s (at the third ping). The
/// library's default of 60 s needs three minutes to notice a pulled cable.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Pause between two attempts to reconnect. The library's own pauses grow to 4 s, and the program
/// would come back that much later than the server.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);
/// Pause between two reports of dropped messages. There can be thousands of events a second.
const DROPS_INTERVAL: Duration = Duration::from_secs(5);
/// Time that a program has, from the moment it is told to stop, to take what the server had handed
/// over to its subscriptions …
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// … and then to close its connections.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

impl NatsArgs {
    /// Connects under `name`, the program's own, which the server lists in `/connz`.
    ///
    /// The connection reconnects by itself for as long as it lives. It says on stderr, once each,
    /// that it was lost and regained.
    ///
    /// # Errors
    ///
    /// One line that says which server, what went wrong and what to do, without any secret.
    /// [`Stopped`] if the program is told to stop before it is connected.
    pub async fn connect(&self, name: &str, stop: &CancellationToken) -> Result<Connection> {
        self.connect_with(name, stop, |options| options).await
    }

    /// Like [`connect`](Self::connect), with further settings of the client library.
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Self::connect).
    pub async fn connect_with(
        &self,
        name: &str,
        stop: &CancellationToken,
        settings: impl FnOnce(ConnectOptions) -> ConnectOptions,
    ) -> Result<Connection> {
        let (servers, login) = self.servers()?;
        let urls = servers.iter().map(url).collect::<Vec<_>>().join(",");
        let stop = stop.clone();
        let state = State { servers: urls, stop, ..State::default() };
        let state = Arc::new(state);
        let options = settings(self.options(login)?)
            .name(name)
            .connection_timeout(HANDSHAKE_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback({
                let state = Arc::clone(&state);
                move |attempt| match (state.refusals.next_pause(), attempt) {
                    (Some(pause), _) => pause,
                    (None, 0 | 1) => Duration::ZERO,
                    (None, _) => RECONNECT_DELAY,
                }
            })
            .event_callback({
                let state = Arc::clone(&state);
                move |event| {
                    state.event(&event);
                    std::future::ready(())
                }
            });
        let connected = tokio::select! {
            connected = timeout(CONNECT_TIMEOUT, options.connect(servers)) => connected,
            () = state.stop.cancelled() => bail!(Stopped),
        };
        let urls = &state.servers;
        let client = match connected {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => bail!("cannot connect to {urls}: {}", explain(&error)),
            Err(_) => bail!("cannot connect to {urls}: {}", silent()),
        };
        let _ = state.inbox.set(client.new_inbox());
        Ok(Connection { client, stop: state.stop.clone(), state })
    }
}

/// A connection to the NATS server. It dereferences to the client library's own [`Client`]; what it
/// adds is what the library does not tell: that a connection was lost, that the server denied
/// something, that the server has received everything.
///
/// If the server denies something (a publish or a subscription without permission), the library
/// reports success. So a denial cancels the connection's stop token, which ends the program, and
/// becomes the error of [`permitted`](Self::permitted), [`close`](Self::close) and
/// [`disconnected`](Self::disconnected).
///
/// Clones share the connection.
#[derive(Clone, Debug)]
pub struct Connection {
    client: Client,
    stop: CancellationToken,
    state: Arc<State>,
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Connection {
    /// The servers as given, without any secret.
    #[must_use]
    pub fn servers(&self) -> &str {
        &self.state.servers
    }

    /// The token that tells the program to stop.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// The same connection with another stop token, for work that must be done after the program
    /// was told to stop.
    #[must_use]
    pub fn with_stop(&self, stop: CancellationToken) -> Self {
        Self { stop, ..self.clone() }
    }

    /// Resolves when the connection is lost, or the server denies something: a reply to what was
    /// sent before can no longer come. The client library reconnects, but it does not repeat
    /// requests, and waits for their replies until their time-out.
    ///
    /// It counts from the call on, not from the first poll: call it before the request is sent.
    pub fn disconnected(&self) -> impl Future<Output = Error> + Send + use<> {
        let state = Arc::clone(&self.state);
        let mut losses = state.losses.subscribe();
        async move {
            tokio::select! {
                biased;
                denial = state.denial.wait() => anyhow!(denial.clone()),
                _ = losses.changed() => Disconnected.into(),
            }
        }
    }

    /// How often the connection was lost so far.
    #[cfg(feature = "jetstream")]
    pub(crate) fn losses(&self) -> u64 {
        *self.state.losses.borrow()
    }

    /// From now on a denied publish is only logged. For a program that publishes nothing but
    /// replies: the requesters choose the reply subjects, so it is a requester's mistake.
    pub fn log_denied_publishes(&self) {
        self.state.log_denied_publishes.store(true, Ordering::Relaxed);
    }

    /// From now on, if the server refuses this connection (its user was removed, its password
    /// changed, its credentials have expired), that ends the program like a
    /// [denial](Self::permitted). For a program that runs once; one that runs on says so and tries
    /// again until it is put right.
    pub fn give_up_if_refused(&self) {
        self.state.gives_up.store(true, Ordering::Relaxed);
    }

    /// Checks that the server has denied nothing to this connection so far.
    ///
    /// # Errors
    ///
    /// What was denied.
    pub fn permitted(&self) -> Result<()> {
        match self.state.denial.get() {
            Some(denial) => bail!(denial.clone()),
            None => Ok(()),
        }
    }

    /// Closes the connection after the server has handled everything that was published on it.
    ///
    /// Without this the last messages of a program are lost: `publish` only hands a message to the
    /// client's buffer and `flush` only to the socket. (`drain` alone can close before the server
    /// has answered, so that a denied publish looks like success.)
    ///
    /// # Errors
    ///
    /// If the server does not confirm in time: the last messages may not have arrived. A program that
    /// was told to stop has 3.5 s for draining and closing together. If the server has denied
    /// something.
    pub async fn close(&self) -> Result<()> {
        let closed = async {
            self.echo().await?;
            self.client.drain().await?;
            // Events come in order: every denial before this one is known by then.
            self.state.closed.wait().await;
            Ok::<_, Error>(())
        };
        let deadline = self.drain_deadline() + CLOSE_TIMEOUT;
        let closed = timeout_at(deadline, closed).await;
        self.permitted()?;
        closed.unwrap_or_else(|_| Err(anyhow!("no answer in time"))).with_context(|| {
            let servers = self.servers();
            format!("{servers} did not confirm the last messages: they may not have arrived")
        })
    }

    /// Waits until the server has handled everything that was sent before: a program that has
    /// subscribed is ready now. (`flush` returns when it is written to the socket.)
    ///
    /// # Errors
    ///
    /// If the server does not answer in time, the connection is lost, or the server has denied
    /// something.
    pub async fn round_trip(&self) -> Result<()> {
        let echo = timeout(CONNECT_TIMEOUT, self.echo()).await;
        self.permitted()?;
        echo.unwrap_or_else(|_| Err(anyhow!("no answer in time")))
            .with_context(|| self.servers().to_owned())
    }

    /// Sends a message to an inbox of its own and waits until it is back. The server handles the
    /// lines of a connection in order. So by then it has handled everything that was sent before,
    /// and everything that it had sent to this connection has arrived.
    ///
    /// A user without permission for the inbox gets a denial instead, which says the same.
    ///
    /// # Errors
    ///
    /// If the connection is lost meanwhile, or the server has denied something else.
    pub(crate) async fn echo(&self) -> Result<()> {
        let (disconnected, mut denials) =
            (self.disconnected(), self.state.echo_denials.subscribe());
        let number = self.state.echoes_sent.fetch_add(1, Ordering::Relaxed) + 1;
        let inbox = format!("{}.{number}", self.state.inbox());
        let mut messages = self.client.subscribe(inbox.clone()).await?;
        self.client.publish(inbox, "".into()).await?;
        tokio::select! {
            biased;
            _ = messages.next() => self.state.echoes_received.fetch_add(1, Ordering::Relaxed),
            _ = denials.wait_for(|denied| *denied >= number) => number,
            error = disconnected => return Err(error),
        };
        Ok(())
    }

    /// How many messages had arrived and were not taken from
    /// [`drain_on_stop`](Self::drain_on_stop) before its deadline.
    #[must_use]
    pub fn undrained(&self) -> u64 {
        self.state.undrained.load(Ordering::Relaxed)
    }

    /// How many messages the client library has dropped: it counts what arrived, and not what it had
    /// no room for. `taken` were taken from all subscriptions.
    #[must_use]
    pub fn dropped(&self, taken: u64) -> u64 {
        let known = taken + self.undrained() + self.echoes_received();
        self.client.statistics().in_messages.load(Ordering::Relaxed).saturating_sub(known)
    }

    /// How many messages this connection has received from itself, to find the end of what the
    /// server had sent.
    #[must_use]
    pub fn echoes_received(&self) -> u64 {
        self.state.echoes_received.load(Ordering::Relaxed)
    }

    pub(crate) fn count_undrained(&self) {
        self.state.undrained.fetch_add(1, Ordering::Relaxed);
    }

    /// When a program that is told to stop has to be done with its subscriptions. The clock starts
    /// at the first call after that.
    pub(crate) fn drain_deadline(&self) -> Instant {
        let now = Instant::now();
        if self.stop.is_cancelled() {
            *self.state.deadline.get_or_init(|| now + DRAIN_TIMEOUT)
        } else {
            now + DRAIN_TIMEOUT
        }
    }
}

/// The connection was lost before a reply came. Whether the request was handled is unknown.
#[derive(Debug, thiserror::Error)]
#[error("the connection was lost before a reply came")]
pub struct Disconnected;

/// What the events of a connection tell, shared with their callback.
#[derive(Debug, Default)]
struct State {
    servers: String,
    /// Whether a denied publish is no reason to end the program.
    log_denied_publishes: AtomicBool,
    stop: CancellationToken,
    deadline: OnceLock<Instant>,
    /// How often the connection was lost.
    losses: watch::Sender<u64>,
    is_lost: AtomicBool,
    refusals: Refusals,
    /// Whether a refusal ends the program.
    gives_up: AtomicBool,
    /// The denial that ends the program.
    denial: SetOnce<String>,
    closed: SetOnce<()>,
    /// Before the numbers of the inboxes of [`Connection::echo`], which count from 1.
    inbox: OnceLock<String>,
    echoes_sent: AtomicU64,
    echoes_received: AtomicU64,
    undrained: AtomicU64,
    /// The last one of these inboxes that was denied.
    echo_denials: watch::Sender<u64>,
    drops_reported: Mutex<Option<Instant>>,
}

impl State {
    fn inbox(&self) -> &str {
        self.inbox.get().map_or("", String::as_str)
    }

    fn event(self: &Arc<Self>, event: &Event) {
        let servers = &self.servers;
        if let Some(reason) = refusals::reason(event) {
            return self.refused(reason);
        }
        match event {
            Event::Disconnected => {
                self.losses.send_modify(|losses| *losses += 1);
                // After a denial the program ends, and says why.
                let is_denied = self.denial.get().is_some();
                if !self.is_lost.swap(true, Ordering::Relaxed) && !is_denied {
                    tracing::warn!("lost the connection to {servers}, reconnecting");
                }
            }
            Event::Connected if self.refusals.is_refused() => {
                let (state, losses) = (Arc::clone(self), *self.losses.borrow());
                tokio::spawn(async move {
                    sleep(HOLDS).await;
                    if *state.losses.borrow() == losses {
                        state.refusals.end();
                        state.connected();
                    }
                });
            }
            Event::Connected => self.connected(),
            Event::Closed => {
                let _ = self.closed.set(());
            }
            Event::ServerError(ServerError::Other(text))
                if text.starts_with("Permissions Violation") =>
            {
                self.denied(text);
            }
            Event::ServerError(error) if over_limit(error).is_some() => {
                let advice = over_limit(error).unwrap_or_default();
                let _ = self.denial.set(format!("{servers} denied it: {error}; {advice}"));
                self.stop.cancel();
            }
            Event::ServerError(error) => tracing::warn!("{servers} reports: {error}"),
            // One for each message dropped, as long as there is room for events.
            Event::SlowConsumer(_) => {
                let reported = self.drops_reported.lock();
                let reported = &mut *reported.unwrap_or_else(PoisonError::into_inner);
                if reported.is_none_or(|at| at.elapsed() > DROPS_INTERVAL) {
                    *reported = Some(Instant::now());
                    tracing::warn!(
                        "slow consumer: messages come faster than they are handled, some were dropped"
                    );
                }
            }
            // Each failed attempt to reconnect is one of these.
            other => tracing::debug!("{other}"),
        }
    }

    fn connected(&self) {
        if self.is_lost.swap(false, Ordering::Relaxed) {
            tracing::info!("connected to {} again", self.servers);
        }
    }

    fn refused(&self, reason: &str) {
        let servers = &self.servers;
        if self.gives_up.load(Ordering::Relaxed) {
            let _ = self.denial.set(format!("{servers} refuses this connection: {reason}"));
            self.stop.cancel();
        } else if self.refusals.add() {
            tracing::warn!(
                "{servers} refuses this connection: {reason}; trying again until that is put right"
            );
        }
    }

    fn denied(&self, text: &str) {
        let servers = &self.servers;
        let echo = text.split_once(self.inbox()).filter(|_| !self.inbox().is_empty());
        if let Some((_, number)) = echo {
            let number = number.trim_matches(|c: char| !c.is_ascii_digit()).parse();
            self.echo_denials.send_replace(number.unwrap_or_default());
        } else if self.log_denied_publishes.load(Ordering::Relaxed)
            && text.contains("Violation for Publish")
        {
            tracing::warn!("{servers} denied it: {text}");
        } else {
            let _ = self.denial.set(format!(
                "{servers} denied it: {text}; connect as a user that may, with --user, --nkey or --creds"
            ));
            self.stop.cancel();
        }
    }
}
