//! `order-publisher`: stores orders, each once.

use std::collections::{BTreeMap, HashSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use async_nats::jetstream::stream::StorageType;
use testkit::{Link, Server, Signal};

use crate::instance::Instance;
use crate::roles::durable::number;
use crate::roles::orders::{ORDERS, create, stored};
use crate::verdict::{Flaw, shown};
use crate::{Check, Role, Trial};

const LESSON: &str = "jetstream/README.md#what-the-service-adds";

/// What it publishes has to be stored by then, if nothing is broken.
const STORED: Duration = Duration::from_secs(30);

/// When nats-server stays away it has to give up after 30 s. A busy machine is late.
const GIVES_UP: Duration = Duration::from_secs(40);

/// The role.
pub const ROLE: Role = Role {
    name: "order-publisher",
    contract: include_str!("../../contracts/order-publisher.txt"),
    checks: &[
        Check {
            name: "starts",
            claim: "makes the stream, stores ten orders, and exits with code 0",
            lesson: LESSON,
            run: starts,
        },
        Check {
            name: "disk-full",
            claim: "nats-server has room for some orders only: these are reported, and exit code 1",
            lesson: LESSON,
            run: disk_full,
        },
        Check {
            name: "three-kills",
            claim: "what it reports is stored, once, through three kills of nats-server",
            lesson: LESSON,
            run: three_kills,
        },
        Check {
            name: "gives-up",
            claim: "when nats-server stays away it exits with code 1 and the number stored",
            lesson: LESSON,
            run: gives_up,
        },
        Check {
            name: "other-settings",
            claim: "a stream with other settings is refused, and left as it is",
            lesson: LESSON,
            run: other_settings,
        },
        Check {
            name: "stopped-in-full-flow",
            claim: "SIGTERM in full flow: what it has reported is exactly what is stored",
            lesson: LESSON,
            run: stopped_in_full_flow,
        },
        Check {
            name: "ends-without-nats-server",
            claim: "ends within 5 s of SIGTERM while nats-server is away, and says what is unknown",
            lesson: LESSON,
            run: ends_without_nats_server,
        },
    ],
};

fn stored_count(server: &Server) -> Result<u64> {
    Ok(number(&ORDERS.stream_info(server)?, "/state/messages"))
}

/// The words of the lines that look like the ids of orders: as long as those that are stored, with
/// as many `-` and `_`, and with a digit.
fn reported(instance: &Instance, stored: &[String]) -> HashSet<String> {
    let shape = |word: &str| word.matches(['-', '_']).count();
    let shapes: HashSet<usize> = stored.iter().map(|id| shape(id)).collect();
    let shortest = stored.iter().map(String::len).min().unwrap_or(0).saturating_sub(3);
    let longest = stored.iter().map(String::len).max().unwrap_or(0) + 3;
    let is_word = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    let known: HashSet<&str> = stored.iter().map(String::as_str).collect();
    let lines = instance.stdout();
    let words = lines.iter().flat_map(|line| line.split(|c| !is_word(c)));
    let looks_like = |word: &str| {
        known.contains(word)
            || (longest > 10
                && (shortest..=longest).contains(&word.len())
                && shapes.contains(&shape(word))
                && word.contains(|c: char| c.is_ascii_digit()))
    };
    words.filter(|word| looks_like(word)).map(str::to_owned).collect()
}

/// Compares what was reported with what is stored. `stored` may be more than was reported: an
/// order whose acknowledgement was lost.
struct Comparison {
    reported: usize,
    stored: usize,
    missing: usize,
    doubled: usize,
    unreported: usize,
}

impl Comparison {
    fn new(instance: &Instance, stored: &[String]) -> Self {
        let reported = reported(instance, stored);
        let mut times: BTreeMap<&str, u32> = BTreeMap::new();
        for id in stored {
            *times.entry(id).or_default() += 1;
        }
        Self {
            reported: reported.len(),
            stored: times.len(),
            missing: reported.iter().filter(|id| !times.contains_key(id.as_str())).count(),
            doubled: times.values().filter(|count| **count > 1).count(),
            unreported: times.keys().filter(|id| !reported.contains(**id)).count(),
        }
    }
}

fn starts(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    let begun = Instant::now();
    let mut publisher = trial.launch(&server).args("--count 10 --storage file").start()?;
    let end = publisher.ends_by_itself(STORED)?;
    let nats = trial.client(&server)?;
    let ids = if ORDERS.stream_info(&server)?.is_null() {
        vec![]
    } else {
        trial.block_on(stored(&nats))?
    };
    let compared = Comparison::new(&publisher, &ids);
    if end.code != Some(0) || ids.len() != 10 || compared.reported != 10 {
        bail!(
            Flaw::new(format!("{} of 10 orders are stored, {} were reported", ids.len(), compared.reported))
                .did("It was started with --count 10 --storage file, and nothing was broken.")
                .saw(end.text)
                .likely("It makes the stream playgrnd_stream on orders.>, publishes JSON orders on orders.created, and prints a line with the order_id of each order that nats-server has acknowledged.")
        );
    }
    Ok(format!("10 of 10 orders stored, after {}", shown(begun.elapsed())))
}

fn disk_full(trial: &Trial) -> Result<String> {
    let server = trial.server_with(
        "accounts { ORDERS {
            users: [ { user: candidate, password: prove } ]
            jetstream { max_file: 1KB, max_memory: 1KB }
        } }
        no_auth_user: candidate",
    )?;
    let mut publisher = trial.launch(&server).args("--count 100 --storage file").start()?;
    let end = publisher.ends_by_itself(GIVES_UP)?;
    let nats = trial.client(&server)?;
    let ids = trial.block_on(stored(&nats))?;
    let it = Comparison::new(&publisher, &ids);
    if it.missing > 0 || it.reported != ids.len() || ids.is_empty() || end.code != Some(1) {
        bail!(
            Flaw::new(format!("{} orders reported, {} stored", it.reported, it.stored))
                .did("nats-server had 1 KB for streams. It was started with --count 100 --storage file.")
                .saw(format!("{} It had reported {} orders; the stream holds {}.", end.text, it.reported, it.stored))
                .likely("`publish` sends an order, and what it returns is a promise: await it too, and nats-server's answer is there. It may be a refusal. Only then is the order stored, and can be reported.")
        );
    }
    Ok(format!("{} reported, {} stored, exit code 1", it.reported, it.stored))
}

