//! `order-consumer`: takes orders from a stream, each at least once.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use async_nats::jetstream::{self, stream::StorageType};
use testkit::{Server, Signal};

use crate::instance::Instance;
use crate::roles::durable::number;
use crate::roles::orders::{CREATED, ORDERS as STREAM, create, id, store};
use crate::roles::{confirmed, ends, ends_without_nats_server, has_asked, restarted};
use crate::verdict::{Flaw, shown};
use crate::{Check, Role, Seen, Trial};

const LESSON: &str = "jetstream/README.md#what-the-service-adds";

/// What can be taken has to be taken by then. A busy machine needs less.
const TAKEN: Duration = Duration::from_secs(20);

/// An order that was delivered to a program that is dead comes again after `ack_wait`, which is 30 s
/// unless the program says otherwise.
const TAKEN_AGAIN: Duration = Duration::from_secs(45);

/// After an outage it has to take orders again by then.
const BACK: Duration = Duration::from_secs(5);

/// The role.
pub const ROLE: Role = Role {
    name: "order-consumer",
    contract: include_str!("../../contracts/order-consumer.txt"),
    checks: &[
        Check {
            name: "starts",
            claim: "takes an order from the stream within 30 s",
            lesson: LESSON,
            run: starts,
        },
        Check {
            name: "history-first",
            claim: "takes what was stored before it started, then what follows, once and in order",
            lesson: LESSON,
            run: history_first,
        },
        Check {
            name: "goes-on",
            claim: "stopped and started again, it goes on exactly where it stopped",
            lesson: LESSON,
            run: goes_on,
        },
        Check {
            name: "killed",
            claim: "killed with -9 and started again: every order is handled at least once",
            lesson: LESSON,
            run: killed,
        },
        Check {
            name: "stopped-in-full-flow",
            claim: "SIGTERM in full flow leaves nothing unacknowledged",
            lesson: LESSON,
            run: stopped_in_full_flow,
        },
        Check {
            name: "poison-order",
            claim: "what is no order never blocks the others, and never comes again",
            lesson: LESSON,
            run: poison_order,
        },
        Check {
            name: "stream-missing",
            claim: "waits for a stream that is not there, and never creates it",
            lesson: LESSON,
            run: stream_missing,
        },
        Check {
            name: "stream-made-anew",
            claim: "takes orders from a stream that was deleted and made anew within 5 s",
            lesson: LESSON,
            run: stream_made_anew,
        },
        Check {
            name: "slow-handler",
            claim: "with --work 100ms nothing is redelivered while it lives",
            lesson: LESSON,
            run: slow_handler,
        },
        Check {
            name: "nats-server-restarted",
            claim: "takes orders again within 5 s of nats-server's return, and misses none",
            lesson: LESSON,
            run: nats_server_restarted,
        },
        Check {
            name: "ends",
            claim: "ends within 5 s of SIGTERM and of SIGINT, with exit code 0",
            lesson: LESSON,
            run: |trial| ends(trial, idle),
        },
        Check {
            name: "ends-without-nats-server",
            claim: "the same while nats-server is away",
            lesson: LESSON,
            run: |trial| {
                ends_without_nats_server(trial, |trial, server| idle(trial, server).map(confirmed))
            },
        },
    ],
};

fn seen() -> Seen {
    Seen::new(|word| word.starts_with("prove-"))
}

/// Starts a copy that has taken and acknowledged all there is.
fn idle(trial: &Trial, server: &Server) -> Result<Instance> {
    let nats = trial.client(server)?;
    if STREAM.stream_info(server)?.is_null() {
        trial.block_on(create(&nats, StorageType::File))?;
        trial.block_on(store(&nats, 1..=1))?;
    }
    let mut instance = trial.launch(server).start()?;
    instance.wait(TAKEN + BACK + BACK, "it had taken and acknowledged an order", || {
        let info = STREAM.consumer_info(server)?;
        let is_idle =
            number(&info, "/ack_floor/stream_seq") > 0 && number(&info, "/num_waiting") > 0;
        Ok(is_idle.then_some(()))
    })?;
    Ok(instance)
}

fn starts(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    let begun = Instant::now();
    idle(trial, &server)?;
    Ok(format!("an order acknowledged after {}", shown(begun.elapsed())))
}

