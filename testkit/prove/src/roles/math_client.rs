//! `math-client`: asks for a sum.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use async_nats::{Client, HeaderMap};
use futures::StreamExt;
use testkit::Server;

use crate::verdict::{Flaw, shown};
use crate::{Check, Role, Trial};

const SUBJECT: &str = "math.sum";
const LESSON: &str = "rpc/README.md#what-the-service-adds";

/// The arguments: two numbers, and how long to wait.
const ASKS: &str = "17 25 --timeout 3s";

/// A run of it has to be over by then, also without a reply.
const DONE: Duration = Duration::from_secs(20);

/// What a server says that refuses.
const REFUSAL: &str = "the abacus is broken";

/// The role.
pub const ROLE: Role = Role {
    name: "math-client",
    contract: include_str!("../../contracts/math-client.txt"),
    checks: &[
        Check {
            name: "starts",
            claim: "asks for 17 + 25, prints 42, and exits with code 0",
            lesson: LESSON,
            run: starts,
        },
        Check {
            name: "tells-apart",
            claim: "no server, no reply in time, a server that refuses: exit code 1, and it says which",
            lesson: LESSON,
            run: tells_apart,
        },
    ],
};

/// Takes requests, and answers each so, or not at all.
fn server(
    trial: &Trial,
    nats: &Client,
    answer: impl Fn() -> Option<(HeaderMap, &'static str)> + Send + 'static,
) -> Result<()> {
    let nats = nats.clone();
    let mut requests = trial.block_on(async {
        let requests = nats.subscribe(SUBJECT).await?;
        nats.flush().await?;
        anyhow::Ok(requests)
    })?;
    trial.spawn(async move {
        while let Some(request) = requests.next().await {
            let Some(reply) = request.reply else { continue };
            if let Some((headers, body)) = answer() {
                let _ = nats.publish_with_headers(reply, headers, body.into()).await;
            }
        }
    });
    Ok(())
}

fn starts(trial: &Trial) -> Result<String> {
    let nats_server = trial.server()?;
    let nats = trial.client(&nats_server)?;
    server(trial, &nats, || Some((HeaderMap::new(), r#"{"result":42}"#)))?;
    let begun = Instant::now();
    let mut client = trial.launch(&nats_server).args(ASKS).start()?;
    let end = client.ends_by_itself(DONE)?;
    let printed = client.stdout().join(" ");
    let is_printed = printed.split(|c: char| !c.is_ascii_digit()).any(|word| word == "42");
    if end.code != Some(0) || !is_printed {
        bail!(
            Flaw::new("17 + 25 is not said to be 42")
                .did(format!("It was started with {ASKS}, and a server answered 42."))
                .saw(format!("{} Its stdout: `{printed}`.", end.text))
                .likely("A request is JSON, {\"x\": 17, \"y\": 25}, on math.sum; the reply is {\"result\": 42}.")
        );
    }
    Ok(format!("42, after {}", shown(begun.elapsed())))
}

/// Runs it, and returns what it says on stderr, without digits: they may be times.
fn failure(trial: &Trial, server: &Server, what: &str) -> Result<String> {
    let mut client = trial.launch(server).args(ASKS).start()?;
    let end = client.ends_by_itself(DONE)?;
    let said = client.stderr().join(" ");
    if end.code != Some(1) || said.trim().is_empty() {
        bail!(
            Flaw::new(format!("{what} is no failure"))
                .did(format!("It was started with {ASKS}: {what}."))
                .saw(format!("{} Its stdout: `{}`.", end.text, client.stdout().join(" ")))
                .likely("Exit code 1 and one line on stderr tell a script what happened. To the client library an error reply is a reply like any other: look at its headers.")
        );
    }
    Ok(said.chars().filter(|c| !c.is_ascii_digit()).collect())
}

fn tells_apart(trial: &Trial) -> Result<String> {
    let nats_server = trial.server()?;
    let absent = failure(trial, &nats_server, "no server has subscribed")?;

    let silent_server = trial.server()?;
    let nats = trial.client(&silent_server)?;
    server(trial, &nats, || None)?;
    let silent = failure(trial, &silent_server, "the server does not reply")?;

    let refusing_server = trial.server()?;
    let nats = trial.client(&refusing_server)?;
    server(trial, &nats, || {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Service-Error-Code", "422");
        headers.insert("Nats-Service-Error", REFUSAL);
        Some((headers, ""))
    })?;
    let refused = failure(trial, &refusing_server, "the server refuses")?;

    let likely = "No responders, a time-out and an error reply are three cases: at the first the request can be sent again at once, at the second it may have been handled, at the third it is wrong. The client library tells the first two apart by the error's kind; the third is a reply with the headers Nats-Service-Error-Code and Nats-Service-Error.";
    let alike = if absent == silent {
        Some(("no server and no reply in time", absent))
    } else if silent == refused {
        Some(("no reply in time and a refusal", silent))
    } else if absent == refused {
        Some(("no server and a refusal", absent))
    } else {
        None
    };
    if let Some((two, text)) = alike {
        bail!(
            Flaw::new(format!("{two} read alike"))
                .did("It was run three times: no server had subscribed, the server did not reply, the server refused.")
                .saw(format!("To both it said `{}`.", text.trim()))
                .likely(likely)
        );
    }
    if !refused.contains(REFUSAL) {
        bail!(
            Flaw::new("it keeps to itself why the server refuses")
                .did(format!("The server refused with `{REFUSAL}`."))
                .saw(format!("It said `{}`.", refused.trim()))
                .likely(likely)
        );
    }
    Ok("3 failures, each said in its own words".into())
}
