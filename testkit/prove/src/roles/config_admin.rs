//! `config-admin`: turns a switch in a bucket.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::Client;
use futures::StreamExt;
use testkit::{Link, Server, Signal};

use crate::instance::{End, GRACE, Instance};
use crate::roles::switch::{KEY, bucket};
use crate::verdict::{Flaw, shown};
use crate::{Check, Role, Trial};

const LESSON: &str = "kv/README.md#what-the-service-adds";

/// A run of it has to be over by then.
const DONE: Duration = Duration::from_secs(40);

/// The role.
pub const ROLE: Role = Role {
    name: "config-admin",
    contract: include_str!("../../contracts/config-admin.txt"),
    checks: &[
        Check {
            name: "starts",
            claim: "makes the bucket, turns the switch over, and exits with code 0",
            lesson: LESSON,
            run: starts,
        },
        Check {
            name: "sets-a-value",
            claim: "set true and set false write that value",
            lesson: LESSON,
            run: sets_a_value,
        },
        Check {
            name: "two-at-once",
            claim: "two of them at once: each write changes the value, none is lost",
            lesson: LESSON,
            run: two_at_once,
        },
        Check {
            name: "lost-acknowledgement",
            claim: "an acknowledgement that is lost: nothing is written twice, and it goes on",
            lesson: LESSON,
            run: lost_acknowledgement,
        },
        Check {
            name: "turns-back",
            claim: "SIGTERM while the switch is on: it turns the switch back first",
            lesson: LESSON,
            run: turns_back,
        },
        Check {
            name: "ends-without-nats-server",
            claim: "ends within 5 s of SIGTERM while nats-server is away, and says what is undone",
            lesson: LESSON,
            run: ends_without_nats_server,
        },
    ],
};

/// All values that were written, in order; the history holds 64.
async fn written(nats: &Client) -> Result<Vec<String>> {
    let bucket = bucket(nats).await?;
    let mut entries = bucket.history(KEY).await?;
    let mut values = Vec::new();
    while let Some(entry) = entries.next().await {
        values.push(String::from_utf8_lossy(&entry?.value).into_owned());
    }
    Ok(values)
}

/// How many writes repeat the value before them; before the first the switch is off.
fn without_change(values: &[String]) -> usize {
    let before = std::iter::once("false").chain(values.iter().map(String::as_str));
    before.zip(values).filter(|(before, value)| before == value).count()
}

fn starts(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    let mut admin = trial.launch(&server).args("--cycles 1 --interval 10ms").start()?;
    let begun = Instant::now();
    let end = admin.ends_by_itself(DONE)?;
    let nats = trial.client(&server)?;
    let values = trial.block_on(written(&nats))?;
    let is_known = |value: &String| ["true", "false"].contains(&value.as_str());
    let known = values.iter().filter(|value| is_known(value)).count();
    if end.code != Some(0) || known < 2 || known < values.len() || without_change(&values) > 0 {
        bail!(
            Flaw::new(format!("{known} of {} values that were written are true or false", values.len()))
                .did("It was started with --cycles 1 --interval 10ms, and nothing was broken.")
                .saw(format!("{} It wrote {values:?}.", end.text))
                .likely("It makes the bucket configs_playgrnd, and writes `true` and then `false` under the key site_maintenance.")
        );
    }
    Ok(format!("{} writes in {}", values.len(), shown(begun.elapsed())))
}

fn sets_a_value(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    for value in ["true", "false"] {
        let mut admin = trial.launch(&server).args(&format!("set {value}")).start()?;
        let end = admin.ends_by_itself(DONE)?;
        let nats = trial.client(&server)?;
        let values = trial.block_on(written(&nats))?;
        let last = values.last().map_or("nothing", String::as_str);
        if end.code != Some(0) || last != value {
            bail!(
                Flaw::new(format!("the value is {last} after set {value}"))
                    .did(format!("It was started with `set {value}`."))
                    .saw(end.text)
                    .likely("The words are its arguments.")
            );
        }
    }
    Ok("true, then false".into())
}