/// Waits until `count` lines have named an order.
fn taken(
    server: &Server,
    seen: &Seen,
    count: u64,
    limit: Duration,
    instance: &mut Instance,
) -> Result<(), Flaw> {
    let (begun, mut over_since) = (Instant::now(), None);
    loop {
        let taken = seen.wait(count, Duration::from_millis(50));
        if taken >= count {
            return Ok(());
        }
        let end = instance.end().unwrap_or_default();
        let is_over = STREAM.is_over(server).unwrap_or(false);
        over_since = if is_over { over_since.or(Some(Instant::now())) } else { None };
        let is_settled = over_since.is_some_and(|since| since.elapsed() > BACK);
        if end.is_some() || is_settled || begun.elapsed() > limit {
            let end = end.unwrap_or_else(|| "It runs.".into());
            return Err(Flaw::new(format!("{taken} of {count} orders were taken")).saw(format!(
                "{end} Lines named {taken} of {count} orders after {}.",
                shown(begun.elapsed())
            )));
        }
    }
}

/// Fails unless the lines named these orders, each once, in this order.
fn exactly(seen: &Seen, numbers: std::ops::RangeInclusive<u64>) -> Result<(), Flaw> {
    // A repetition needs a moment to show itself.
    let expected: Vec<String> = numbers.map(id).collect();
    let _ = seen.wait(expected.len() as u64 + 1, Duration::from_millis(300));
    let ids = seen.ids();
    if ids == expected {
        return Ok(());
    }
    let (missing, repeated) = seen.missing_and_repeated(expected.iter().map(String::as_str));
    let at = ids.iter().zip(&expected).position(|(id, expected)| id != expected);
    let at = at.map_or(String::new(), |at| {
        format!(" Line {} named {} in place of {}.", at + 1, ids[at], expected[at])
    });
    Err(Flaw::new(format!("{missing} of {} orders missing, {repeated} repeated", expected.len()))
        .saw(format!("The lines named {} orders.{at}", ids.len())))
}

fn history_first(trial: &Trial) -> Result<String> {
    const DID: &str = "500 orders were stored. Then it was started, and 500 more were stored.";
    let (server, seen) = (trial.server()?, seen());
    let nats = trial.client(&server)?;
    trial.block_on(create(&nats, StorageType::File))?;
    trial.block_on(store(&nats, 1..=500))?;
    let mut consumer = trial.launch(&server).watched(&seen).start()?;
    trial.block_on(store(&nats, 501..=1_000))?;
    let likely = "A consumer begins with the first message unless its deliver policy says otherwise, and a stream keeps the order as long as orders are handled one after another.";
    taken(&server, &seen, 1_000, TAKEN, &mut consumer)
        .and_then(|()| exactly(&seen, 1..=1_000))
        .map_err(|flaw| flaw.did(DID).likely(likely))?;
    Ok("1000 of 1000 orders, in order".into())
}

fn goes_on(trial: &Trial) -> Result<String> {
    const ORDERS: u64 = 8_000;
    const STARTS: u64 = 3;
    let (server, seen) = (trial.server()?, seen());
    let nats = trial.client(&server)?;
    trial.block_on(create(&nats, StorageType::File))?;
    trial.block_on(store(&nats, 1..=ORDERS))?;
    let did = format!(
        "{ORDERS} orders were stored. {STARTS} times it was started, and stopped by SIGTERM after some hundred."
    );
    let likely = "The position belongs to the durable consumer order_processor: orders that are acknowledged never come again, those that are not come after ack_wait. An acknowledgement that is still in the client's buffer when the program ends is lost.";
    for start in 1..=STARTS {
        let mut consumer = trial.launch(&server).watched(&seen).start()?;
        let goal = if start == STARTS { ORDERS } else { seen.count() + 300 };
        taken(&server, &seen, goal, TAKEN_AGAIN, &mut consumer)
            .map_err(|flaw| flaw.did(&did).likely(likely))?;
        consumer.signal(Signal::TERM);
        consumer.ends_well(("SIGTERM", Instant::now()))?;
    }
    exactly(&seen, 1..=ORDERS).map_err(|flaw| flaw.did(did).likely(likely))?;
    Ok(format!("{ORDERS} of {ORDERS} orders once, in order, over {STARTS} starts"))
}

