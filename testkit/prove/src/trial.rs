//! What a check works with.

use std::fs;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use testkit::Server;
use tokio::runtime::{Builder, Runtime};

use crate::Check;
use crate::instance::{Candidate, Launch};

/// One run of one check: the candidate, private servers, and clients of the check's own.
pub struct Trial {
    candidate: Candidate,
    /// Keeps the output of the candidate's copies.
    folder: PathBuf,
    runtime: Runtime,
    seed: u64,
    copies: AtomicUsize,
}

impl Trial {
    /// Prepares a check of this candidate, whose output is kept in `folder`.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made, or the runtime of the check's clients not be started.
    pub fn new(candidate: &Candidate, folder: impl Into<PathBuf>, seed: u64) -> Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot write {}", folder.display()))?;
        Ok(Self {
            candidate: candidate.clone(),
            folder,
            // One for the clients' connections; the check itself runs on its own thread.
            runtime: Builder::new_multi_thread().worker_threads(1).enable_all().build()?,
            seed,
            copies: AtomicUsize::new(0),
        })
    }

    pub(crate) fn run(&self, check: &Check) -> Result<String> {
        // async-nats spawns tasks in functions that are not async.
        let _entered = self.runtime.enter();
        (check.run)(self)
    }

    /// Starts a private server, with JetStream and MQTT.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn server(&self) -> Result<Server> {
        Ok(Server::start()?.quiet())
    }

    /// Starts a private server with this text in its configuration file.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn server_with(&self, config: &str) -> Result<Server> {
        Ok(Server::options().config(config).start()?.quiet())
    }

    /// Prepares a copy of the candidate that is to use this server.
    pub fn launch<'a>(&self, server: &'a Server) -> Launch<'a> {
        let number = self.copies.fetch_add(1, Ordering::Relaxed) + 1;
        let mark = format!("{}-{}-{number}", std::process::id(), self.folder.display());
        let kept = self.folder.join(format!("copy-{number}.txt"));
        Launch::new(&self.candidate, server, mark, kept)
    }

    /// Connects a client of the check's own.
    ///
    /// # Errors
    ///
    /// If the server is away.
    pub fn client(&self, server: &Server) -> Result<async_nats::Client> {
        // A check sends as fast as it can, and waits for what it has sent.
        let options = async_nats::ConnectOptions::new().client_capacity(1 << 16);
        Ok(self.block_on(options.connect(server.url()))?)
    }

    /// Runs a future to its end. Tasks that it spawns go on afterwards.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Spawns a task.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(task)
    }

    /// Random numbers, the same ones for the same seed.
    #[must_use]
    pub fn random(&self) -> impl Rng + use<> {
        StdRng::seed_from_u64(self.seed)
    }
}
