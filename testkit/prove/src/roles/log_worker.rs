//! `log-worker`: takes its share of the log entries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use async_nats::Client;
use futures::{FutureExt, StreamExt};
use rand::RngExt;
use testkit::{Link, Server, Signal};
use tokio::task::{JoinHandle, unconstrained};

use crate::instance::Instance;
use crate::roles::{ends, ends_without_nats_server, restarted, round_trip, starts, works_again};
use crate::verdict::{Flaw, shown};
use crate::{Check, Role, Seen, Trial};

const SUBJECT: &str = "logs.process";
const LESSON: &str = "queue-groups/README.md#what-the-service-adds";

/// What is sent has to be handled by then, if nothing is broken. A busy machine needs less.
const HANDLED: Duration = Duration::from_secs(20);

/// The role.
pub const ROLE: Role = Role {
    name: "log-worker",
    contract: include_str!("../../contracts/log-worker.txt"),
    checks: &[
        Check {
            name: "starts",
            claim: "subscribes to logs.process within 30 s",
            lesson: LESSON,
            run: |trial| starts(trial, SUBJECT),
        },
        Check {
            name: "takes-its-share",
            claim: "three copies share the entries: each is handled once",
            lesson: LESSON,
            run: takes_its_share,
        },
        Check {
            name: "malformed-entries",
            claim: "malformed entries stop nothing: all good ones are handled",
            lesson: LESSON,
            run: malformed_entries,
        },
        Check {
            name: "stopped-in-full-flow",
            claim: "one of three stopped by SIGTERM in full flow: all entries are handled once",
            lesson: LESSON,
            run: stopped_in_full_flow,
        },
        Check {
            name: "killed",
            claim: "one of three killed: it loses no more than it had been given, and the others take over",
            lesson: LESSON,
            run: killed,
        },
        Check {
            name: "burst",
            claim: "a burst of 200000 entries against a slow worker: nothing is dropped unnoticed",
            lesson: LESSON,
            run: burst,
        },
        Check {
            name: "nats-server-restarted",
            claim: "handles entries again within 5 s of nats-server's return",
            lesson: LESSON,
            run: nats_server_restarted,
        },
        Check {
            name: "ends",
            claim: "ends within 5 s of SIGTERM and of SIGINT, with exit code 0",
            lesson: LESSON,
            run: |trial| ends(trial, |trial, server| trial.launch(server).ready(SUBJECT)),
        },
        Check {
            name: "ends-without-nats-server",
            claim: "the same while nats-server is away",
            lesson: LESSON,
            run: |trial| {
                ends_without_nats_server(trial, |trial, server| trial.launch(server).ready(SUBJECT))
            },
        },
    ],
};

/// The id of the entry of this number: ten digits that a program prints for no other reason.
fn id(number: u64) -> u64 {
    4_000_000_000 + number
}

fn seen() -> Seen {
    Seen::new(|word| word.len() == 10 && word.starts_with('4') && word.parse::<u64>().is_ok())
}

fn entry(number: u64) -> String {
    format!(r#"{{"id":{},"level":"INFO","message":"user logged in"}}"#, id(number))
}

/// Publishes entries, and waits until nats-server has them.
async fn publish(nats: &Client, numbers: impl Iterator<Item = u64>) -> Result<()> {
    for number in numbers {
        nats.publish(SUBJECT, entry(number).into()).await?;
    }
    round_trip(nats).await
}

/// How many of the entries up to `count` are not handled, and how many more than once.
fn missing_and_repeated(seen: &Seen, numbers: impl Iterator<Item = u64>) -> (usize, usize) {
    let ids: Vec<String> = numbers.map(|number| id(number).to_string()).collect();
    seen.missing_and_repeated(ids.iter().map(String::as_str))
}

fn start(trial: &Trial, server: &Server, seen: &Seen) -> Result<Instance> {
    trial.launch(server).watched(seen).ready(SUBJECT)
}

fn start_three(trial: &Trial, server: &Server, seen: &Seen) -> Result<[Instance; 3]> {
    let start = || start(trial, server, seen);
    Ok([start()?, start()?, start()?])
}

/// Publishes entries without a pause, and is never far ahead of the workers.
struct Feed {
    published: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<()>>,
}

impl Feed {
    /// How many entries may be published and not handled.
    const AHEAD: u64 = 5_000;

    fn start(trial: &Trial, nats: &Client, seen: &Seen) -> Self {
        let (published, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (nats, seen) = (nats.clone(), seen.clone());
        let (count, stopped) = (Arc::clone(&published), Arc::clone(&stop));
        let task = trial.spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed) + 1;
                if number % 100 == 0 {
                    while seen.count() + Self::AHEAD < number && !stopped.load(Ordering::Relaxed) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                nats.publish(SUBJECT, entry(number).into()).await?;
                count.store(number, Ordering::Relaxed);
            }
            round_trip(&nats).await
        });
        Self { published, stop, task }
    }

    /// Ends it, and returns how many entries were published: nats-server has them all.
    fn stop(self, trial: &Trial) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        trial.block_on(self.task)??;
        Ok(self.published.load(Ordering::Relaxed))
    }
}