/// Starts a copy over a link of 100 ms each way: the acknowledgements of orders are on their way for a
/// while.
fn far_away(trial: &Trial, flags: &str) -> Result<(Server, Link, Instance)> {
    let server = trial.server()?;
    let nats = trial.client(&server)?;
    trial.block_on(create(&nats, StorageType::File))?;
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(100));
    let publisher = trial.launch(&server).args(flags).url(&link.url()).start()?;
    Ok((server, link, publisher))
}

fn three_kills(trial: &Trial) -> Result<String> {
    const KILLS: u64 = 3;
    let (mut server, link, mut publisher) = far_away(trial, "--count 2000 --storage file")?;
    let mut kills = 0;
    let mut before = 0;
    while kills < KILLS && publisher.is_running()? {
        let count = stored_count(&server)?;
        if count >= before + 3 {
            // The acknowledgements that are on the link are lost with nats-server.
            link.cut();
            server.kill()?;
            link.reset();
            link.heal();
            kills += 1;
            thread::sleep(Duration::from_millis(300));
            server.restart()?;
            before = stored_count(&server)?;
        }
        thread::sleep(Duration::from_millis(2));
    }
    link.delay(Duration::ZERO);
    let end = publisher.ends_by_itself(2 * STORED)?;
    let nats = trial.client(&server)?;
    let ids = trial.block_on(stored(&nats))?;
    let it = Comparison::new(&publisher, &ids);
    let did = format!(
        "It was started with --count 2000 --storage file, over a link of 100 ms each way. nats-server was killed {kills} times in the middle, and was back 0.3 s later."
    );
    if it.missing > 0 || it.doubled > 0 || end.code != Some(0) {
        let figure = if it.missing + it.doubled > 0 {
            format!("{} orders reported and not stored, {} stored twice", it.missing, it.doubled)
        } else {
            format!("it gave up: {} orders reported, {} stored", it.reported, it.stored)
        };
        bail!(
            Flaw::new(figure)
                .did(did)
                .saw(format!("{} It had reported {} orders; {} are stored, {} of them twice.", end.text, it.reported, it.stored, it.doubled))
                .likely("An order counts when its acknowledgement is there, not when it is sent. If the acknowledgement does not come, the order may be stored or not: send it again with the same Nats-Msg-Id, and nats-server drops the repetition.")
        );
    }
    if kills < KILLS {
        bail!(Flaw::new(format!("it ended after {kills} kills")).did(did).saw(end.text));
    }
    Ok(format!(
        "{} of {} reported orders stored once, through {kills} kills",
        it.reported, it.reported
    ))
}

