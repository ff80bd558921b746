//! `config-app`: follows a value in a bucket.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use testkit::{Server, Signal};

use crate::instance::Instance;
use crate::roles::switch::{KEY, bucket, delete};
use crate::roles::{ends, ends_without_nats_server, has_asked, restarted};
use crate::verdict::{Flaw, shown};
use crate::{Check, Role, Trial};

const LESSON: &str = "kv/README.md#what-the-service-adds";

/// The value has to be there by then after the start.
const STARTED: Duration = Duration::from_secs(30);

/// A change has to be seen by then, whatever was broken before.
const SOON: Duration = Duration::from_secs(5);

/// The role.
pub const ROLE: Role = Role {
    name: "config-app",
    contract: include_str!("../../contracts/config-app.txt"),
    checks: &[
        Check {
            name: "starts",
            claim: "prints the value that is there",
            lesson: LESSON,
            run: starts,
        },
        Check {
            name: "every-change",
            claim: "prints every change, in order",
            lesson: LESSON,
            run: every_change,
        },
        Check {
            name: "bucket-missing",
            claim: "waits for a bucket that is not there",
            lesson: LESSON,
            run: bucket_missing,
        },
        Check {
            name: "nats-server-restarted",
            claim: "sees changes again within 5 s of nats-server's return",
            lesson: LESSON,
            run: nats_server_restarted,
        },
        Check {
            name: "bucket-made-anew",
            claim: "sees the values of a bucket that was deleted and made anew within 5 s",
            lesson: LESSON,
            run: bucket_made_anew,
        },
        Check {
            name: "neither-value",
            claim: "another value, a delete and a purge mean off",
            lesson: LESSON,
            run: neither_value,
        },
        Check {
            name: "ends",
            claim: "ends within 5 s of SIGTERM and of SIGINT, with exit code 0",
            lesson: LESSON,
            run: |trial| ends(trial, watching),
        },
        Check {
            name: "ends-without-nats-server",
            claim: "the same while nats-server is away",
            lesson: LESSON,
            run: |trial| ends_without_nats_server(trial, watching),
        },
    ],
};

/// What the lines say, on or off, without repetitions.
fn states(app: &Instance) -> Vec<bool> {
    let state = |line: &String| {
        let line = line.to_lowercase();
        let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        let mut states = words.filter_map(|word| match word {
            "on" | "true" => Some(true),
            "off" | "false" => Some(false),
            _ => None,
        });
        states.next_back()
    };
    let mut states: Vec<bool> = app.stdout().iter().filter_map(state).collect();
    states.dedup();
    states
}

fn word(state: Option<&bool>) -> &'static str {
    match state {
        Some(true) => "on",
        Some(false) => "off",
        None => "nothing",
    }
}