fn killed(trial: &Trial) -> Result<String> {
    /// More lines than a pipe takes: it stands still at one.
    const EACH: u64 = 4_000;
    const KILLS: u64 = 3;
    let (server, seen) = (trial.server()?, seen());
    let nats = trial.client(&server)?;
    trial.block_on(create(&nats, StorageType::File))?;
    trial.block_on(store(&nats, 1..=EACH * KILLS))?;
    let did = format!(
        "{} orders were stored. {KILLS} times it was suspended by its full pipe in the middle of an order, killed with -9, and started again.",
        EACH * KILLS
    );
    let likely = "An order that is acknowledged before it is handled is lost if the program dies in between. A line that waits in the program's own buffer is not handled either. Acknowledge when the work is done.";
    let is_over = || STREAM.is_over(&server);
    for _ in 0..KILLS {
        let mut consumer = trial.launch(&server).watched(&seen).start()?;
        let before = seen.count();
        consumer.wait(TAKEN_AGAIN, "it had taken 100 orders", || {
            Ok((seen.count() >= before + 100 || is_over()?).then_some(()))
        })?;
        let held = seen.hold();
        stands_still(&server)?;
        consumer.kill();
        drop(held);
    }
    let mut consumer = trial.launch(&server).watched(&seen).start()?;
    let all = EACH * KILLS;
    let ids: Vec<String> = (1..=all).map(id).collect();
    let (missing, repeated) = STREAM.handled(&server, &mut consumer, &seen, &ids, TAKEN_AGAIN)?;
    if missing > 0 {
        let end = consumer.end()?.unwrap_or_else(|| "It runs.".into());
        let why = if is_over()? { ": they are acknowledged" } else { " yet" };
        bail!(
            Flaw::new(format!("{missing} of {all} orders were never handled"))
                .did(did)
                .saw(format!("No line named {missing} of the orders, and nats-server does not deliver them{why}. {end}"))
                .likely(likely)
        );
    }
    Ok(format!("0 of {all} orders lost in {KILLS} kills, {repeated} handled again"))
}

