//! The stream that orders go to, through all that can happen to it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use async_nats::jetstream::stream::{Config, Stream};
use async_nats::jetstream::{Context, ErrorCode};
use common::{Failure, Refused};
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::settings::differences;

/// Before something is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// A stream that is there, or else is created again.
#[derive(Debug)]
pub struct OrderStream {
    jetstream: Context,
    config: Config,
    patience: Duration,
    /// As it was when somebody last looked, and when that was.
    found: Mutex<(Stream, Instant)>,
    /// Since when it has stored nothing that it should have.
    failing_since: Cell<Option<Instant>>,
}

impl OrderStream {
    /// Creates the stream. Where it is there as it should be, that has no effect.
    ///
    /// # Errors
    ///
    /// Where it is there with other settings, or the server refuses, or does not answer within
    /// `patience`; [`common::Stopped`] where the program is told to stop meanwhile.
    pub async fn open(jetstream: Context, config: Config, patience: Duration) -> Result<Self> {
        let create = async || create(&jetstream, &config).await;
        let worth = [Failure::Passing, Failure::Missing];
        let client = jetstream.client();
        let opening = common::retry(&client, &worth, patience, create);
        let stream = common::unless_stopped(opening).await?;
        Ok(Self {
            jetstream,
            config,
            patience,
            found: Mutex::new((stream, Instant::now())),
            failing_since: Cell::new(None),
        })
    }

    /// Notes that it has stored something.
    pub fn has_stored(&self) {
        self.failing_since.set(None);
    }

    /// Looks whether it is still there, unless somebody has since `asked_at`: something was asked
    /// then, and not answered. One in memory has gone with its server, and is created again.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), where it has stored nothing for `patience`.
    pub async fn find_again(&self, asked_at: Instant) -> Result<()> {
        // What is wrong may take a moment, the election of a leader for instance.
        sleep(PAUSE).await;
        let mut found = self.found.lock().await;
        if found.1 > asked_at {
            return Ok(());
        }
        let since = self.failing_since.get().unwrap_or_else(Instant::now);
        self.failing_since.set(Some(since));
        let left = self.patience.saturating_sub(since.elapsed());
        let patience = humantime::format_duration(self.patience);
        ensure!(
            !left.is_zero(),
            "it has stored nothing for {patience}; check its health and try again"
        );
        // A server that is stopping has its JetStream off.
        let worth = [Failure::Passing, Failure::Missing, Failure::Off];
        let create = async || create(&self.jetstream, &self.config).await;
        let client = self.jetstream.client();
        let opening = common::retry(&client, &worth, left, create);
        let stream = common::unless_stopped(opening).await?;
        if stream.cached_info().created != found.0.cached_info().created {
            tracing::warn!(
                "{} was gone with all that it kept: it is created again, and empty",
                self.config.name
            );
        }
        *found = (stream, Instant::now());
        Ok(())
    }
}

async fn create(jetstream: &Context, config: &Config) -> Result<Stream> {
    let error = match jetstream.create_stream(config).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    if common::code(&error) != Some(ErrorCode::STREAM_NAME_EXIST) {
        return Err(error.into());
    }
    let name = &config.name;
    let found = jetstream.get_stream(name).await?;
    let differences = differences(config, &found.cached_info().config)?;
    if differences.is_empty() {
        return Ok(found);
    }
    bail!(Refused::because(format!(
        "the stream {name} exists with other settings: {differences}; delete it with \
         `nats stream rm {name}`, or ask for what it is with --storage and --replicas"
    )))
}
