//! `hello`: hears its own message.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::roles::{denied, without_publishing};
use crate::verdict::{Flaw, shown};
use crate::{Check, Role, Trial};

const LESSON: &str = "hello/README.md#what-the-service-adds";

/// A message is back after less than a millisecond; a program in a slow language starts first.
const ROUND_TRIP: Duration = Duration::from_secs(5);

/// The role.
pub const ROLE: Role = Role {
    name: "hello",
    contract: include_str!("../../contracts/hello.txt"),
    checks: &[
        Check {
            name: "starts",
            claim: "prints its own message when it comes back, and exits with code 0",
            lesson: LESSON,
            run: starts,
        },
        Check {
            name: "denied",
            claim: "nats-server does not let it publish: exit code 1, and a line that says so",
            lesson: LESSON,
            run: |trial| denied(trial, &without_publishing("hello"), ""),
        },
    ],
};

fn starts(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    let begun = Instant::now();
    let mut hello = trial.launch(&server).start()?;
    let end = hello.ends_by_itself(ROUND_TRIP);
    let lines = hello.stdout();
    let count = lines.iter().filter(|line| line.contains("Hello World!")).count();
    let is_good = end.as_ref().is_ok_and(|end| end.code == Some(0)) && count == 1;
    if !is_good {
        let running = |_| format!("{} later it ran.", shown(begun.elapsed()));
        let saw = end.map_or_else(running, |end| end.text);
        bail!(
            Flaw::new(format!("{count} of 1 message came back"))
                .did("It was started, and nothing was broken.")
                .saw(format!("{saw} Its stdout had {} lines.", lines.len()))
                .likely("nats-server gives a message to those that have subscribed when it comes, and keeps none for later: subscribe first, then publish.")
        );
    }
    Ok(format!("its message came back, all in {}", shown(begun.elapsed())))
}
