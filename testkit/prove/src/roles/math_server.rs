//! `math-server`: answers requests with a sum.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::{Client, HeaderMap, Message};
use futures::StreamExt;
use testkit::{Link, Signal};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::instance::Instance;
use crate::roles::{ends, ends_without_nats_server, restarted, starts, works_again};
use crate::verdict::{Flaw, capital, shown};
use crate::{Check, Role, Trial};

/// The subject of the requests.
pub const SUBJECT: &str = "math.sum";

/// How many requests a [`Load`] keeps in flight.
pub const IN_FLIGHT: usize = 64;

/// A reply that has not come by then is missing. A busy machine needs less.
const MISSING: Duration = Duration::from_secs(5);

/// If 200 replies take longer, the program has stopped answering.
const STANDSTILL: Duration = Duration::from_secs(20);

const RESTARTS: &str = "rpc/README.md#what-the-service-adds";

/// The role.
pub const ROLE: Role = Role {
    name: "math-server",
    contract: include_str!("../../contracts/math-server.txt"),
    checks: &[
        Check {
            name: "starts",
            claim: "subscribes to math.sum within 30 s",
            lesson: RESTARTS,
            run: |trial| starts(trial, SUBJECT),
        },
        Check {
            name: "right-answers",
            claim: "sums are right, up to the edges of 64 bits",
            lesson: RESTARTS,
            run: right_answers,
        },
        Check {
            name: "bad-requests",
            claim: "nine kinds of bad request each get an error reply, and stop nothing",
            lesson: RESTARTS,
            run: bad_requests,
        },
        Check {
            name: "no-reply-subject",
            claim: "messages without a reply subject stop nothing",
            lesson: RESTARTS,
            run: no_reply_subject,
        },
        Check {
            name: "shares-requests",
            claim: "each request is answered by one of several servers",
            lesson: RESTARTS,
            run: shares_requests,
        },
        Check {
            name: "stopped-with-requests-in-hand",
            claim: "SIGTERM costs none of the requests that it was handed its reply",
            lesson: RESTARTS,
            run: stopped_with_requests_in_hand,
        },
        Check {
            name: "rolling-restarts",
            claim: "restarts in turns under 64 requests in flight cost no reply",
            lesson: RESTARTS,
            run: |trial| rolling_restarts(trial, Duration::ZERO, 12),
        },
        Check {
            name: "rolling-restarts-far-away",
            claim: "the same over a link of 20 ms each way",
            lesson: RESTARTS,
            run: |trial| rolling_restarts(trial, Duration::from_millis(20), 12),
        },
        Check {
            name: "nats-server-restarted",
            claim: "answers again within 5 s of nats-server's return",
            lesson: RESTARTS,
            run: nats_server_restarted,
        },
        Check {
            name: "slow-link",
            claim: "answers every request over a link of 150 ms each way",
            lesson: RESTARTS,
            run: slow_link,
        },
        Check {
            name: "cut-link",
            claim: "answers every request after a cut of 1 s, and again after a broken connection",
            lesson: RESTARTS,
            run: cut_link,
        },
        Check {
            name: "ends",
            claim: "ends within 5 s of SIGTERM and of SIGINT, with exit code 0",
            lesson: RESTARTS,
            run: |trial| ends(trial, |trial, server| trial.launch(server).ready(SUBJECT)),
        },
        Check {
            name: "ends-without-nats-server",
            claim: "the same while nats-server is away",
            lesson: RESTARTS,
            run: |trial| {
                ends_without_nats_server(trial, |trial, server| trial.launch(server).ready(SUBJECT))
            },
        },
    ],
};

fn code(headers: Option<&HeaderMap>) -> Option<&str> {
    Some(headers?.get("Nats-Service-Error-Code")?.as_str())
}

/// What a reply says, for a sentence.
fn said(reply: &Message) -> String {
    let text = String::from_utf8_lossy(&reply.payload);
    let text: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
    match code(reply.headers.as_ref()) {
        Some(code) => format!("an error reply with code {code}"),
        None => format!("`{text}`"),
    }
}

