//! `log-publisher`: publishes log entries.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};
use futures::{FutureExt, StreamExt};
use serde_json::Value;

use crate::roles::{denied, round_trip, without_publishing};
use crate::verdict::Flaw;
use crate::{Check, Role, Trial};

const SUBJECT: &str = "logs.process";
const LESSON: &str = "queue-groups/README.md#what-the-service-adds";

/// Entries of one run.
const ENTRIES: usize = 30;
const FLAGS: &str = "--count 30";

/// A run of it has to be over by then.
const DONE: Duration = Duration::from_secs(30);

/// The role.
pub const ROLE: Role = Role {
    name: "log-publisher",
    contract: include_str!("../../contracts/log-publisher.txt"),
    checks: &[
        Check {
            name: "arrives",
            claim: "all entries have arrived when it exits, in each of five runs",
            lesson: LESSON,
            run: arrives,
        },
        Check {
            name: "denied",
            claim: "nats-server does not let it publish: exit code 1, and a line that says so",
            lesson: LESSON,
            run: |trial| denied(trial, &without_publishing(SUBJECT), FLAGS),
        },
    ],
};

fn arrives(trial: &Trial) -> Result<String> {
    const RUNS: usize = 5;
    let server = trial.server()?;
    let nats = trial.client(&server)?;
    let mut logs = trial.block_on(nats.subscribe(SUBJECT))?;
    trial.block_on(nats.flush())?;
    let (mut arrived, mut said) = (0, String::new());
    for _ in 0..RUNS {
        let mut publisher = trial.launch(&server).args(FLAGS).start()?;
        let end = publisher.ends_by_itself(DONE)?;
        let mut ids = BTreeSet::new();
        // nats-server has read everything when it has noticed the end, and what comes back to the
        // subscriber then comes after it.
        server.monitor_until("/connz", |connz| connz["num_connections"] == 1)?;
        trial.block_on(round_trip(&nats))?;
        while let Some(Some(log)) = logs.next().now_or_never() {
            let log: Value = serde_json::from_slice(&log.payload).unwrap_or_default();
            ids.extend(log["id"].as_u64());
        }
        arrived += ids.len().min(ENTRIES);
        let printed = publisher.stdout().last().cloned().unwrap_or_default();
        said = format!("{} The last line of stdout was `{printed}`.", end.text);
        if end.code != Some(0) {
            break;
        }
    }
    let all = RUNS * ENTRIES;
    if arrived != all {
        bail!(
            Flaw::new(format!("{} of {all} entries never arrived", all - arrived))
                .did(format!("It was run {RUNS} times with {FLAGS}, while a subscriber listened on {SUBJECT}."))
                .saw(format!("{said} {arrived} entries arrived."))
                .likely("A client library puts messages into a buffer, and sends them from there in the background. A program that ends before has sent nothing.")
        );
    }
    Ok(format!("{arrived} of {all} entries arrived"))
}