/// Waits until a program that prints no more has stopped acknowledging.
fn stands_still(server: &Server) -> Result<()> {
    let mut last = (0, Instant::now());
    loop {
        let floor = number(&STREAM.consumer_info(server)?, "/ack_floor/stream_seq");
        if floor != last.0 {
            last = (floor, Instant::now());
        }
        if last.1.elapsed() > Duration::from_millis(300) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn stopped_in_full_flow(trial: &Trial) -> Result<String> {
    const ORDERS: u64 = 20_000;
    let (server, seen) = (trial.server()?, seen());
    let nats = trial.client(&server)?;
    trial.block_on(create(&nats, StorageType::File))?;
    trial.block_on(store(&nats, 1..=ORDERS))?;
    let did = format!(
        "{ORDERS} orders were stored, and it got SIGTERM when it had handled some hundred."
    );
    let likely = "Client libraries fetch orders ahead. Those that are fetched and not handled reach no other program before ack_wait is over: finish the batch, or fetch only what is handled at once, and wait for the last acknowledgements before the end.";
    let mut consumer = trial.launch(&server).watched(&seen).start()?;
    taken(&server, &seen, 300, TAKEN, &mut consumer)
        .map_err(|flaw| flaw.did(&did).likely(likely))?;
    consumer.signal(Signal::TERM);
    let end = consumer.ends_well(("SIGTERM", Instant::now()));
    // nats-server has read everything when it has noticed the end; it counts acknowledgements a moment
    // later.
    let own = Duration::from_secs(5);
    let begun = Instant::now();
    let info = loop {
        let connections = number(&server.monitor("/connz")?, "/num_connections");
        let info = STREAM.consumer_info(&server)?;
        let is_over = connections <= 1 && number(&info, "/num_ack_pending") == 0;
        if is_over || begun.elapsed() > own {
            break info;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let (left, pending) = (number(&info, "/num_ack_pending"), number(&info, "/num_pending"));
    let handled = seen.wait(ORDERS - pending, Duration::from_secs(2));
    if left > 0 || end.is_err() {
        let saw = consumer.end()?.unwrap_or_else(|| "It runs on.".into());
        bail!(
            Flaw::new(format!("{left} orders were left unacknowledged"))
                .did(did)
                .saw(format!(
                    "{saw} {left} orders had been delivered to it and were not acknowledged."
                ))
                .likely(likely)
        );
    }
    if handled + pending != ORDERS {
        bail!(
            Flaw::new(format!("{} orders were acknowledged and not handled", ORDERS - pending - handled))
                .did(did)
                .saw(format!("Lines named {handled} orders; {pending} of {ORDERS} were not delivered yet, and none was unacknowledged."))
                .likely("Orders were acknowledged before they were handled.")
        );
    }
    Ok(format!("0 unacknowledged after {handled} orders, ended {} after SIGTERM", shown(end?)))
}

fn poison_order(trial: &Trial) -> Result<String> {
    const POISON: [&[u8]; 7] =
        [b"", b"no order", b"{", b"null", b"\xff\xfe\0", br#"{"order_id": 5}"#, br#"["prove", 1]"#];
    let (server, seen) = (trial.server()?, seen());
    let nats = trial.client(&server)?;
    trial.block_on(create(&nats, StorageType::File))?;
    let jetstream = jetstream::new(nats.clone());
    for (n, poison) in (1..).zip(POISON) {
        trial.block_on(async {
            store(&nats, n..=n).await?;
            jetstream.publish(CREATED, poison.to_vec().into()).await?.await?;
            anyhow::Ok(())
        })?;
    }
    let good = POISON.len() as u64 + 1;
    trial.block_on(store(&nats, good..=good))?;
    let did = format!(
        "{good} orders were stored, and {} messages that are no orders between them.",
        POISON.len()
    );
    let likely = "An error that leaves the loop ends the program: the message is never acknowledged, and comes again at each start. A nak asks for it again, too. Terminate what can never be handled (`AckKind::Term`), and report it.";
    let mut consumer = trial.launch(&server).watched(&seen).start()?;
    taken(&server, &seen, good, TAKEN, &mut consumer)
        .map_err(|flaw| flaw.did(&did).likely(likely))?;
    let (left, again) = STREAM.unacknowledged_and_redelivered(&server, BACK)?;
    if left + again > 0 {
        bail!(
            Flaw::new(format!("{left} messages stay unacknowledged, {again} were redelivered"))
                .did(did)
                .saw(format!("All orders were handled. {} later {left} messages were unacknowledged, and {again} had been delivered more than once.", shown(BACK)))
                .likely(likely)
        );
    }
    Ok(format!("{good} of {good} orders handled, {} terminated", POISON.len()))
}

fn stream_missing(trial: &Trial) -> Result<String> {
    let (server, seen) = (trial.server()?, seen());
    let nats = trial.client(&server)?;
    let did = "It was started when there was no stream. When it had looked for it for 1 s, the stream was created, and 10 orders were stored.";
    let likely = "A missing stream is no error for a consumer: the publisher creates it. Wait for it, and look again.";
    let mut consumer = trial.launch(&server).watched(&seen).start()?;
    has_asked(&mut consumer, &server)?;
    if let Some(end) = consumer.end()? {
        bail!(Flaw::new("it ended because there was no stream").did(did).saw(end).likely(likely));
    }
    if !STREAM.stream_info(&server)?.is_null() {
        bail!(
            Flaw::new("it created the stream").did("It was started when there was no stream.").saw("There was one.").likely("The consumer does not know the stream's settings: subjects, storage, replicas. Leave it to the publisher.")
        );
    }
    trial.block_on(create(&nats, StorageType::File))?;
    trial.block_on(store(&nats, 1..=10))?;
    let begun = Instant::now();
    taken(&server, &seen, 10, BACK, &mut consumer).map_err(|flaw| flaw.did(did).likely(likely))?;
    Ok(format!("10 orders taken {} after the stream was there", shown(begun.elapsed())))
}

fn stream_made_anew(trial: &Trial) -> Result<String> {
    let (server, seen) = (trial.server()?, seen());
    let nats = trial.client(&server)?;
    trial.block_on(create(&nats, StorageType::File))?;
    trial.block_on(store(&nats, 1..=20))?;
    let likely = "The durable consumer is gone with its stream, and most client libraries go on asking for messages of a consumer that does not exist. On such an error, or when an answer stays out, ask for stream and consumer again.";
    let mut consumer = trial.launch(&server).watched(&seen).start()?;
    taken(&server, &seen, 20, TAKEN, &mut consumer)?;
    let mut longest = Duration::ZERO;
    for (turn, first) in [(1, 21), (2, 41)] {
        let did = "The stream was deleted, created again 1 s later, and 20 orders were stored.";
        trial.block_on(async {
            jetstream::new(nats.clone()).delete_stream(STREAM.stream).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            create(&nats, StorageType::File).await?;
            store(&nats, first..=first + 19).await
        })?;
        let begun = Instant::now();
        taken(&server, &seen, 20 + turn * 20, BACK, &mut consumer)
            .map_err(|flaw| flaw.did(did).likely(likely))?;
        longest = longest.max(begun.elapsed());
    }
    Ok(format!("orders of the new stream taken within {}", shown(longest)))
}

fn slow_handler(trial: &Trial) -> Result<String> {
    const ORDERS: u64 = 1_000;
    let (server, seen) = (trial.server()?, seen());
    let nats = trial.client(&server)?;
    trial.block_on(create(&nats, StorageType::File))?;
    trial.block_on(store(&nats, 1..=ORDERS))?;
    let did = "1000 orders were stored, and it was started with --work 100ms.";
    let likely = "More orders are fetched than can be handled within ack_wait: the last ones of a batch time out while they wait, and nats-server delivers them again. Fetch fewer, or report progress.";
    let mut consumer = trial.launch(&server).args("--work 100ms").watched(&seen).start()?;
    taken(&server, &seen, 1, TAKEN, &mut consumer).map_err(|flaw| flaw.did(did).likely(likely))?;
    let begun = Instant::now();
    // In nanoseconds.
    let ack_wait = number(&STREAM.consumer_info(&server)?, "/config/ack_wait");
    let ack_wait = Duration::from_nanos(ack_wait).clamp(Duration::from_secs(1), TAKEN_AGAIN);
    while begun.elapsed() < ack_wait + Duration::from_secs(2) {
        let again = number(&STREAM.consumer_info(&server)?, "/num_redelivered");
        if again > 0 {
            bail!(
                Flaw::new(format!("{again} orders were redelivered while it was alive"))
                    .did(did)
                    .saw(format!(
                        "After {} nats-server had delivered {again} orders again; ack_wait is {}.",
                        shown(begun.elapsed()),
                        shown(ack_wait)
                    ))
                    .likely(likely)
            );
        }
        if let Some(end) = consumer.end()? {
            bail!(Flaw::new("it ended").did(did).saw(end));
        }
        thread::sleep(Duration::from_millis(50));
    }
    let handled = seen.count();
    if u128::from(handled) > begun.elapsed().as_millis() / 100 * 2 + 20 {
        bail!(
            Flaw::new(format!("it took {handled} orders in {}", shown(begun.elapsed())))
                .did(did)
                .saw("It is faster than one order in 100 ms.")
                .likely("It does not know --work, the time that it spends on each order: without it this check says nothing.")
        );
    }
    Ok(format!(
        "0 redelivered in {}, with an ack_wait of {}",
        shown(begun.elapsed()),
        shown(ack_wait)
    ))
}

fn nats_server_restarted(trial: &Trial) -> Result<String> {
    let (mut server, seen) = (trial.server()?, seen());
    let nats = trial.client(&server)?;
    trial.block_on(create(&nats, StorageType::File))?;
    trial.block_on(store(&nats, 1..=100))?;
    let mut consumer = trial.launch(&server).watched(&seen).start()?;
    taken(&server, &seen, 100, TAKEN, &mut consumer)?;
    let mut longest = Duration::ZERO;
    for (turn, first) in [(1, 101), (2, 201)] {
        let did = "nats-server was killed, started again 1 s later, and 100 orders were stored.";
        let likely = "The client library has stopped reconnecting, or its request for orders was lost with nats-server and is not sent again.";
        let back = restarted(&mut server)?;
        let nats = trial.client(&server)?;
        trial.block_on(store(&nats, first..=first + 99))?;
        // Orders may come twice: the acknowledgements before the kill may be lost.
        let last = id(100 + turn * 100);
        let is_taken = seen.wait_for(&last, 2 * BACK);
        let ids: Vec<String> = (1..=100 + turn * 100).map(id).collect();
        let (missing, _) = seen.missing_and_repeated(ids.iter().map(String::as_str));
        let took = back.elapsed();
        if is_taken.is_none() || missing > 0 || took > BACK {
            let end = consumer.end()?.unwrap_or_else(|| "It runs.".into());
            bail!(
                Flaw::new(format!(
                    "{missing} of {} orders not taken {} after nats-server's return",
                    ids.len(),
                    shown(took)
                ))
                .did(did)
                .saw(end)
                .likely(likely)
            );
        }
        longest = longest.max(took);
    }
    Ok(format!("100 orders taken within {} of nats-server's return, twice", shown(longest)))
}