fn two_at_once(trial: &Trial) -> Result<String> {
    const FLAGS: &str = "--cycles 15 --interval 0s";
    let server = trial.server()?;
    let nats = trial.client(&server)?;
    trial.block_on(bucket(&nats))?;
    let start = || trial.launch(&server).args(FLAGS).start();
    let mut admins = [start()?, start()?];
    let ends = admins.iter_mut().map(|admin| admin.ends_by_itself(DONE));
    let ends: Vec<End> = ends.collect::<Result<_>>()?;
    let values = trial.block_on(written(&nats))?;
    let lost = without_change(&values);
    if lost > 0 || ends.iter().any(|end| end.code != Some(0)) {
        bail!(
            Flaw::new(format!("{lost} of {} writes changed nothing", values.len()))
                .did(format!("Two copies ran at once, with {FLAGS}: each turns the switch over, and back."))
                .saw(format!("{} values were written, {lost} of them the value that was there. {}", values.len(), ends[0].text))
                .likely("Each copy goes by the value that it has read, and the other one writes in between. Write with the revision that was read (compare and set), and read again if another program was faster.")
        );
    }
    Ok(format!("0 of {} writes without a change", values.len()))
}

fn lost_acknowledgement(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    let nats = trial.client(&server)?;
    trial.block_on(bucket(&nats))?;
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(200));
    let did = "When its first write had arrived, the network broke with the acknowledgement on its way, and was there again at once.";
    let likely = "A write whose acknowledgement does not come may be stored or not. Send it again with the same revision and the same message id, or read what is there.";
    let mut admin =
        trial.launch(&server).args("--cycles 1 --interval 500ms").url(&link.url()).start()?;
    admin.wait(DONE, "its first write arrived", || {
        let jsz = server.monitor("/jsz")?;
        Ok((jsz["messages"].as_u64() > Some(0)).then_some(()))
    })?;
    link.cut();
    link.reset();
    link.heal();
    let end = admin.ends_by_itself(DONE)?;
    let values = trial.block_on(written(&nats))?;
    let twice = without_change(&values);
    if twice > 0 || end.code != Some(0) {
        let figure = match twice {
            0 => format!("it gave up after {} writes", values.len()),
            _ => format!("{twice} of {} writes were made twice", values.len()),
        };
        let saw = format!("{} It wrote {values:?}.", end.text);
        bail!(Flaw::new(figure).did(did).saw(saw).likely(likely));
    }
    Ok(format!("{} writes, none twice", values.len()))
}

/// Starts a copy, and waits until it has turned the switch on.
fn switched_on(trial: &Trial, server: &Server) -> Result<Instance> {
    let nats = trial.client(server)?;
    trial.block_on(bucket(&nats))?;
    let mut admin = trial.launch(server).args("--cycles 3 --interval 1h").start()?;
    admin.wait(DONE, "it turned the switch on", || {
        let values = trial.block_on(written(&nats))?;
        Ok((values.last().map(String::as_str) == Some("true")).then_some(()))
    })?;
    Ok(admin)
}

fn turns_back(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    let mut admin = switched_on(trial, &server)?;
    admin.signal(Signal::TERM);
    let took = admin.ends_well(("SIGTERM", Instant::now()));
    let nats = trial.client(&server)?;
    let values = trial.block_on(written(&nats))?;
    let last = values.last().context("no value")?;
    if last != "false" {
        let end = admin.end()?.unwrap_or_else(|| "It runs on.".into());
        bail!(
            Flaw::new("the site stays in maintenance")
                .did("It got SIGTERM while the switch was on.")
                .saw(format!("{end} The value is {last}."))
                .likely("What a program has begun it has to take back before it ends: here the switch, which was off when it started.")
        );
    }
    Ok(format!("turned back, ended {} after SIGTERM", shown(took?)))
}

fn ends_without_nats_server(trial: &Trial) -> Result<String> {
    let mut server = trial.server()?;
    let mut admin = switched_on(trial, &server)?;
    server.kill()?;
    thread::sleep(Duration::from_millis(500));
    admin.signal(Signal::TERM);
    let told = Instant::now();
    let end = admin.ends_by_itself(GRACE)?;
    if end.code != Some(1) || admin.stderr().is_empty() {
        bail!(
            Flaw::new("it does not say that the switch is left on")
                .did("It got SIGTERM while the switch was on, and nats-server away.")
                .saw(end.text)
                .likely("Something is left undone: exit code 1, and one line that says what.")
        );
    }
    Ok(format!("ended after {}, with exit code 1", shown(told.elapsed())))
}