/// Waits until `count` entries were handled, all copies together.
fn in_flow(seen: &Seen, count: u64) -> Result<()> {
    let handled = seen.wait(count, HANDLED);
    if handled < count {
        bail!(
            Flaw::new(format!("{handled} entries handled in {}", shown(HANDLED)))
                .did("Three copies ran, and entries were published without a pause.")
                .saw(format!("Lines of stdout named {handled} of the ids in {}.", shown(HANDLED)))
                .likely("Each entry is handled when a line of stdout names its id: is it printed, and flushed? Or does the program not subscribe to logs.process?")
        );
    }
    Ok(())
}

fn takes_its_share(trial: &Trial) -> Result<String> {
    const ENTRIES: u64 = 2_000;
    let (server, seen) = (trial.server()?, seen());
    let workers = start_three(trial, &server, &seen)?;
    let nats = trial.client(&server)?;
    // A fourth member of the group shows that it is the right one.
    let mut own = trial.block_on(nats.queue_subscribe(SUBJECT, "log_workers".into()))?;
    let taken = trial.block_on(async {
        publish(&nats, 1..=ENTRIES).await?;
        // nats-server has given its share to the fourth member, on the connection on which it says so.
        let mut taken = 0;
        while let Some(Some(_)) = unconstrained(own.next()).now_or_never() {
            taken += 1;
        }
        anyhow::Ok(taken)
    })?;
    let expected = ENTRIES - taken;
    // One more than there may be: a repetition shows itself, or the time is over.
    let handled = match seen.wait(expected, HANDLED) {
        handled if handled < expected => handled,
        _ => seen.wait(expected + 1, Duration::from_millis(300)),
    };
    let (_, repeated) = missing_and_repeated(&seen, 1..=ENTRIES);
    if handled != expected || repeated > 0 {
        bail!(
            Flaw::new(format!("{ENTRIES} entries were handled {} times", handled + taken))
                .did(format!("Three copies ran, and a fourth member of the queue group log_workers. {ENTRIES} entries were published; {taken} went to the fourth member."))
                .saw(format!("The three copies handled {handled} entries in place of {expected}; {repeated} entries were handled more than once."))
                .likely("All workers subscribe to logs.process in the queue group log_workers. Without it, or in a group of another name, several workers get each entry.")
        );
    }
    let shares = workers.iter().map(|worker| worker.given(&server)).collect::<Result<Vec<_>>>()?;
    if shares.contains(&0) {
        bail!(Flaw::new(format!("the shares are {shares:?}")).did("Three copies ran."));
    }
    Ok(format!("{expected} entries handled once, shares {shares:?}"))
}

