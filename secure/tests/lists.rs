//! The lists suffice, and each of their entries is needed.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use secured::Stage;
use secured::access::{Protocol, User, users};
use tokio::time::timeout;

use crate::lessons::play;
use crate::support::{PATIENCE, Playground};

/// Servers at a time, of all tests together, or connections of one. With many more, a program on a busy
/// machine gets no answer in the time that it has to connect.
const AT_A_TIME: usize = 6;
/// How many servers run.
static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());
/// The other form of the subjects on which messages are acknowledged.
const ACKS_V2: &str = "feature_flags { js_ack_fc_v2: true }";

/// Calls `check` for all items, a few at a time, and returns all errors.
pub fn for_each<T: Send>(items: Vec<T>, check: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
    let (items, errors) = (Mutex::new(items), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(item) = items.lock().ok().and_then(|mut items| items.pop()) {
                    if let Err(error) = in_turn(|| check(item))
                        && let Ok(mut errors) = errors.lock()
                    {
                        errors.push(format!("{error:#}"));
                    }
                }
            });
        }
    });
    let errors = errors.into_inner().unwrap_or_default();
    ensure!(errors.is_empty(), "{}", errors.join("\n"));
    Ok(())
}

/// Calls `check` when there is room for one more server.
fn in_turn(check: impl FnOnce() -> Result<()>) -> Result<()> {
    let (running, ended) = &RUNNING;
    let lock = || running.lock().unwrap_or_else(PoisonError::into_inner);
    let room = ended.wait_while(lock(), |running| *running >= AT_A_TIME);
    *room.unwrap_or_else(PoisonError::into_inner) += 1;
    let result = check();
    *lock() -= 1;
    ended.notify_one();
    result
}

/// One user of each lesson.
pub fn lessons() -> Vec<&'static str> {
    vec![
        "hello",
        "log-worker",
        "math-server",
        "math-service",
        "order-consumer",
        "config-app",
        "recorder",
        "job-worker",
    ]
}

#[test]
fn with_its_lists_each_program_plays_its_lesson() -> Result<()> {
    let runs =
        [(Stage::Open, ""), (Stage::Lists, ""), (Stage::Accounts, ""), (Stage::Accounts, ACKS_V2)];
    let runs = runs.into_iter().flat_map(|run| lessons().into_iter().map(move |user| (run, user)));
    for_each(runs.collect(), |((stage, more), user)| {
        let mut playground = Playground::with(stage, None, more)?;
        play(&mut playground, user).map_err(|error| {
            let log = playground.server.log();
            let denied = log.iter().filter(|line| line.contains("Violation"));
            let denied: BTreeSet<_> = denied.filter_map(|line| line.split(" - ").last()).collect();
            error.context(format!("{user} {stage:?} {more}: {denied:#?}"))
        })
    })
}

#[test]
fn without_any_entry_of_a_list_something_fails() -> Result<()> {
    let entries =
        |user: &'static User| user.publish.iter().chain(user.subscribe).map(|it| (user.name, *it));
    let entries: Vec<_> = users().flat_map(|(_, user)| entries(user)).collect();
    for_each(entries, |(user, entry)| {
        // Which form of an acknowledgement is used is up to the server.
        let more = if entry.contains(".*.*.") && entry.starts_with("$JS.") { ACKS_V2 } else { "" };
        let mut playground = Playground::with(Stage::Accounts, Some((user, entry)), more)?;
        let Err(error) = play(&mut playground, user) else { bail!("{user} does not need {entry}") };
        // And it failed for that reason.
        let fixed = entry.split(['*', '>', ' ']).next().unwrap_or_default();
        ensure!(playground.has_denied(fixed), "{user} without {entry}: {error:#}");
        Ok(())
    })
}

/// A subject that an entry allows.
fn concrete(entry: &str) -> String {
    let subject = entry.split(' ').next().unwrap_or_default();
    subject.replace(['*', '>'], "x")
}

/// All that the other users may, one user tries.
async fn tries(playground: &Playground, user: &'static User) -> Result<()> {
    let (client, mut denied) = playground.client(user).await?;
    for (what, entries) in [
        ("Publish", (|user: &User| user.publish) as fn(&User) -> &'static [&'static str]),
        ("Subscription", |user: &User| user.subscribe),
    ] {
        let others = users().flat_map(|(_, other)| entries(other));
        for entry in others.filter(|entry| !entries(user).contains(entry)) {
            let subject = concrete(entry);
            if what == "Publish" {
                client.publish(subject.clone(), "".into()).await?;
            } else {
                client.subscribe(subject.clone()).await?;
            }
            let denial = timeout(PATIENCE, denied.recv()).await;
            let denial = denial.with_context(|| format!("{} may {what} {subject}", user.name))?;
            let expected = format!("Permissions Violation for {what} to \"{subject}\"");
            let denial = denial.unwrap_or_default();
            ensure!(denial.contains(&expected), "{}: {expected}: {denial}", user.name);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_the_lists_of_others_is_denied() -> Result<()> {
    for playground in [Playground::start(Stage::Accounts)?, Playground::with_credentials()?] {
        let programs = users().filter(|(_, user)| user.protocol == Protocol::Nats);
        let all = programs.map(|(_, user)| tries(&playground, user));
        stream::iter(all).buffer_unordered(AT_A_TIME).try_collect::<()>().await?;
    }
    Ok(())
}

/// A device is no NATS client.
#[test]
fn a_device_may_not_connect_as_a_program_does() -> Result<()> {
    let playground = Playground::start(Stage::Accounts)?;
    let ended = playground.as_device("hello")?;
    let line = ended.stderr.join("\n");
    ensure!(ended.code() == Some(1) && line.contains("refuses these credentials"), "{line}");
    Ok(())
}

/// The rows of the README's table.
#[test]
fn the_table_of_the_readme_is_the_configuration() {
    let code = |subjects: &[&str]| {
        let subjects: Vec<_> = subjects.iter().map(|subject| format!("`{subject}`")).collect();
        if subjects.is_empty() { "nothing".to_owned() } else { subjects.join(", ") }
    };
    let rows = users().map(|(account, user)| {
        let [publish, subscribe] = [user.publish, user.subscribe].map(code);
        format!("| `{}` | `{}` | {publish} | {subscribe} |\n", user.name, account.name)
    });
    let rows: String = rows.collect();
    let readme = include_str!("../README.md");
    assert!(readme.contains(&rows), "the rows are:\n{rows}");
    let count: usize = users().map(|(_, it)| it.publish.len() + it.subscribe.len()).sum();
    assert!(readme.contains(&format!(" {count} entries")), "{count} entries");
}
