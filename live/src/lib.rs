//! A page on real programs and a real nats-server, nothing of it simulated: `cargo xtask live`.
//!
//! - [`cast`]: which programs there are, and what the buttons do;
//! - [`stage`]: nats-server and the programs ([`actor`]), each with a line of its own;
//! - [`wire`]: the messages that pass on a line, and [`observe`]: what nats-server says when asked;
//! - [`scenes`]: what a scene makes of that, on a [`desk`]; the [`board`] has all of them;
//! - [`web`]: the page.
//!
//! Nothing is shown that was not seen: on the lines of the programs, in what they print, in how they
//! end, in answers of nats-server, and by subscriptions of the page's own.

pub mod actor;
pub mod board;
pub mod cast;
pub mod desk;
pub mod observe;
pub mod scenes;
pub mod stage;
pub mod web;
pub mod wire;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;
use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use board::Board;
use observe::Observer;
use stage::Stage;
use web::App;

/// How many ports are tried.
const PORTS: u16 = 50;

/// What the page looks at.
#[derive(Debug)]
pub enum Subject {
    /// A private nats-server and programs, which are started: the path of each by its name.
    Programs(HashMap<String, PathBuf>),
    /// A server that runs already. Nothing is started.
    Server(String),
}

/// A lesson, for the page.
#[derive(Clone, Debug)]
pub struct Lesson {
    /// Its title.
    pub title: String,
    /// The question that it answers.
    pub question: String,
    /// All of it, in Markdown.
    pub text: String,
}

/// The page, which is served from [`Live::start`] on.
#[derive(Debug)]
pub struct Live {
    runtime: Runtime,
    listener: TcpListener,
    app: Arc<App>,
}

impl Live {
    /// Starts what is to be looked at, and listens on `port` of this machine, or the next one that is
    /// free. `lessons` has that of each experiment, by the name of its folder.
    ///
    /// # Errors
    ///
    /// If something cannot be started, a server of one's own is not there, or no port is free.
    pub fn start(subject: Subject, lessons: HashMap<String, Lesson>, port: u16) -> Result<Self> {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.context("cannot start the async runtime")?;
        let listener = runtime.block_on(listen(port))?;
        let board = Arc::new(Board::default());
        let is_alone = matches!(subject, Subject::Server(_));
        board.with_each(|scene| scene.desk.is_alone = is_alone);
        let (stage, server) = match subject {
            Subject::Programs(programs) => {
                let stage = Stage::new(programs, &board)?;
                let url = stage.url().to_owned();
                (Some(Arc::new(stage)), url)
            }
            Subject::Server(url) => (None, url),
        };
        let observer = runtime.block_on(Observer::start(&server, is_alone, &board));
        let shown = without_password(&server);
        let observer = observer.with_context(|| shown.clone())?;
        if let Some(stage) = &stage {
            stage.begin()?;
        }
        let app = App {
            board,
            stage,
            observer,
            port: listener.local_addr()?.port(),
            token: format!("{:032x}", rand::random::<u128>()),
            server: shown,
            lessons,
        };
        Ok(Self { runtime, listener, app: Arc::new(app) })
    }

    /// The URL of the page.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.app.port)
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.app.port
    }

    /// Serves the page until SIGINT or SIGTERM. Everything that was started is gone then.
    ///
    /// # Errors
    ///
    /// If the page cannot be served.
    pub fn run(self) -> Result<()> {
        let Self { runtime, listener, app } = self;
        let is_over = AtomicBool::new(false);
        let served = thread::scope(|scope| {
            scope.spawn(|| match &app.stage {
                Some(stage) => stage.follow(&is_over),
                None => while_not(&is_over, || app.board.tick()),
            });
            let served = runtime.block_on(async {
                let mut interrupt = signal(SignalKind::interrupt())?;
                let mut terminate = signal(SignalKind::terminate())?;
                let router = web::router(Arc::clone(&app));
                tokio::select! {
                    served = async { axum::serve(listener, router).await } => served?,
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                anyhow::Ok(())
            });
            is_over.store(true, Ordering::Relaxed);
            served
        });
        // A button that is being pressed may wait for something.
        runtime.shutdown_timeout(Duration::from_secs(1));
        served
    }
}

fn while_not(is_over: &AtomicBool, act: impl Fn()) {
    while !is_over.load(Ordering::Relaxed) {
        act();
        thread::sleep(Duration::from_millis(100));
    }
}

async fn listen(port: u16) -> Result<TcpListener> {
    for port in port..=port.saturating_add(PORTS) {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            return Ok(listener);
        }
    }
    bail!("no port from {port} on is free: choose another one with --port")
}

/// A URL as it may be shown.
fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{host}")
}