fn malformed_entries(trial: &Trial) -> Result<String> {
    const MALFORMED: [&[u8]; 9] = [
        b"",
        b"oops",
        b"{",
        b"null",
        b"\xff\xfe\0",
        br#"[1, "INFO", "x"]"#,
        br#"{"level":"INFO","message":"no id"}"#,
        br#"{"id":"one","level":"INFO","message":"an id in letters"}"#,
        br#"{"id":-1,"level":"INFO","message":"a negative id"}"#,
    ];
    let (server, seen) = (trial.server()?, seen());
    let mut worker = start(trial, &server, &seen)?;
    let nats = trial.client(&server)?;
    let mut good = 0;
    for (n, malformed) in MALFORMED.iter().enumerate() {
        good += 1;
        trial.block_on(async {
            nats.publish(SUBJECT, malformed.to_vec().into()).await?;
            publish(&nats, good..=good).await
        })?;
        let limit = Duration::from_secs(5);
        let handled = loop {
            let handled = seen.wait(good, Duration::from_millis(50));
            let end = worker.end()?;
            if handled >= good {
                break Ok(());
            }
            if end.is_some() || worker.age() > HANDLED + limit {
                break Err(end);
            }
        };
        let Err(end) = handled else { continue };
        let shown = String::from_utf8_lossy(malformed).replace('\0', "");
        bail!(
            Flaw::new(format!("after {n} of {} malformed entries it handles nothing more", MALFORMED.len()))
                .did(format!("It got the malformed entry `{shown}`, and a good one behind it."))
                .saw(format!("{} The good entry was not handled.", end.unwrap_or_else(|| "It runs.".into())))
                .likely("An error that leaves the loop ends the program, and everything behind the malformed entry is lost. Report it, and go on.")
        );
    }
    Ok(format!("{good} of {good} good entries behind malformed ones handled"))
}

fn stopped_in_full_flow(trial: &Trial) -> Result<String> {
    let (server, seen) = (trial.server()?, seen());
    // Entries are on their way for a while: a program that stops reading early loses some for certain.
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(30));
    let start = || trial.launch(&server).url(&link.url()).watched(&seen).ready(SUBJECT);
    let mut workers = [start()?, start()?, start()?];
    let nats = trial.client(&server)?;
    let victim = trial.random().random_range(0..workers.len());
    let feed = Feed::start(trial, &nats, &seen);
    in_flow(&seen, 3_000)?;
    // So does one that stands still for a moment, as on a busy machine.
    let before = workers[victim].given(&server)?;
    workers[victim].signal(Signal::STOP);
    workers[victim].wait_until_given(&server, before + 200)?;
    workers[victim].signal(Signal::TERM);
    let told = Instant::now();
    workers[victim].signal(Signal::CONT);
    let end = workers[victim].ends_well(("SIGTERM", told));
    thread::sleep(Duration::from_millis(200));
    let published = feed.stop(trial)?;
    // As long as entries are handled.
    let mut handled = seen.count();
    while handled < published {
        let before = handled;
        handled = seen.wait(before + 1, Duration::from_secs(3));
        if handled == before {
            break;
        }
    }
    let (missing, repeated) = missing_and_repeated(&seen, 1..=published);
    if missing + repeated > 0 {
        let saw = workers[victim].end()?.unwrap_or_else(|| "It runs on.".into());
        bail!(
            Flaw::new(format!("{missing} of {published} entries were not handled, {repeated} twice"))
                .did("Three copies ran in full flow, over a link of 30 ms each way. One was suspended for a moment, as on a busy machine, and got SIGTERM when nats-server had handed it some 200 entries.")
                .saw(format!("{saw} No line named {missing} of the entries."))
                .likely("Entries that nats-server had handed to it were not read any more. Stop nats-server from sending, let the client library receive until the last entry is there, handle all of them, then end. `unsubscribe` stops sending and receiving at once; in some client libraries `drain` does, too.")
        );
    }
    Ok(format!("0 of {published} entries lost, ended {} after SIGTERM", shown(end?)))
}