/// Sends a request, and returns the reply; none if it does not come in time, or the program ends.
fn ask(
    trial: &Trial,
    nats: &Client,
    math: &mut Instance,
    request: &[u8],
) -> Result<Option<Message>> {
    let (nats, request) = (nats.clone(), request.to_vec());
    let request = async_nats::Request::new().payload(request.into()).timeout(Some(MISSING));
    let reply = trial.spawn(async move { nats.send_request(SUBJECT, request).await });
    while !reply.is_finished() {
        if !math.is_running()? {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(trial.block_on(reply)?.ok())
}

/// What came back, for a sentence.
fn came(reply: Option<&Message>) -> String {
    reply.map_or("no reply".to_owned(), said)
}

fn right_answers(trial: &Trial) -> Result<String> {
    const SUMS: [(&str, &str); 9] = [
        (r#"{"x": 17, "y": 25}"#, "42"),
        (r#"{"x":-5,"y":3}"#, "-2"),
        (r#"{"x":0,"y":0}"#, "0"),
        // A double rounds this one.
        (r#"{"x":9007199254740993,"y":0}"#, "9007199254740993"),
        (r#"{"x":9223372036854775806,"y":1}"#, "9223372036854775807"),
        (r#"{"x":-9223372036854775807,"y":-1}"#, "-9223372036854775808"),
        (r#"{"x":-9223372036854775808,"y":9223372036854775807}"#, "-1"),
        (r#" {"y": 25, "x": 17, "z": 0} "#, "42"),
        (r#"{"x":9223372036854775807,"y":-9223372036854775807}"#, "0"),
    ];
    let server = trial.server()?;
    let mut math = trial.launch(&server).ready(SUBJECT)?;
    let nats = trial.client(&server)?;
    for (n, (request, sum)) in SUMS.iter().enumerate() {
        let reply = ask(trial, &nats, &mut math, request.as_bytes())?;
        // Not parsed into a number: a reader might round it as the program does.
        let is_right = reply.as_ref().is_some_and(|reply| {
            let text: String = String::from_utf8_lossy(&reply.payload).split_whitespace().collect();
            reply.headers.is_none() && text == format!(r#"{{"result":{sum}}}"#)
        });
        if !is_right {
            let came = came(reply.as_ref());
            bail!(
                Flaw::new(format!("{n} of {} sums were right, then a wrong one", SUMS.len()))
                    .did(format!("It was asked `{request}`."))
                    .saw(format!("It gave {came}, not `{{\"result\":{sum}}}`."))
                    .likely("Whole numbers have 64 bits here; a language whose numbers are doubles needs its big integers, and a JSON reader that keeps them.")
            );
        }
    }
    Ok(format!("{} of {} sums", SUMS.len(), SUMS.len()))
}

fn bad_requests(trial: &Trial) -> Result<String> {
    const BAD: [(&str, &[u8], &str); 9] = [
        ("an empty one", b"", "400"),
        ("no JSON", b"oops", "400"),
        ("half an object", br#"{"x": 17, "y":"#, "400"),
        ("an array", b"[17, 25]", "400"),
        ("a field that is missing", br#"{"x": 17}"#, "400"),
        ("a text for a number", br#"{"x": "17", "y": 25}"#, "400"),
        ("a fraction", br#"{"x": 17.5, "y": 25}"#, "400"),
        ("bytes that are no UTF-8", b"{\"x\": 17, \"\xff\xfe", "400"),
        ("a sum that does not fit", br#"{"x": 9223372036854775807, "y": 1}"#, "422"),
    ];
    let server = trial.server()?;
    let mut math = trial.launch(&server).ready(SUBJECT)?;
    let nats = trial.client(&server)?;
    let mut wrong = Vec::new();
    let mut ends = 0;
    for (kind, request, expected) in BAD {
        let reply = ask(trial, &nats, &mut math, request)?;
        let is_right = reply.as_ref().is_some_and(|reply| {
            code(reply.headers.as_ref()) == Some(expected) && reply.payload.is_empty()
        });
        if !is_right {
            wrong.push(format!("{kind} got {}, not an error {expected}", came(reply.as_ref())));
        }
        if let Some(end) = math.end()? {
            if ends == 0 {
                wrong.push(format!("and the program was gone: {end}"));
            }
            ends += 1;
            math = trial.launch(&server).ready(SUBJECT)?;
        }
    }
    if let Some(first) = wrong.first() {
        let count = wrong.len() - usize::from(ends > 0);
        let saw = match ends {
            0 => wrong.join("; "),
            _ => format!("{first}, {}. It was started again each time, {ends} times.", wrong[1]),
        };
        bail!(
            Flaw::new(format!("{count} of {} bad requests got no error reply as it has to be", BAD.len()))
                .did("It got nine kinds of bad request, one after another.")
                .saw(capital(&saw))
                .likely("An error that leaves the loop ends the program, and every request behind it is lost. An error reply is an empty body with the headers Nats-Service-Error-Code (400 for a request that does not parse, 422 for a sum that does not fit) and Nats-Service-Error.")
        );
    }
    still_right(trial, &nats, &mut math, "nine bad requests")?;
    Ok(format!("{} of {} kinds refused", BAD.len(), BAD.len()))
}

/// Expects the right answer to a good request.
fn still_right(trial: &Trial, nats: &Client, math: &mut Instance, after: &str) -> Result<()> {
    let reply = ask(trial, nats, math, br#"{"x":17,"y":25}"#)?;
    let came = came(reply.as_ref());
    if came.split_whitespace().collect::<String>() != "`{\"result\":42}`" {
        let end = math.end()?.unwrap_or_else(|| "It runs.".into());
        bail!(
            Flaw::new(format!("a good request gets {came} after {after}"))
                .did(format!("It got {after}, and then a good request."))
                .saw(format!("The good request got {came}. {end}"))
                .likely("An error in one message has ended the loop that takes requests. Any client can publish on a subject.")
        );
    }
    Ok(())
}

fn no_reply_subject(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    let mut math = trial.launch(&server).ready(SUBJECT)?;
    let nats = trial.client(&server)?;
    trial.block_on(async {
        for _ in 0..100 {
            nats.publish(SUBJECT, r#"{"x":17,"y":25}"#.into()).await?;
        }
        anyhow::Ok(())
    })?;
    still_right(trial, &nats, &mut math, "100 messages without a reply subject")?;
    Ok("100 of them ignored".into())
}

fn shares_requests(trial: &Trial) -> Result<String> {
    const REQUESTS: usize = 300;
    let server = trial.server()?;
    let start = || trial.launch(&server).ready(SUBJECT);
    let mut servers = [start()?, start()?, start()?];
    let nats = trial.client(&server)?;
    // One more member of the group, which answers nothing: it shows that it is the right group.
    let (replies, own) = trial.block_on(async {
        let mut own = nats.queue_subscribe(SUBJECT, "math_servers".into()).await?;
        let inbox = nats.new_inbox();
        let mut replies = nats.subscribe(inbox.clone()).await?;
        for _ in 0..REQUESTS {
            nats.publish_with_reply(SUBJECT, inbox.clone(), r#"{"x":1,"y":2}"#.into()).await?;
        }
        let mut counts = (0, 0);
        loop {
            // A reply too many has to be waited for, too, but not for as long.
            let is_early = counts.0 + counts.1 < REQUESTS;
            let quiet = Duration::from_millis(if is_early { 5_000 } else { 500 });
            tokio::select! {
                reply = replies.next() => {
                    reply.context("the connection is closed")?;
                    counts.0 += 1;
                }
                request = own.next() => {
                    request.context("the connection is closed")?;
                    counts.1 += 1;
                }
                () = sleep(quiet) => return anyhow::Ok(counts),
            }
        }
    })?;
    let given: Vec<u64> =
        servers.iter_mut().map(|math| math.given(&server)).collect::<Result<_>>()?;
    if replies + own != REQUESTS {
        bail!(
            Flaw::new(format!("{REQUESTS} requests got {replies} replies"))
                .did(format!("Three copies ran, and a fourth member of the queue group math_servers, which answers nothing. {REQUESTS} requests were sent; {own} went to the fourth member."))
                .saw(format!("The three copies sent {replies} replies in place of {}.", REQUESTS - own))
                .likely("All servers subscribe to math.sum in the queue group math_servers. Without it each server answers each request; in another group too.")
        );
    }
    Ok(format!(
        "{replies} of {REQUESTS} requests answered by three copies, which were given {given:?}"
    ))
}

fn stopped_with_requests_in_hand(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    let mut math = trial.launch(&server).ready(SUBJECT)?;
    let nats = trial.client(&server)?;
    // A process that stands still, as on a busy machine: the requests wait in its socket.
    math.signal(Signal::STOP);
    let already = math.given(&server)?;
    let inbox = nats.new_inbox();
    let mut replies = trial.block_on(async {
        let replies = nats.subscribe(inbox.clone()).await?;
        for _ in 0..IN_FLIGHT {
            let request = r#"{"x":17,"y":25}"#.into();
            nats.publish_with_reply(SUBJECT, inbox.clone(), request).await?;
        }
        nats.flush().await?;
        anyhow::Ok(replies)
    })?;
    math.wait_until_given(&server, already + IN_FLIGHT as u64)?;
    math.signal(Signal::TERM);
    let told = Instant::now();
    math.signal(Signal::CONT);
    let ended = math.ends_well(("SIGTERM", told));
    let count = trial.block_on(async {
        let mut count = 0;
        // nats-server has passed on all replies when it has noticed the end.
        while let Ok(Some(_)) = timeout(Duration::from_millis(500), replies.next()).await {
            count += 1;
        }
        count
    });
    if count < IN_FLIGHT {
        let end = math.end()?.unwrap_or_else(|| "It runs on.".into());
        bail!(
            Flaw::new(format!("{} of {IN_FLIGHT} requests got no reply", IN_FLIGHT - count))
                .did(format!("It was suspended for a moment, as on a busy machine, while nats-server handed it {IN_FLIGHT} requests. Then it got SIGTERM."))
                .saw(format!("{end} {} requests had been handed to it and were not answered.", IN_FLIGHT - count))
                .likely("It ends at once, or closes its connection with messages unread. First unsubscribe, then answer what has arrived, then flush, then end.")
        );
    }
    Ok(format!("0 of {IN_FLIGHT} without a reply, ended {} after SIGTERM", shown(ended?)))
}

/// Keeps [`IN_FLIGHT`] requests in flight until it is told to stop, and counts the replies.
pub struct Load {
    counts: Arc<Counts>,
    task: JoinHandle<Result<()>>,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    answered: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    /// A request without a reply counts as in flight no longer. If the reply comes nevertheless, it
    /// is only late.
    const LATE: Duration = Duration::from_secs(1);

    /// Begins to send requests.
    #[must_use]
    pub fn start(trial: &Trial, nats: &Client) -> Self {
        let counts = Arc::new(Counts::default());
        let task = trial.spawn(Self::run(nats.clone(), Arc::clone(&counts)));
        Self { counts, task }
    }

    async fn run(nats: Client, counts: Arc<Counts>) -> Result<()> {
        let inbox = nats.new_inbox();
        let mut replies = nats.subscribe(format!("{inbox}.*")).await?;
        let mut in_flight: BTreeMap<u64, Instant> = BTreeMap::new();
        let mut unanswered = BTreeSet::new();
        let mut last = Instant::now();
        loop {
            let is_stopped = counts.stop.load(Ordering::Relaxed);
            while !is_stopped && in_flight.len() < IN_FLIGHT {
                let number = counts.sent.fetch_add(1, Ordering::Relaxed);
                let reply = format!("{inbox}.{number}");
                nats.publish_with_reply(SUBJECT, reply, r#"{"x":17,"y":25}"#.into()).await?;
                in_flight.insert(number, Instant::now());
                unanswered.insert(number);
            }
            if is_stopped && (unanswered.is_empty() || last.elapsed() > MISSING) {
                return Ok(());
            }
            match timeout(Duration::from_millis(20), replies.next()).await {
                Ok(reply) => {
                    let reply = reply.context("the connection is closed")?;
                    let number = reply.subject.rsplit('.').next().and_then(|it| it.parse().ok());
                    let number: u64 = number.context("a reply to nothing")?;
                    in_flight.remove(&number);
                    // nats-server itself replies if no server has subscribed.
                    let is_answer = reply.status.is_none();
                    if is_answer && unanswered.remove(&number) {
                        let text = said(&reply).split_whitespace().collect::<String>();
                        ensure!(
                            text == "`{\"result\":42}`",
                            Flaw::new(format!("17 + 25 gave {text}"))
                        );
                        counts.answered.fetch_add(1, Ordering::Relaxed);
                        last = Instant::now();
                    }
                }
                Err(_) => in_flight.retain(|_, sent| sent.elapsed() < Self::LATE),
            }
        }
    }

    /// Waits until the next 200 replies have come.
    ///
    /// # Errors
    ///
    /// A [`Flaw`] if they do not come.
    pub fn goes_on(&self) -> Result<()> {
        let begun = Instant::now();
        let answered = || self.counts.answered.load(Ordering::Relaxed);
        let before = answered();
        while answered() < before + 200 && !self.task.is_finished() {
            let new = answered() - before;
            let took = begun.elapsed();
            if took > STANDSTILL {
                bail!(
                    Flaw::new(format!("{new} replies in {}", shown(took)))
                        .did(format!("{IN_FLIGHT} requests were kept in flight."))
                        .saw(format!("After {before} replies {new} came in {}.", shown(took)))
                        .likely("It takes no more requests, or one by one with a pause.")
                );
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Ends it, and returns how many requests were answered, and how many were not.
    ///
    /// # Errors
    ///
    /// A [`Flaw`] if a reply was wrong.
    pub fn end(self, trial: &Trial) -> Result<(u64, u64)> {
        self.counts.stop.store(true, Ordering::Relaxed);
        trial.block_on(self.task)??;
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let answered = count(&self.counts.answered);
        Ok((answered, count(&self.counts.sent) - answered))
    }
}

fn rolling_restarts(trial: &Trial, delay: Duration, restarts: usize) -> Result<String> {
    let server = trial.server()?;
    let link = Link::to(server.port())?;
    link.delay(delay);
    let start = || {
        let launch = trial.launch(&server);
        let launch = if delay.is_zero() { launch } else { launch.url(&link.url()) };
        launch.ready(SUBJECT)
    };
    let servers = [start()?, start()?];
    let load = Load::start(trial, &trial.client(&server)?);
    restart_in_turns(trial, load, servers, restarts, start)
}

/// Stops and starts servers in turns: the next one is there before the oldest is stopped. Returns
/// how many requests were answered meanwhile.
///
/// # Errors
///
/// A [`Flaw`] if a request gets no reply, or a server does not end well.
pub fn restart_in_turns(
    trial: &Trial,
    load: Load,
    servers: impl Into<VecDeque<Instance>>,
    restarts: usize,
    mut start: impl FnMut() -> Result<Instance>,
) -> Result<String> {
    let mut servers = servers.into();
    let mut stopped: Vec<(Instance, Instant)> = Vec::new();
    for _ in 0..restarts {
        load.goes_on()?;
        servers.push_back(start()?);
        let mut oldest = servers.pop_front().context("no server runs")?;
        oldest.signal(Signal::TERM);
        stopped.push((oldest, Instant::now()));
    }
    load.goes_on()?;
    let (answered, missing) = load.end(trial)?;
    let all = answered + missing;
    let mut longest = Ok(Duration::ZERO);
    let mut last = String::new();
    for (math, told) in &mut stopped {
        let took = math.ends_well(("SIGTERM", *told));
        last = math.end()?.unwrap_or_else(|| "It runs on.".into());
        longest = took.and_then(|took| longest.map(|longest| longest.max(took)));
        if longest.is_err() {
            break;
        }
    }
    if missing > 0 {
        let who = if longest.is_err() { "One of the copies did not end well." } else { "" };
        bail!(
            Flaw::new(format!("{missing} of {all} requests got no reply"))
                .did(format!("{IN_FLIGHT} requests were kept in flight. {restarts} times a new copy was started, and the oldest one got SIGTERM when nats-server knew the new one's subscription."))
                .saw(format!("{missing} of {all} requests had no reply after {}. {who} {last}", shown(MISSING)))
                .likely("Requests that nats-server had handed to the copy, or was about to, were not answered. `unsubscribe` ends too early, and in some client libraries `drain` does, too: read on until nothing can be on its way any more, then answer, flush and end.")
        );
    }
    Ok(format!(
        "0 of {all} requests without a reply, {restarts} restarts, each ended within {}",
        shown(longest?)
    ))
}

fn nats_server_restarted(trial: &Trial) -> Result<String> {
    let mut server = trial.server()?;
    let mut math = trial.launch(&server).ready(SUBJECT)?;
    let back = restarted(&mut server)?;
    let nats = trial.client(&server)?;
    let did = "nats-server was killed, and started again 1 s later.";
    let took = answers_again(trial, &nats, &mut math, back, did)?;
    Ok(format!("answers again {} after nats-server's return", shown(took)))
}

/// Asks again and again until there is an answer, and returns how long after `back` that was.
fn answers_again(
    trial: &Trial,
    nats: &Client,
    math: &mut Instance,
    back: Instant,
    did: &str,
) -> Result<Duration> {
    works_again(math, back, did, || {
        let request = async_nats::Request::new()
            .payload(r#"{"x":17,"y":25}"#.into())
            .timeout(Some(Duration::from_millis(200)));
        let is_answered = trial.block_on(nats.send_request(SUBJECT, request)).is_ok();
        if !is_answered {
            thread::sleep(Duration::from_millis(10));
        }
        Ok(is_answered)
    })
}

fn slow_link(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    let link = Link::to(server.port())?;
    link.delay(Duration::from_millis(150));
    let _math = trial.launch(&server).url(&link.url()).ready(SUBJECT)?;
    let nats = trial.client(&server)?;
    let begun = Instant::now();
    let load = Load::start(trial, &nats);
    while begun.elapsed() < Duration::from_secs(3) {
        load.goes_on()?;
    }
    let (answered, missing) = load.end(trial)?;
    if missing > 0 {
        bail!(
            Flaw::new(format!("{missing} of {} requests got no reply", answered + missing))
                .did(format!("{IN_FLIGHT} requests were kept in flight for 3 s, over a link on which each byte takes 150 ms."))
                .saw(format!("{answered} were answered."))
                .likely("A time-out in the program is shorter than a round trip.")
        );
    }
    Ok(format!("0 of {answered} without a reply"))
}

fn cut_link(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    let link = Link::to(server.port())?;
    let mut math = trial.launch(&server).url(&link.url()).ready(SUBJECT)?;
    let nats = trial.client(&server)?;
    let load = Load::start(trial, &nats);
    load.goes_on()?;
    link.cut();
    thread::sleep(Duration::from_secs(1));
    link.heal();
    load.goes_on()?;
    let (answered, missing) = load.end(trial)?;
    if missing > 0 {
        bail!(
            Flaw::new(format!("{missing} of {} requests got no reply", answered + missing))
                .did("The network stood still for 1 s, and went on: no byte was lost.")
                .saw(format!("{missing} requests had no reply {} later.", shown(MISSING)))
                .likely("A time-out in the program is so short that it gives up requests, or its connection.")
        );
    }
    link.reset();
    let did = "Its connection was closed by the network.";
    let took = answers_again(trial, &nats, &mut math, Instant::now(), did)?;
    Ok(format!(
        "0 of {answered} without a reply, answers {} after a broken connection",
        shown(took)
    ))
}
