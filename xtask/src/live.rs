//! `cargo xtask live`: the programs of all experiments on one page.

use std::collections::HashMap;
use std::process::{Command, Stdio};

use anstream::{eprintln, println};
use anyhow::{Context, Result};
use live::{Live, Subject, cast};
use testkit::Lesson;

use crate::workspace::{build, root};

/// The command line.
#[derive(clap::Args)]
pub struct Call {
    /// The port of the page; if it is taken, the next free one
    #[arg(long, default_value_t = 8300)]
    port: u16,
    /// Opens the page in the browser
    #[arg(long)]
    open: bool,
    /// A running server to look at: nothing is started, and there are no buttons
    #[arg(long, value_name = "URL")]
    server: Option<String>,
}

/// Serves the page until Ctrl-C.
pub fn run(call: Call) -> Result<()> {
    let subject = if let Some(url) = call.server {
        Subject::Server(url)
    } else {
        // Both may take a while and report on stderr.
        let programs = build(&cast::experiments())?;
        testkit::nats_server()?;
        Subject::Programs(programs)
    };
    let lessons = cast::experiments().into_iter().map(|name| {
        let Lesson { title, question, .. } = Lesson::read(root().join(&name).join("README.md"))?;
        let text = std::fs::read_to_string(root().join(&name).join("README.md"))?;
        Ok((name, live::Lesson { title, question, text }))
    });
    let live = Live::start(subject, lessons.collect::<Result<HashMap<_, _>>>()?, call.port)?;
    if live.port() != call.port {
        println!("port {} is taken: the page is on {}", call.port, live.port());
    }
    println!("{}    (Ctrl-C ends all of it)", live.url());
    // Without a browser the page is there, too.
    if call.open
        && let Err(error) = open(&live.url())
    {
        eprintln!("{error:#}");
    }
    live.run()
}

fn open(url: &str) -> Result<()> {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = Command::new(opener);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("cannot run {opener}: open the page yourself"))?;
    Ok(())
}