/// Waits until the last line says this.
fn says(app: &mut Instance, expected: bool, limit: Duration) -> Result<Duration, Flaw> {
    let begun = Instant::now();
    loop {
        if states(app).last() == Some(&expected) {
            return Ok(begun.elapsed());
        }
        let end = app.end().unwrap_or_default();
        if end.is_some() || begun.elapsed() > limit {
            let last = states(app);
            let (expected, last) = (word(Some(&expected)), word(last.last()));
            let end = end.unwrap_or_else(|| "It runs.".into());
            return Err(Flaw::new(format!(
                "its last line says {last}, and the value is {expected}"
            ))
            .saw(format!("{end} {} later its last line said {last}.", shown(begun.elapsed()))));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a copy that has printed the value.
fn watching(trial: &Trial, server: &Server) -> Result<Instance> {
    let nats = trial.client(server)?;
    let bucket = trial.block_on(bucket(&nats))?;
    trial.block_on(bucket.put(KEY, "true".into()))?;
    let mut app = trial.launch(server).start()?;
    says(&mut app, true, STARTED).map_err(|flaw| {
        flaw.did("The bucket was there, with the value true.").likely(
            "A watch gives only what is new, unless it is told to begin with what is there.",
        )
    })?;
    Ok(app)
}

fn starts(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    let begun = Instant::now();
    watching(trial, &server)?;
    Ok(format!("the value printed after {}", shown(begun.elapsed())))
}

fn every_change(trial: &Trial) -> Result<String> {
    const CHANGES: usize = 100;
    let server = trial.server()?;
    let mut app = watching(trial, &server)?;
    let nats = trial.client(&server)?;
    let bucket = trial.block_on(bucket(&nats))?;
    let values = (0..CHANGES).map(|n| n % 2 == 1);
    trial.block_on(async {
        for value in values.clone() {
            bucket.put(KEY, value.to_string().into()).await?;
        }
        anyhow::Ok(())
    })?;
    let begun = Instant::now();
    while states(&app).len() < CHANGES + 1 && begun.elapsed() < SOON && app.is_running()? {
        thread::sleep(Duration::from_millis(5));
    }
    let seen = states(&app);
    let expected: Vec<bool> = std::iter::once(true).chain(values).collect();
    if seen != expected {
        bail!(
            Flaw::new(format!("{} of {CHANGES} changes were printed", seen.len().saturating_sub(1)))
                .did(format!("The value was changed {CHANGES} times, without a pause."))
                .saw(format!("{} of the changes were in its lines {} later.", seen.len().saturating_sub(1), shown(begun.elapsed())))
                .likely("A program that asks for the value now and then misses what is between. A watch on a bucket with a history misses nothing.")
        );
    }
    Ok(format!("{CHANGES} of {CHANGES} changes, in order"))
}

fn bucket_missing(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    let did = "It was started when there was no bucket. When it had looked for it for 1 s, the bucket was created, with the value true.";
    let likely = "A missing bucket is no error for a program that only reads it: wait for it, and look again.";
    let mut app = trial.launch(&server).start()?;
    has_asked(&mut app, &server)?;
    if let Some(end) = app.end()? {
        bail!(Flaw::new("it ended because there was no bucket").did(did).saw(end).likely(likely));
    }
    let nats = trial.client(&server)?;
    let bucket = trial.block_on(bucket(&nats))?;
    trial.block_on(bucket.put(KEY, "true".into()))?;
    let took = says(&mut app, true, SOON).map_err(|flaw| flaw.did(did).likely(likely))?;
    Ok(format!("the value printed {} after it was there", shown(took)))
}

fn nats_server_restarted(trial: &Trial) -> Result<String> {
    let mut server = trial.server()?;
    let mut app = watching(trial, &server)?;
    let mut longest = Duration::ZERO;
    for value in [false, true] {
        restarted(&mut server)?;
        let nats = trial.client(&server)?;
        let bucket = trial.block_on(bucket(&nats))?;
        trial.block_on(bucket.put(KEY, value.to_string().into()))?;
        let took = says(&mut app, value, SOON).map_err(|flaw| {
            flaw.did("nats-server was killed, started again 1 s later, and the value was changed.")
                .likely("The server-side half of the watch was lost with nats-server, and the client library notices by missing heartbeats, after ten seconds or more. Watch again after each reconnect.")
        })?;
        longest = longest.max(took);
    }
    Ok(format!("changes printed within {}, twice", shown(longest)))
}

fn bucket_made_anew(trial: &Trial) -> Result<String> {
    /// As many values in the new bucket as in the old one: revisions do not tell them apart.
    const REVISIONS: u64 = 12;
    let server = trial.server()?;
    let mut app = watching(trial, &server)?;
    let nats = trial.client(&server)?;
    let old = trial.block_on(bucket(&nats))?;
    trial.block_on(async {
        for n in 1..REVISIONS {
            old.put(KEY, (n % 2 == 0).to_string().into()).await?;
        }
        anyhow::Ok(())
    })?;
    says(&mut app, false, SOON)?;
    trial.block_on(async {
        delete(&nats).await?;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let new = bucket(&nats).await?;
        for n in 1..=REVISIONS {
            new.put(KEY, (n % 2 == 0).to_string().into()).await?;
        }
        anyhow::Ok(())
    })?;
    let took = says(&mut app, true, SOON).map_err(|flaw| {
        let did = format!("At revision {REVISIONS} the bucket was deleted, and made anew 1.5 s later. Then {REVISIONS} values were written, the last one true.");
        let likely = if app.is_running().unwrap_or(false) {
            "A watch goes on at the revision after the last one that it saw, here 13, in any bucket of that name. The new bucket counts from 1. Notice that it is another bucket, and watch again."
        } else {
            "For a moment there is no bucket. That is no reason to end."
        };
        flaw.did(did).likely(likely)
    })?;
    Ok(format!("the value of the new bucket printed after {}", shown(took)))
}

fn neither_value(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    let mut app = watching(trial, &server)?;
    let nats = trial.client(&server)?;
    let bucket = trial.block_on(bucket(&nats))?;
    for what in ["maybe", "", "TRUE", "1", "a delete", "a purge"] {
        trial.block_on(bucket.put(KEY, "true".into()))?;
        says(&mut app, true, SOON)?;
        trial.block_on(async {
            match what {
                "a delete" => bucket.delete(KEY).await?,
                "a purge" => bucket.purge(KEY).await?,
                value => {
                    bucket.put(KEY, value.to_owned().into()).await?;
                }
            }
            anyhow::Ok(())
        })?;
        says(&mut app, false, SOON).map_err(|flaw| {
            let what = if what.starts_with("a ") { what.to_owned() } else { format!("the value {what:?}") };
            Flaw { figure: format!("{what} does not turn it off"), ..flaw }
                .did(format!("The value was true, and then came {what}."))
                .likely("Whatever is not true means off: an entry's operation tells a delete from a value.")
        })?;
    }
    app.signal(Signal::TERM);
    Ok("6 of 6 kinds mean off".into())
}
