//! `job-worker`: does the jobs of a work queue.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use async_nats::header::{NATS_SCHEDULE, NATS_SCHEDULE_TARGET};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use rand::RngExt;
use testkit::{Link, Server, Signal};

use crate::instance::Instance;
use crate::roles::durable::number;
use crate::roles::jobs::{Job, Line, Queue, READY, Said, jobs};
use crate::roles::{confirmed, ends, ends_without_nats_server, works_again};
use crate::verdict::{Flaw, shown};
use crate::{Check, Role, Trial};

const LESSON: &str = "jobs/README.md#what-the-service-adds";

/// What can be done at once has to be done by then. A busy machine needs less.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A job that a dead worker had in hand comes again after `ack_wait`, which is 30 s unless the
/// program says otherwise.
const AGAIN: Duration = Duration::from_secs(45);

/// Acknowledgements take that long over a link, so that some are on their way at any time.
const ON_THE_WAY: Duration = Duration::from_millis(100);

/// The role. The checks that take longest come first.
pub const ROLE: Role = Role {
    name: "job-worker",
    contract: include_str!("../../contracts/job-worker.txt"),
    checks: &[
        Check { name: "starts", claim: "does a job within 30 s", lesson: LESSON, run: starts },
        Check {
            name: "poison",
            claim: "a job that kills its worker is dead after five attempts at most; others are done",
            lesson: LESSON,
            run: poison,
        },
        Check {
            name: "pauses",
            claim: "a job that fails is tried again after 1 s or more, five times at most",
            lesson: LESSON,
            run: pauses,
        },
        Check {
            name: "long-job",
            claim: "a job of 15 s is done once, and not redelivered while it runs",
            lesson: LESSON,
            run: long_job,
        },
        Check {
            name: "does-jobs",
            claim: "two copies share 200 emails and 40 invoices: each is done once",
            lesson: LESSON,
            run: does_jobs,
        },
        Check {
            name: "same-id",
            claim: "a second message for a job that is done has no effect",
            lesson: LESSON,
            run: same_id,
        },
        Check {
            name: "bad-job",
            claim: "a job that can never succeed is dead at once, with payload and reason",
            lesson: LESSON,
            run: bad_job,
        },
        Check {
            name: "malformed",
            claim: "what is no job is dead at once, with its payload, and stops nothing",
            lesson: LESSON,
            run: malformed,
        },
        Check {
            name: "killed",
            claim: "one of two killed with -9 in full flow: no job is lost, none is done twice",
            lesson: LESSON,
            run: killed,
        },
        Check {
            name: "stopped-in-full-flow",
            claim: "SIGTERM in full flow: other programs get all the rest at once",
            lesson: LESSON,
            run: stopped_in_full_flow,
        },
        Check {
            name: "order-of-a-key",
            claim: "invoices with the same key keep their order when a copy is killed",
            lesson: LESSON,
            run: order_of_a_key,
        },
        Check {
            name: "frozen",
            claim: "a copy that stood still in a job while another did it has no second effect",
            lesson: LESSON,
            run: frozen,
        },
        Check {
            name: "nats-server-restarted",
            claim: "works again within 5 s of nats-server's return: no job stays, none is done twice",
            lesson: LESSON,
            run: nats_server_restarted,
        },
        Check {
            name: "delayed",
            claim: "a job that nats-server holds back is not done before it is due",
            lesson: LESSON,
            run: delayed,
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

/// Starts a copy that has done and acknowledged all there is.
fn idle(trial: &Trial, server: &Server) -> Result<Instance> {
    let queue = Queue::on(trial, server)?;
    let job = Job::new("email", queue.figures()?.stored + 1);
    queue.submit([&job])?;
    let mut worker = queue.worker("")?;
    worker.wait(READY, "it had done and acknowledged a job", || {
        let is_done = queue.lines.wait_for(&job.id, Duration::ZERO).is_some();
        let figures = queue.figures()?;
        Ok((is_done && figures.left == 0 && figures.sum("/num_waiting") > 0).then_some(()))
    })?;
    Ok(worker)
}

/// Starts two copies, the second one when the first has asked for jobs: nats-server tells of a consumer a
/// moment before it answers requests to it.
fn two_workers(queue: &Queue, flags: &str) -> Result<[Instance; 2]> {
    let mut first = queue.worker(flags)?;
    first.wait(READY, "it asked for jobs", || {
        Ok((queue.figures()?.sum("/num_waiting") > 0).then_some(()))
    })?;
    Ok([first, queue.worker(flags)?])
}

fn starts(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    let begun = Instant::now();
    idle(trial, &server)?;
    Ok(format!("a job done and acknowledged after {}", shown(begun.elapsed())))
}

/// Adds to a flaw what the check did, and what usually causes it. Other errors are passed on.
fn explain<T>(result: Result<T>, did: &str, likely: &str) -> Result<T> {
    result.map_err(|error| match error.downcast::<Flaw>() {
        Ok(flaw) => flaw.did(did).likely(likely).into(),
        Err(error) => error,
    })
}

/// The state of a copy, for a sentence.
fn state(worker: &mut Instance) -> Result<String> {
    Ok(worker.end()?.unwrap_or_else(|| "It runs.".into()))
}

fn poison(trial: &Trial) -> Result<String> {
    /// One more than may be killed: the last one stores the dead letter.
    const COPIES: u32 = 6;
    const DID: &str = "A poison job and 20 others were stored. Each time that the job had killed the worker it was started again.";
    const LIKELY: &str = "A job that kills its worker never gets to the line that counts its failure. Count the attempt before the job runs, in the file of --db. With max_deliver nats-server gives up without a word, and the job stays in the stream.";
    let queue = Queue::start(trial)?;
    let poison = Job::new("poison", 1);
    let others: Vec<Job> =
        jobs("email", 1..=10).into_iter().chain(jobs("invoice", 1..=10)).collect();
    queue.submit(std::iter::once(&poison).chain(&others))?;
    let subject = format!("jobs.dead.poison.{}", poison.id);
    let mut worker = queue.worker("")?;
    let mut copies = 1;
    let mut sign = (0, Instant::now());
    let letter = loop {
        if let Some(letter) = queue.dead()?.remove(&subject) {
            break letter;
        }
        let figures = queue.figures()?;
        let end = worker.end()?;
        let delivered = figures.sum("/delivered/consumer_seq");
        if delivered != sign.0 {
            sign = (delivered, Instant::now());
        }
        let is_over = sign.1.elapsed() > figures.patience();
        if is_over || (end.is_some() && copies == COPIES) {
            let end = end.unwrap_or_else(|| "It runs.".into());
            let left = figures.left;
            bail!(
                Flaw::new(format!("after {} killed workers the job is not dead", copies - 1))
                    .did(DID)
                    .saw(format!("{end} It was copy {copies}. There was no message on {subject}, and {left} messages were in the stream jobs."))
                    .likely(LIKELY)
            );
        }
        if end.is_some() {
            worker = queue.worker("")?;
            copies += 1;
            sign.1 = Instant::now();
        }
        thread::sleep(Duration::from_millis(20));
    };
    if let Some(flaw) = letter_flaw(&letter, poison.payload().as_bytes(), None) {
        bail!(
            Flaw::new("the dead letter is not as it has to be").did(DID).saw(flaw).likely(LIKELY)
        );
    }
    let neighbours = "Its neighbours were in the hands of the workers that it killed, and each of these attempts counted for them, too. A job whose attempts have not ended has to run alone.";
    explain(queue.until_empty(&mut [&mut worker]), DID, neighbours)?;
    let dead = queue.dead()?.len() - 1;
    if dead > 0 {
        let all = others.len();
        bail!(
            Flaw::new(format!("{dead} of {all} other jobs are dead, too"))
                .did(DID)
                .saw(format!("There were {} messages in jobs_dead.", dead + 1))
                .likely(neighbours)
        );
    }
    explain(queue.each_once_through_kills(&others, &mut worker), DID, LIKELY)?;
    Ok(format!("dead after {} killed workers, {} other jobs done", copies - 1, others.len()))
}

fn pauses(trial: &Trial) -> Result<String> {
    const JOBS: u64 = 40;
    const ATTEMPTS: usize = 5;
    /// A pause has 1 s. The first of two lines may be read late.
    const PAUSE: Duration = Duration::from_millis(800);
    const DID: &str = "40 jobs of the kind flaky were stored, each of which fails now and then.";
    const LIKELY: &str = "A nak without a delay means `at once`: all attempts are over before the fault has passed. Nak with a delay that doubles. Count the attempts, and make the job a dead letter after the fifth.";
    let queue = Queue::start(trial)?;
    let jobs = jobs("flaky", 1..=JOBS);
    queue.submit(&jobs)?;
    let mut worker = queue.worker("")?;
    explain(queue.until_empty(&mut [&mut worker]), DID, LIKELY)?;
    let lines = queue.lines.all();
    let (mut failures, mut shortest) = (0, None);
    for job in &jobs {
        let lines: Vec<&Line> = lines.iter().filter(|line| line.id == job.id).collect();
        let failed = lines.iter().filter(|line| line.said == Said::Again).count();
        failures += failed;
        if failed >= ATTEMPTS {
            bail!(
                Flaw::new(format!("a job was tried more than {ATTEMPTS} times"))
                    .did(DID)
                    .saw(format!("{failed} lines said of {} that it is tried again.", job.id))
                    .likely(LIKELY)
            );
        }
        for pair in lines.windows(2).filter(|pair| pair[0].said == Said::Again) {
            let pause = pair[1].at - pair[0].at;
            shortest = Some(shortest.map_or(pause, |shortest: Duration| shortest.min(pause)));
            if pause < PAUSE {
                bail!(
                    Flaw::new(format!("a job that failed was tried again after {}", shown(pause)))
                        .did(DID)
                        .saw(format!("Two lines about {} came within {}.", job.id, shown(pause)))
                        .likely(LIKELY)
                );
            }
        }
    }
    let dead = queue.dead()?;
    let dead = jobs.iter().filter(|job| dead.contains_key(&format!("jobs.dead.flaky.{}", job.id)));
    let (done, dead) = (queue.lines.times().len() as u64, dead.count() as u64);
    if done + dead != JOBS {
        bail!(
            Flaw::new(format!("{done} of {JOBS} jobs are done, {dead} are dead"))
                .did(DID)
                .saw("The queue is empty, and each job has to be one of both.")
                .likely(LIKELY)
        );
    }
    Ok(match shortest {
        None => format!("no pause was seen: none of {JOBS} flaky jobs failed"),
        Some(shortest) => format!(
            "{failures} failures, each followed by {} or more; {done} done, {dead} dead",
            shown(shortest)
        ),
    })
}

fn long_job(trial: &Trial) -> Result<String> {
    const WORK: Duration = Duration::from_secs(15);
    const DID: &str = "Two copies were started with --work 15s, and a job was stored.";
    let likely = "A job that is not acknowledged within ack_wait is delivered again, to another worker, while it runs. Report progress now and then (`AckKind::Progress`), each third of ack_wait for instance.";
    let queue = Queue::start(trial)?;
    let mut copies = explain(two_workers(&queue, "--work 15s"), DID, likely)?;
    let [one, other] = &mut copies;
    let is_connected = other.wait(READY, "it connected", || {
        // With the first one, and that of the check.
        let connections = number(&queue.server.monitor("/connz")?, "/num_connections");
        Ok((connections >= 3).then_some(()))
    });
    explain(is_connected, DID, likely)?;
    let job = Job::new("email", 1);
    queue.submit([&job])?;
    let begun = Instant::now();
    let mut again = 0;
    let is_done = one.wait(WORK + READY, "the job was done", || {
        let figures = queue.figures()?;
        again = again.max(figures.sum("/num_redelivered"));
        Ok(queue.lines.wait_for(&job.id, Duration::from_millis(50)).map(|_| ()))
    });
    explain(is_done, DID, likely)?;
    let took = begun.elapsed();
    if took + Duration::from_secs(1) < WORK {
        bail!(
            Flaw::new(format!("a job of 15 s took {}", shown(took)))
                .did(DID)
                .saw("It was done too early.")
                .likely("It does not know --work, the time that it spends on each job: without it this check says nothing.")
        );
    }
    explain(queue.until_empty(&mut [one, other]), DID, likely)?;
    queue.each_once(std::slice::from_ref(&job)).map_err(|flaw| flaw.did(DID).likely(likely))?;
    let deliveries = queue.figures()?.sum("/delivered/consumer_seq");
    if again > 0 || deliveries > 1 {
        bail!(
            Flaw::new(format!("the job was delivered {deliveries} times while it ran"))
                .did(DID)
                .saw(format!(
                    "It was done after {}. nats-server had delivered it {deliveries} times.",
                    shown(took)
                ))
                .likely(likely)
        );
    }
    Ok(format!("done once after {}, delivered once", shown(took)))
}

fn does_jobs(trial: &Trial) -> Result<String> {
    const DID: &str = "Two copies ran. 200 emails, and 40 invoices of 8 keys, were stored.";
    const LIKELY: &str = "Jobs of each kind are on jobs.new.<kind>.<partition>.<key>: is there a consumer for each kind, and does the program acknowledge what is done?";
    let queue = Queue::start(trial)?;
    let emails = jobs("email", 1..=200);
    let invoices = (1..=40).map(|n| Job::new("invoice", n).key(&format!("customer-{}", n % 8)));
    let all: Vec<Job> = emails.into_iter().chain(invoices).collect();
    let mut copies = explain(two_workers(&queue, ""), DID, LIKELY)?;
    queue.submit(&all)?;
    let begun = Instant::now();
    let [one, other] = &mut copies;
    explain(queue.until_empty(&mut [one, other]), DID, LIKELY)?;
    queue.each_once(&all).map_err(|flaw| flaw.did(DID).likely(LIKELY))?;
    let first = queue.lines.done().iter().filter(|line| line.copy == 0).count();
    Ok(format!(
        "{} of {} jobs done once within {}, shares {first} and {}",
        all.len(),
        all.len(),
        shown(begun.elapsed()),
        all.len() - first
    ))
}

fn same_id(trial: &Trial) -> Result<String> {
    const DID: &str = "20 jobs were done. Messages with the same ids were stored once more, and again after the program was killed and started again.";
    const LIKELY: &str = "nats-server recognises an id that is submitted again for two minutes only, and a job can be delivered again at any time. Store the effect and the id in one transaction, and look there first.";
    let queue = Queue::start(trial)?;
    let jobs = jobs("email", 1..=20);
    let messages = || jobs.iter().map(|job| (job.subject(), job.message()));
    let mut worker = queue.worker("")?;
    for turn in 1..=3 {
        if turn == 3 {
            worker.kill();
            worker = queue.worker("")?;
        }
        queue.store(messages())?;
        explain(queue.until_empty(&mut [&mut worker]), DID, LIKELY)?;
        if turn == 1 {
            queue.each_once(&jobs)?;
        }
    }
    queue.each_once(&jobs).map_err(|flaw| flaw.did(DID).likely(LIKELY))?;
    Ok(format!("60 messages, {} jobs done once", jobs.len()))
}

/// What is wrong with a dead letter of a job that was tried so often; none if it is as it has to be.
fn letter_flaw(letter: &StreamMessage, payload: &[u8], attempts: Option<&str>) -> Option<String> {
    if letter.payload != payload {
        let (was, is) =
            (String::from_utf8_lossy(payload), String::from_utf8_lossy(&letter.payload));
        return Some(format!("The payload `{was}` has become `{is}`."));
    }
    let header = |name: &str| letter.headers.get(name).map_or("", |value| value.as_str());
    let names = ["Job-Reason", "Job-Attempts", "Job-First-At", "Job-Last-At", "Job-Worker"];
    let missing: Vec<&str> = names.into_iter().filter(|name| header(name).is_empty()).collect();
    if !missing.is_empty() {
        return Some(format!("It lacks the headers {}.", missing.join(", ")));
    }
    let found = header("Job-Attempts");
    attempts
        .filter(|attempts| *attempts != found)
        .map(|attempts| format!("The header Job-Attempts is `{found}`, not `{attempts}`."))
}

fn bad_job(trial: &Trial) -> Result<String> {
    const DID: &str = "A job of the kind bad was stored, and an email behind it.";
    const LIKELY: &str = "A failure that cannot pass needs no second attempt. Store the job as it was in jobs_dead, on jobs.dead.<kind>.<id>, wait for the acknowledgement, then terminate the message (`AckKind::Term`), which deletes it from the queue.";
    let queue = Queue::start(trial)?;
    let (bad, good) = (Job::new("bad", 1), Job::new("email", 1));
    // Not as a program would write it: what is stored is what was there.
    let payload = format!(r#"{{"kind": "bad",  "job_id": "{}", "args": {{}}}}"#, bad.id);
    let message = PublishMessage::build()
        .payload(payload.clone().into())
        .message_id(&bad.id)
        .header("Job-Id", bad.id.as_str());
    let mut worker = queue.worker("")?;
    queue.store([(bad.subject(), message)])?;
    let begun = Instant::now();
    queue.submit([&good])?;
    let (mut dead, mut over_since) = (None, None);
    let subject = format!("jobs.dead.bad.{}", bad.id);
    let found = worker.wait(READY, "the bad job was dead", || {
        dead = queue.dead()?.remove(&subject);
        let figures = queue.figures()?;
        let in_hand = figures.sum("/num_pending") + figures.sum("/num_ack_pending");
        let is_over = in_hand == 0 && queue.lines.wait_for(&good.id, Duration::ZERO).is_some();
        over_since = if is_over { over_since.or(Some(Instant::now())) } else { None };
        let is_given_up = over_since.is_some_and(|it| it.elapsed() > Duration::from_secs(1));
        Ok((dead.is_some() || is_given_up).then_some(()))
    });
    explain(found, DID, LIKELY)?;
    let took = begun.elapsed();
    let Some(letter) = dead else {
        bail!(
            Flaw::new("the bad job is not dead")
                .did(DID)
                .saw(format!(
                    "Nothing was on {subject}, and nats-server delivered the job no more. {}",
                    state(&mut worker)?
                ))
                .likely(LIKELY)
        );
    };
    if let Some(flaw) = letter_flaw(&letter, payload.as_bytes(), Some("1")) {
        bail!(
            Flaw::new("the dead letter is not as it has to be").did(DID).saw(flaw).likely(LIKELY)
        );
    }
    explain(queue.until_empty(&mut [&mut worker]), DID, LIKELY)?;
    queue.each_once(&[good]).map_err(|flaw| flaw.did(DID).likely(LIKELY))?;
    let deliveries = queue.figures()?.sum("/delivered/consumer_seq");
    if deliveries != 2 {
        bail!(
            Flaw::new(format!("{deliveries} deliveries of 2 jobs"))
                .did(DID)
                .saw("A job was delivered more than once.")
                .likely(LIKELY)
        );
    }
    Ok(format!("dead after {}, one delivery", shown(took)))
}

fn malformed(trial: &Trial) -> Result<String> {
    const MALFORMED: [&str; 4] = [
        "no JSON",
        "",
        r#"{"job_id":"prove-no-kind","kind":"nosuch","args":{}}"#,
        r#"{"job_id":"prove-no-object","kind":"email","args":[]}"#,
    ];
    const LIKELY: &str = "An error that leaves the loop ends the program, and the message comes again at each start. Terminated without a dead letter, the message is deleted. Store it in jobs_dead as it is, with the reason, then terminate it.";
    let queue = Queue::start(trial)?;
    let good = jobs("email", 1..=MALFORMED.len() as u64);
    let did = format!(
        "{} messages that are no jobs were stored on jobs.new.email.<id>, a good job behind each.",
        MALFORMED.len()
    );
    let mut worker = queue.worker("")?;
    for (number, (payload, good)) in MALFORMED.iter().zip(&good).enumerate() {
        let message = PublishMessage::build()
            .payload(payload.to_string().into())
            .header("Job-Id", format!("prove-malformed-{number}"));
        queue.store([(format!("jobs.new.email.prove-malformed-{number}"), message)])?;
        queue.submit([good])?;
    }
    explain(queue.until_empty(&mut [&mut worker]), &did, LIKELY)?;
    queue.each_once(&good).map_err(|flaw| flaw.did(&did).likely(LIKELY))?;
    let dead = queue.dead()?;
    for payload in MALFORMED {
        let letter = dead.values().find(|letter| letter.payload == payload.as_bytes());
        let saw = match letter {
            None => Some(format!("No message in jobs_dead has the payload `{payload}`.")),
            Some(letter) if !letter.subject.starts_with("jobs.dead.email.") => {
                Some(format!("It is on {}, not on jobs.dead.email.<id>.", letter.subject))
            }
            Some(letter) => letter_flaw(letter, payload.as_bytes(), None),
        };
        if let Some(saw) = saw {
            bail!(
                Flaw::new(format!(
                    "a message is gone from the queue, and not dead as it has to be: `{payload}`"
                ))
                .did(did)
                .saw(saw)
                .likely(LIKELY)
            );
        }
    }
    Ok(format!("{} of {} dead, {} good jobs done", MALFORMED.len(), MALFORMED.len(), good.len()))
}

fn killed(trial: &Trial) -> Result<String> {
    const JOBS: u64 = 2_000;
    const DID: &str = "2000 jobs were stored, and two copies ran. One of them was killed with -9 in full flow, when its last acknowledgements had not reached nats-server.";
    const LIKELY: &str = "A job whose acknowledgement is lost is delivered again after ack_wait. Store the effect and the job's id in one transaction in the file of --db, and look there before a job runs: a memory dies with its process.";
    let queue = Queue::start(trial)?;
    let jobs = jobs("email", 1..=JOBS);
    queue.submit(&jobs)?;
    let link = Link::to(queue.server.port())?;
    link.delay(ON_THE_WAY);
    let mut victim = queue.worker_over(&link)?;
    in_flow(&queue, 0, &mut victim, DID, LIKELY)?;
    link.cut();
    let mut other = queue.worker("")?;
    let works = other.wait(READY, "it had done a job", || {
        Ok(queue.lines.wait_for_copy(1, 1, Duration::from_millis(20)).then_some(()))
    });
    explain(works, DID, LIKELY)?;
    victim.kill();
    link.reset();
    let begun = Instant::now();
    explain(queue.until_empty(&mut [&mut other]), DID, LIKELY)?;
    let took = shown(begun.elapsed());
    let unsaid = explain(queue.each_once_through_kills(&jobs, &mut other), DID, LIKELY)?;
    Ok(format!(
        "0 of {JOBS} jobs lost or done twice, {unsaid} without a line; queue empty after {took}"
    ))
}

/// Waits until a copy has done some hundred jobs.
fn in_flow(
    queue: &Queue<'_>,
    copy: usize,
    worker: &mut Instance,
    did: &str,
    likely: &str,
) -> Result<()> {
    let flow = worker.wait(READY, "it had done 200 jobs", || {
        Ok(queue.lines.wait_for_copy(copy, 200, Duration::from_millis(20)).then_some(()))
    });
    explain(flow, did, likely)
}

fn stopped_in_full_flow(trial: &Trial) -> Result<String> {
    const JOBS: u64 = 2_000;
    const DID: &str = "2000 jobs were stored, and it got SIGTERM when it had done some hundred. Then another program asked for the rest.";
    const LIKELY: &str = "Jobs that were fetched and are not done reach no other program before ack_wait is over. Finish them, or hand them back (`AckKind::Nak`), and wait for the last acknowledgements before the end.";
    let queue = Queue::start(trial)?;
    let jobs = jobs("email", 1..=JOBS);
    queue.submit(&jobs)?;
    let mut worker = queue.worker("")?;
    in_flow(&queue, 0, &mut worker, DID, LIKELY)?;
    worker.signal(Signal::TERM);
    let end = worker.ends_well(("SIGTERM", Instant::now()));
    let (got, expected) = queue.delivered_at_once()?;
    if got < expected || end.is_err() {
        let saw = worker.end()?.unwrap_or_else(|| "It runs on.".into());
        bail!(
            Flaw::new(format!(
                "{} of {expected} jobs reach no other program at once",
                expected - got
            ))
            .did(DID)
            .saw(format!("{saw} Another program got {got} of {expected} jobs within 3 s."))
            .likely(LIKELY)
        );
    }
    let took = end?;
    let mut other = queue.worker("")?;
    explain(queue.until_empty(&mut [&mut other]), DID, LIKELY)?;
    queue.each_once(&jobs).map_err(|flaw| flaw.did(DID).likely(LIKELY))?;
    Ok(format!("ended {} after SIGTERM, {got} of {expected} other jobs at once", shown(took)))
}

fn order_of_a_key(trial: &Trial) -> Result<String> {
    /// Not even: a queue that gives jobs to two copies in turn gives each of them jobs of every key.
    const KEYS: u64 = 7;
    const EACH: u64 = 24;
    /// A line can be read late, but not that late.
    const LATE: Duration = Duration::from_millis(500);
    const DID: &str = "Two copies ran with --work 50ms, and 24 invoices of each of 7 keys were stored. In their middle a copy was suspended for a moment, as on a busy machine, and killed with -9.";
    const LIKELY: &str = "What a dead worker had in hand comes again after ack_wait, when later jobs are done. Let nats-server deliver one job of a key at a time: a consumer with max_ack_pending 1 for each partition.";
    let queue = Queue::start(trial)?;
    let invoices = |numbers: std::ops::RangeInclusive<u64>| {
        let of_all_keys = move |n: u64| {
            (0..KEYS).map(move |key| Job::new("invoice", n * 100 + key).key(&format!("key-{key}")))
        };
        numbers.flat_map(of_all_keys).collect::<Vec<Job>>()
    };
    let mut copies = explain(two_workers(&queue, "--work 50ms"), DID, LIKELY)?;
    let [one, other] = &mut copies;
    explain(queue.until_all_work(&mut [one, other]), DID, LIKELY)?;
    queue.submit(&invoices(1..=EACH / 2))?;
    let is_invoice = |line: &&Line| line.said == Said::Done && line.id.contains("invoice");
    let done = |count: usize, limit| {
        queue.lines.wait(limit, |lines| lines.iter().filter(is_invoice).count() >= count)
    };
    if !done(12, READY) {
        bail!(Flaw::new("no invoice was done").did(DID).saw(state(&mut copies[0])?).likely(LIKELY));
    }
    let victim = trial.random().random_range(0..copies.len());
    copies[victim].signal(Signal::STOP);
    queue.submit(&invoices(EACH / 2 + 1..=EACH))?;
    // The other copy does what it gets.
    let so_far = queue.lines.done().iter().filter(is_invoice).count();
    done(so_far + 30, Duration::from_secs(1));
    copies[victim].kill();
    explain(queue.until_empty(&mut [&mut copies[1 - victim]]), DID, LIKELY)?;

    let lines: Vec<Line> = queue.lines.done().into_iter().filter(|it| is_invoice(&it)).collect();
    let mut overtaken = 0;
    let number = |line: &Line| line.id[line.id.len() - 5..].parse::<u64>().unwrap_or_default();
    for (at, line) in lines.iter().enumerate() {
        let is_overtaken = |later: &&Line| {
            number(later) % 100 == number(line) % 100
                && number(later) > number(line)
                && (later.copy == line.copy || line.at - later.at > LATE)
        };
        overtaken += usize::from(lines[..at].iter().any(|later| is_overtaken(&later)));
    }
    let all = KEYS * EACH;
    if overtaken > 0 {
        bail!(
            Flaw::new(format!("{overtaken} of {all} jobs were overtaken by later ones of their key"))
                .did(DID)
                .saw(format!("Lines said of {overtaken} jobs that they are done when a later one with the same key was done already."))
                .likely(LIKELY)
        );
    }
    let other = &mut copies[1 - victim];
    explain(queue.each_once_through_kills(&invoices(1..=EACH), other), DID, LIKELY)?;
    Ok(format!("{} lines of {all} jobs, in the order of their keys", lines.len()))
}

fn frozen(trial: &Trial) -> Result<String> {
    const DID: &str = "It was started with --work 1s, and suspended in a job. When another copy had done the job, it went on.";
    const LIKELY: &str = "It was given up for dead, and does not know it. When the work is done, store the effect only if no other worker has begun the job meanwhile: in one transaction, in the file of --db.";
    let queue = Queue::start(trial)?;
    let mut frozen = queue.worker("--work 1s")?;
    explain(
        frozen.wait(READY, "it asked for jobs", || {
            Ok((queue.figures()?.sum("/num_waiting") > 0).then_some(()))
        }),
        DID,
        LIKELY,
    )?;
    let job = Job::new("email", 1);
    queue.submit([&job])?;
    explain(
        frozen.wait(AT_ONCE, "the job was delivered", || {
            Ok((queue.figures()?.sum("/delivered/consumer_seq") > 0).then_some(()))
        }),
        DID,
        LIKELY,
    )?;
    if queue.lines.wait_for(&job.id, Duration::from_millis(200)).is_some() {
        bail!(
            Flaw::new("a job of 1 s is done at once")
                .did("It was started with --work 1s, and a job was stored.")
                .saw("Its line came at once.")
                .likely("It does not know --work, the time that it spends on each job: without it this check says nothing.")
        );
    }
    // By now it is at work, and not in a transaction that would lock the file of --db.
    frozen.signal(Signal::STOP);
    let begun = Instant::now();
    let mut other = queue.worker("")?;
    explain(
        other.wait(AGAIN, "it had done the job of the copy that stands still", || {
            Ok(queue.lines.wait_for(&job.id, Duration::from_millis(20)).map(|_| ()))
        }),
        DID,
        LIKELY,
    )?;
    let took = begun.elapsed();
    frozen.signal(Signal::CONT);
    // The rest of its second, and as much again.
    queue.lines.wait(Duration::from_secs(2), |lines| {
        lines.iter().filter(|line| line.id == job.id && line.said == Said::Done).count() > 1
    });
    queue.each_once(&[job]).map_err(|flaw| flaw.did(DID).likely(LIKELY))?;
    if let Some(end) = frozen.end()? {
        bail!(Flaw::new("it ended when it went on").did(DID).saw(end).likely(LIKELY));
    }
    Ok(format!("another copy did its job after {}, and it none", shown(took)))
}

fn nats_server_restarted(trial: &Trial) -> Result<String> {
    const JOBS: u64 = 1_000;
    const DID: &str = "1000 jobs were stored. In full flow nats-server was killed, when the last acknowledgements had not reached it, and started again 1 s later.";
    const LIKELY: &str = "Acknowledgements on their way are lost with nats-server, and the jobs come again. Look into the file of --db before a job runs. A request for jobs is lost, too: send it again.";
    let mut queue = Queue::start(trial)?;
    let jobs = jobs("email", 1..=JOBS);
    queue.submit(&jobs)?;
    let link = Link::to(queue.server.port())?;
    link.delay(ON_THE_WAY);
    let mut worker = queue.worker_over(&link)?;
    in_flow(&queue, 0, &mut worker, DID, LIKELY)?;
    link.cut();
    let printed = queue.lines.count();
    queue.lines.wait(Duration::from_millis(300), |lines| lines.len() as u64 > printed + 100);
    queue.server.kill()?;
    link.reset();
    link.heal();
    link.delay(Duration::ZERO);
    thread::sleep(Duration::from_secs(1));
    queue.server.restart()?;
    let back = Instant::now();
    queue.reconnect()?;
    let after = Job::new("email", JOBS + 1);
    queue.submit([&after])?;
    let took = works_again(&mut worker, back, DID, || {
        Ok(queue.lines.wait_for(&after.id, Duration::from_millis(10)).is_some())
    })?;
    explain(queue.until_empty(&mut [&mut worker]), DID, LIKELY)?;
    queue.each_once(&jobs).map_err(|flaw| flaw.did(DID).likely(LIKELY))?;
    Ok(format!("works again after {}, 0 of {JOBS} jobs done twice", shown(took)))
}

fn delayed(trial: &Trial) -> Result<String> {
    const DELAY: Duration = Duration::from_secs(2);
    const DID: &str =
        "A job was stored on jobs.sched.<id>, to be put into the queue by nats-server 2 s later.";
    const LIKELY: &str = "A consumer without a filter takes what is on jobs.sched.>, too: the job is done at once, and its schedule is deleted. Filter by jobs.new.> or by kind.";
    let queue = Queue::start(trial)?;
    let mut worker = queue.worker("")?;
    explain(queue.until_all_work(&mut [&mut worker]), DID, LIKELY)?;
    let job = Job::new("email", 1);
    let due = Instant::now() + DELAY;
    let at = humantime::format_rfc3339_millis(SystemTime::now() + DELAY);
    let message = job
        .message()
        .header(NATS_SCHEDULE, format!("@at {at}"))
        .header(NATS_SCHEDULE_TARGET, job.subject());
    queue.store([(format!("jobs.sched.{}", job.id), message)])?;
    explain(
        worker.wait(DELAY + AT_ONCE, "the job was done", || {
            Ok(queue.lines.wait_for(&job.id, Duration::from_millis(20)).map(|_| ()))
        }),
        DID,
        LIKELY,
    )?;
    let done = queue.lines.wait_for(&job.id, Duration::ZERO).context("no line")?;
    // The schedule has milliseconds, so it can be that much earlier.
    if done + Duration::from_millis(1) < due {
        bail!(
            Flaw::new(format!("the job was done {} before it was due", shown(due - done)))
                .did(DID)
                .saw("Its line came too early.")
                .likely(LIKELY)
        );
    }
    explain(queue.until_empty(&mut [&mut worker]), DID, LIKELY)?;
    queue.each_once(&[job]).map_err(|flaw| flaw.did(DID).likely(LIKELY))?;
    Ok(format!("done {} after it was due", shown(done - due)))
}