fn killed(trial: &Trial) -> Result<String> {
    let (server, seen) = (trial.server()?, seen());
    let mut workers = start_three(trial, &server, &seen)?;
    let nats = trial.client(&server)?;
    let victim = trial.random().random_range(0..workers.len());
    let feed = Feed::start(trial, &nats, &seen);
    in_flow(&seen, 3_000)?;
    workers[victim].kill();
    let other = usize::from(victim == 0);
    workers[other].wait(HANDLED, "nats-server noticed that a copy was killed", || {
        Ok((crate::instance::subscribers(&server, SUBJECT)?.len() == 2).then_some(()))
    })?;
    let published = feed.stop(trial)?;
    // Everything that is published now is for the two others.
    let later = published + 1..=published + 1_000;
    trial.block_on(publish(&nats, later.clone()))?;
    for number in later.clone() {
        if seen.wait_for(&id(number).to_string(), HANDLED).is_none() {
            break;
        }
    }
    let (lost, _) = missing_and_repeated(&seen, 1..=published);
    let (missing, _) = missing_and_repeated(&seen, later);
    let given = workers[victim].given_in_all(&server)?;
    if missing > 0 || lost as u64 > given {
        bail!(
            Flaw::new(format!("{lost} of {published} entries lost with it, {missing} of 1000 afterwards"))
                .did("One of three copies was killed with -9. When nats-server had noticed, 1000 entries were published.")
                .saw(format!("{missing} of them were not handled by the two others. Of those before {lost} were lost; it had been given {given}."))
                .likely("The others do not take over: are they all in the queue group log_workers?")
        );
    }
    Ok(format!("{lost} of the {given} entries that it was given are lost, 0 of 1000 afterwards"))
}

fn burst(trial: &Trial) -> Result<String> {
    const BURST: u64 = 200_000;
    let (server, seen) = (trial.server()?, seen());
    let mut worker = start(trial, &server, &seen)?;
    let nats = trial.client(&server)?;
    // It stands still at a full pipe, as a worker whose work is slow.
    let held = seen.hold();
    let before = worker.given(&server)?;
    trial.block_on(publish(&nats, 1..=BURST))?;
    let given = worker.wait_until_given(&server, before + BURST);
    drop(held);
    let mut probe = BURST;
    // Sent until it has room for one. Behind it nothing of the burst is left.
    let (mut handled, mut since) = (seen.count(), Instant::now());
    let is_handled = loop {
        if seen.count() > handled {
            (handled, since) = (seen.count(), Instant::now());
        }
        probe += 1;
        trial.block_on(publish(&nats, probe..=probe))?;
        if seen.wait_for(&id(probe).to_string(), Duration::from_millis(250)).is_some() {
            break true;
        }
        if !worker.is_running()? || since.elapsed() > HANDLED {
            break false;
        }
    };
    let (missing, _) = missing_and_repeated(&seen, 1..=BURST);
    let stderr = worker.stderr();
    let is_noticed = stderr.iter().any(|line| {
        let line = line.to_lowercase();
        ["drop", "slow", "lost", "discard"].iter().any(|word| line.contains(word))
    });
    if !is_handled || (missing > 0 && !is_noticed) {
        let end = worker.end()?.unwrap_or_else(|| "It runs.".into());
        let more = match (is_handled, given) {
            (true, _) => {
                "No line of stderr says so: none has the word drop, slow, lost or discard."
                    .to_owned()
            }
            (false, Ok(())) => "It handles nothing more.".to_owned(),
            (false, Err(error)) => format!("{error:#}."),
        };
        bail!(
            Flaw::new(format!("{missing} of {BURST} entries were dropped in silence"))
                .did(format!("{BURST} entries were published while its stdout was not read, so that it stood still as a slow worker does. Then it could go on."))
                .saw(format!("{missing} entries were never handled. {more} {end}"))
                .likely("The client library keeps a limited number of messages for a slow subscriber, and drops the rest with no more than an event. Raise the limit, and report that event.")
        );
    }
    Ok(match missing {
        0 => format!("0 of {BURST} entries dropped"),
        _ => format!("{missing} of {BURST} entries dropped, and reported"),
    })
}

fn nats_server_restarted(trial: &Trial) -> Result<String> {
    let (mut server, seen) = (trial.server()?, seen());
    let mut worker = start(trial, &server, &seen)?;
    let back = restarted(&mut server)?;
    let nats = trial.client(&server)?;
    let did = "nats-server was killed, and started again 1 s later.";
    let mut number = 0;
    let took = works_again(&mut worker, back, did, || {
        number += 1;
        trial.block_on(publish(&nats, number..=number))?;
        Ok(seen.wait(1, Duration::from_millis(10)) > 0)
    })?;
    Ok(format!("handles entries again {} after nats-server's return", shown(took)))
}