fn gives_up(trial: &Trial) -> Result<String> {
    let (mut server, _link, mut publisher) = far_away(trial, "--count 100000 --storage file")?;
    publisher.wait(STORED, "three orders were stored", || {
        Ok((stored_count(&server)? >= 3).then_some(()))
    })?;
    publisher.wait(STORED, "it had reported an order", || Ok(Some(())))?;
    server.kill()?;
    let away = Instant::now();
    let end = publisher.ends_by_itself(GIVES_UP)?;
    let took = away.elapsed();
    server.restart()?;
    let nats = trial.client(&server)?;
    let ids = trial.block_on(stored(&nats))?;
    let it = Comparison::new(&publisher, &ids);
    let stderr = publisher.stderr().join("\n");
    let numbers = |text: &str| -> Vec<usize> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
    };
    let is_said = numbers(&stderr).contains(&it.reported);
    if end.code != Some(1) || !is_said || it.missing > 0 {
        bail!(
            Flaw::new(format!("{} orders reported, {} of them not stored, the number {}", it.reported, it.missing, if is_said { "said" } else { "not said" }))
                .did("nats-server was killed when some orders were stored, and stayed away.")
                .saw(format!("{} That was {} after the kill. {} orders are stored.", end.text, shown(took), it.stored))
                .likely("Exit code 1, and one line on stderr, say how far it came: the number of orders that are stored for certain.")
        );
    }
    Ok(format!("exit code 1 after {}, {} orders said to be stored", shown(took), it.reported))
}

fn other_settings(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    let nats = trial.client(&server)?;
    trial.block_on(create(&nats, StorageType::Memory))?;
    let mut publisher = trial.launch(&server).args("--count 10 --storage file").start()?;
    let end = publisher.ends_by_itself(STORED)?;
    let info = ORDERS.stream_info(&server)?;
    let storage = info["config"]["storage"].as_str().unwrap_or("?").to_owned();
    let count = number(&info, "/state/messages");
    let is_said = publisher.stderr().iter().any(|line| line.to_lowercase().contains("storage"));
    if end.code != Some(1) || !is_said || count > 0 || storage != "memory" {
        bail!(
            Flaw::new(format!("{count} of 10 orders went into a stream with other settings"))
                .did("The stream was there, with memory storage. It was started with --storage file.")
                .saw(format!("{} The stream has {storage} storage, and holds {count} orders.", end.text))
                .likely("A call that creates a stream or takes the one that is there does not compare all settings, and orders that are said to be on disk go with the server's memory. Compare, and refuse with a line that says which setting differs.")
        );
    }
    Ok("refused, and left as it was".into())
}

fn stopped_in_full_flow(trial: &Trial) -> Result<String> {
    let (server, _link, mut publisher) = far_away(trial, "--count 100000 --storage file")?;
    publisher.wait(STORED, "five orders were stored", || {
        Ok((stored_count(&server)? >= 5).then_some(()))
    })?;
    publisher.signal(Signal::TERM);
    let told = Instant::now();
    let took = publisher.ends_well(("SIGTERM", told));
    let nats = trial.client(&server)?;
    let ids = trial.block_on(stored(&nats))?;
    let it = Comparison::new(&publisher, &ids);
    if it.missing + it.unreported + it.doubled > 0 {
        let saw = publisher.end()?.unwrap_or_else(|| "It runs on.".into());
        bail!(
            Flaw::new(format!("{} orders stored and not reported, {} reported and not stored", it.unreported, it.missing))
                .did("It got SIGTERM in the middle of its orders, over a link of 100 ms each way.")
                .saw(format!("{saw} It had reported {} orders, and {} are stored.", it.reported, it.stored))
                .likely("Acknowledgements that were on their way are not waited for. Stop publishing, take the acknowledgements that are missing, then end.")
        );
    }
    Ok(format!(
        "{} reported, {} stored, ended {} after SIGTERM",
        it.reported,
        it.stored,
        shown(took?)
    ))
}

fn ends_without_nats_server(trial: &Trial) -> Result<String> {
    let (mut server, _link, mut publisher) = far_away(trial, "--count 100000 --storage file")?;
    publisher.wait(STORED, "three orders were stored", || {
        Ok((stored_count(&server)? >= 3).then_some(()))
    })?;
    server.kill()?;
    thread::sleep(Duration::from_millis(500));
    if let Some(end) = publisher.end()? {
        bail!(
            Flaw::new("it ended with its connection")
                .did("nats-server was killed in the middle of its orders.")
                .saw(end)
                .likely("A connection that is lost is no reason to end: client libraries connect again. Keep the orders that are not acknowledged, and send them again.")
        );
    }
    publisher.signal(Signal::TERM);
    let told = Instant::now();
    let end = publisher.ends_by_itself(crate::instance::GRACE)?;
    if end.code != Some(1) {
        bail!(
            Flaw::new("it does not say that orders may be stored or not")
                .did("It got SIGTERM while nats-server was away, and orders were unacknowledged.")
                .saw(end.text)
                .likely("Something is left undone: exit code 1, and one line that says how many orders may be stored or not.")
        );
    }
    Ok(format!("ended after {}, with exit code 1", shown(told.elapsed())))
}
