//! Which programs there are, in which scene, and what its buttons do. Nothing that a browser sends
//! becomes a path, a command or an argument: it is looked up here.

use crate::wire::Protocol;

/// How long a program runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Life {
    /// From the start, until it ends or is ended.
    Lasting,
    /// As [`Life::Lasting`], but first started by the button for one more.
    Spare,
    /// From the start, again and again: so many milliseconds from one start to the next, if it has
    /// ended by then.
    Again(u64),
    /// When a button says so, with the button's arguments.
    Tool,
}

/// A program and its arguments. `{…}` in an argument stands for
/// the load, the storage or the folder of this run.
#[derive(Debug)]
pub struct Run {
    /// The name of the binary; that of an example begins with `examples/`.
    pub program: &'static str,
    /// Its arguments.
    pub args: &'static [&'static str],
}

/// A program of a scene.
#[derive(Debug)]
pub struct Role {
    /// Its name on the page, unique over all scenes.
    pub id: &'static str,
    /// The scene's id.
    pub scene: &'static str,
    /// Whether it stands on the left, with those that begin something.
    pub left: bool,
    /// The service.
    pub service: Run,
    /// The first version, if it can take the service's place.
    pub first: Option<Run>,
    /// What it speaks.
    pub protocol: Protocol,
    /// How long its line to nats-server is, in milliseconds each way.
    pub delay: u64,
    /// How long it runs.
    pub life: Life,
}

/// What a button of a scene does.
#[derive(Clone, Copy, Debug)]
pub enum Deed {
    /// Starts one more program.
    More,
    /// This page publishes `not json` on a subject.
    Bad(&'static str),
    /// This page publishes on `hello` as strangers may, or no more.
    Strangers,
    /// Full load for the workers, or calm again.
    Load,
    /// Stops each math-server and starts it again.
    Rolling,
    /// Deletes the stream of orders; the next one is in the other kind of storage.
    Storage,
    /// Runs a tool, once with each of these arguments. Its first version has others, and cannot do it
    /// if there are none.
    Tool {
        /// The role's name.
        id: &'static str,
        /// The arguments of each run.
        service: &'static [&'static [&'static str]],
        /// Those of the first version.
        first: &'static [&'static [&'static str]],
    },
}

/// A button of a scene.
#[derive(Debug)]
pub struct Action {
    /// Its name in a request.
    pub id: &'static str,
    /// What stands on it.
    pub label: &'static str,
    /// What it does, in a sentence.
    pub title: &'static str,
    /// The same for the program.
    pub deed: Deed,
}

/// A scene: one experiment.
#[derive(Debug)]
pub struct Plan {
    /// The folder of the experiment.
    pub id: &'static str,
    /// What the dots are.
    pub legend: &'static [(&'static str, &'static str)],
    /// Its buttons.
    pub actions: &'static [Action],
    /// What the reader should try.
    pub hint: &'static str,
}

const fn action(id: &'static str, label: &'static str, title: &'static str, deed: Deed) -> Action {
    Action { id, label, title, deed }
}

const fn bad(label: &'static str, title: &'static str, subject: &'static str) -> Action {
    action("bad", label, title, Deed::Bad(subject))
}

/// The arguments of one run, or of several.
type Runs = &'static [&'static [&'static str]];

const fn tool(id: &'static str, service: Runs, first: Runs) -> Deed {
    Deed::Tool { id, service, first }
}

/// The arguments of `job-submit email`.
const EMAIL: &[&str] = &["email"];

/// A tool whose first version takes the same arguments.
const fn submit(args: Runs) -> Deed {
    tool("job-submit", args, args)
}

/// The scenes, in the order of the lessons.
pub const PLANS: [Plan; 7] = [
    Plan {
        id: "hello",
        legend: &[("message", "a message on hello"), ("ack", "a stranger's message on hello")],
        actions: &[action(
            "strangers",
            "Strangers",
            "This page publishes on hello, too, thousands of times a second, as strangers may on a \
             public server",
            Deed::Strangers,
        )],
        hint: "Let strangers in, then choose the first version and wait up to a minute: it prints the \
               first message that comes, also one that another program has sent.",
    },
    Plan {
        id: "queue-groups",
        legend: &[("message", "a log entry"), ("bad", "a message that is no log entry")],
        actions: &[
            action("more", "One more worker", "Starts one more log-worker", Deed::More),
            bad(
                "Publish a bad message",
                "This page publishes `not json` on logs.process",
                "logs.process",
            ),
            action(
                "full",
                "5,000/s",
                "Full load: 1,250 entries four times a second, and workers without work. Otherwise \
                 300 entries every 2 s, and 10 ms of work on each",
                Deed::Load,
            ),
        ],
        hint: "All workers are in one queue group: nats-server gives each log entry to one of them, \
               and keeps none. Kill a worker while its bar is long: what it had received and not \
               printed is gone. Stop it: a service takes up to 3 s to print the rest; a first \
               version loses it.",
    },
    Plan {
        id: "rpc",
        legend: &[("message", "a request"), ("reply", "a reply"), ("bad", "an error reply")],
        actions: &[
            action("more", "One more server", "Starts one more math-server", Deed::More),
            action(
                "rolling",
                "Rolling restart",
                "Stops each running server with SIGTERM, and starts it again, one after another",
                Deed::Rolling,
            ),
            bad("Send a bad request", "This page sends `not json` to math.sum", "math.sum"),
        ],
        hint: "A rolling restart of services costs no request its reply. Try it with first \
               versions.",
    },
    Plan {
        id: "jetstream",
        legend: &[
            ("message", "an order"),
            ("again", "an order, delivered again"),
            ("ack", "an acknowledgement: the order is stored, or handled"),
            ("bad", "a message that is no order"),
        ],
        actions: &[
            action("more", "One more consumer", "Starts one more order-consumer", Deed::More),
            bad(
                "Publish a bad order",
                "This page publishes `not json` on orders.created",
                "orders.created",
            ),
            action(
                "storage",
                "Stream in memory",
                "Deletes the stream; order-publisher makes it again, in memory or in a file",
                Deed::Storage,
            ),
        ],
        hint: "Kill a consumer: what it has not acknowledged is delivered again. Stop all of them, \
               wait, start one: the orders are still there. Then kill nats-server, with the stream \
               in a file and in memory (that button deletes the stream and its orders).",
    },
    Plan {
        id: "kv",
        legend: &[("message", "a value of the switch")],
        actions: &[
            action(
                "on",
                "Maintenance on",
                "Runs `config-admin set true`",
                tool("config-admin", &[&["set", "true"]], &[]),
            ),
            action(
                "off",
                "Maintenance off",
                "Runs `config-admin set false`",
                tool("config-admin", &[&["set", "false"]], &[]),
            ),
            action(
                "turn",
                "On and off, five times",
                "Runs `config-admin`, or its first version: ten changes, one a second",
                tool("config-admin", &[&["--cycles", "5"]], &[&[]]),
            ),
            action(
                "delete",
                "Delete the bucket",
                "Runs the example delete-bucket: the next switch makes a new bucket, which counts \
                 from 1",
                tool("delete-bucket", &[&[]], &[]),
            ),
        ],
        hint: "nats-server keeps the switch in a bucket, and numbers its values. Each shop has a watch: \
               nats-server sends it every change. Switch six times, delete the bucket, and switch \
               again, with one shop as the first version. The new bucket counts from 1, and that shop \
               ignores every number up to the last one that it has seen: its watch is deaf. \
               With config-admin as the first version: stop it halfway, and the shops stay closed.",
    },
    Plan {
        id: "mqtt-bridge",
        legend: &[
            ("message", "a reading"),
            ("ack", "an acknowledgement of a reading"),
            ("bad", "a message that is no reading"),
        ],
        actions: &[
            bad(
                "Publish a bad reading",
                "This page publishes `not json` on device.temp",
                "device.temp",
            ),
            action(
                "fast",
                "Faster",
                "Runs `device-admin interval`: 50 ms for both sensors",
                tool(
                    "device-admin",
                    &[&["interval", "sensor-0", "50ms"], &["interval", "sensor-1", "50ms"]],
                    &[],
                ),
            ),
            action(
                "calm",
                "Slower",
                "Runs `device-admin interval`: 500 ms for both sensors",
                tool(
                    "device-admin",
                    &[&["interval", "sensor-0", "500ms"], &["interval", "sensor-1", "500ms"]],
                    &[],
                ),
            ),
        ],
        hint: "Cut the lines of both sensors, wait until they say that they have lost the \
               connection (10 s), and mend them: what QoS 0 sent meanwhile is missing, what QoS 1 \
               sent comes late. Kill a sensor, and watch its presence.",
    },
    Plan {
        id: "jobs",
        legend: &[
            ("message", "a job"),
            ("again", "a job, delivered again"),
            ("ack", "an acknowledgement"),
            ("bad", "a message that is no job"),
        ],
        actions: &[
            action("more", "One more worker", "Starts one more job-worker", Deed::More),
            action(
                "email",
                "20 emails",
                "Runs `job-submit email --count 20`; the first version once for each of them",
                tool("job-submit", &[&["email", "--count", "20"]], &[EMAIL; 20]),
            ),
            action(
                "report",
                "A report",
                "Submits a report that takes 4 s",
                submit(&[&["report", r#"{"seconds": 4}"#]]),
            ),
            action(
                "invoice",
                "5 invoices of ann",
                "Submits five invoices with one key: they keep their order",
                tool("job-submit", &[&["invoice", "--key", "ann", "--count", "5"]], &[]),
            ),
            action(
                "flaky",
                "A flaky job",
                "The service that it needs is away for 4 s: it is tried again",
                submit(&[&["flaky", r#"{"away": 4}"#]]),
            ),
            action(
                "poison",
                "Poison",
                "Submits a job that kills its worker",
                submit(&[&["poison"]]),
            ),
            action("bad", "A bad job", "Submits a job that can never succeed", submit(&[&["bad"]])),
            action(
                "later",
                "An email in 10 s",
                "nats-server holds it back",
                tool("job-submit", &[&["email", "--delay", "10s"]], &[]),
            ),
            action(
                "retry",
                "Retry all dead",
                "Runs `job-admin retry --all`, or its first version",
                tool("job-admin", &[&["retry", "--all"]], &[&[]]),
            ),
        ],
        hint: "Submit emails, and kill a worker in the middle: its jobs come again after 5 s, and \
               each is done once. Poison ends as a dead letter.",
    },
];

const NATS: Protocol = Protocol::Nats;

const fn run(program: &'static str, args: &'static [&'static str]) -> Run {
    Run { program, args }
}

const fn left(
    scene: &'static str,
    id: &'static str,
    delay: u64,
    life: Life,
    service: Run,
    first: Option<Run>,
) -> Role {
    Role { id, scene, left: true, service, first, protocol: NATS, delay, life }
}

/// A tool, without arguments: those come from the button that runs it.
const fn left_tool(
    scene: &'static str,
    id: &'static str,
    program: &'static str,
    first: Option<&'static str>,
) -> Role {
    let first = match first {
        Some(program) => Some(run(program, &[])),
        None => None,
    };
    left(scene, id, 0, Life::Tool, run(program, &[]), first)
}

const fn right(
    scene: &'static str,
    id: &'static str,
    life: Life,
    service: Run,
    first: Option<Run>,
) -> Role {
    Role { id, scene, left: false, service, first, protocol: NATS, delay: 0, life }
}

const fn worker(id: &'static str, args: &'static [&'static str], life: Life) -> Role {
    let first = Some(run("examples/first-log-worker", &[]));
    right("queue-groups", id, life, run("log-worker", args), first)
}

const fn math_server(id: &'static str, life: Life) -> Role {
    let first = Some(run("examples/first-math-server", &[]));
    right("rpc", id, life, run("math-server", &[]), first)
}

const fn consumer(id: &'static str, life: Life) -> Role {
    let first = Some(run("examples/first-order-consumer", &[]));
    right("jetstream", id, life, run("order-consumer", &["--work", "20ms"]), first)
}

const fn shop(id: &'static str) -> Role {
    let first = Some(run("examples/first-config-app", &[]));
    right("kv", id, Life::Lasting, run("config-app", &[]), first)
}

const fn sensor(id: &'static str, args: &'static [&'static str], first: Option<Run>) -> Role {
    let life = Life::Again(1_000);
    let service = run("sensor", args);
    Role { protocol: Protocol::Mqtt, ..left("mqtt-bridge", id, 0, life, service, first) }
}

const fn job_worker(id: &'static str, life: Life) -> Role {
    const ARGS: &[&str] = &["--db", "{db}", "--concurrency", "2", "--work", "500ms"];
    let first = Some(run("examples/first-job-worker", &[]));
    right("jobs", id, life, run("job-worker", ARGS), first)
}

/// A count that no run reaches.
const FOR_EVER: &str = "1000000000";

/// The programs, in the order in which the page shows them.
pub const ROLES: &[Role] = &[
    left(
        "hello",
        "hello",
        40,
        Life::Again(700),
        run("hello", &[]),
        Some(run("examples/first-hello", &[])),
    ),
    left(
        "queue-groups",
        "log-publisher",
        0,
        Life::Again(2_000),
        run("log-publisher", &["--count", "{count}"]),
        Some(run("examples/first-log-publisher", &[])),
    ),
    worker("ann", &["--name", "ann", "--work", "{work}"], Life::Lasting),
    worker("bob", &["--name", "bob", "--work", "{work}"], Life::Lasting),
    worker("cleo", &["--name", "cleo", "--work", "{work}"], Life::Lasting),
    worker("dan", &["--name", "dan", "--work", "{work}"], Life::Spare),
    worker("eve", &["--name", "eve", "--work", "{work}"], Life::Spare),
    worker("finn", &["--name", "finn", "--work", "{work}"], Life::Spare),
    left(
        "rpc",
        "math-client",
        10,
        Life::Again(500),
        run("math-client", &["--count", FOR_EVER, "--concurrency", "4"]),
        Some(run("examples/first-math-client", &[])),
    ),
    math_server("math-server-1", Life::Lasting),
    math_server("math-server-2", Life::Lasting),
    math_server("math-server-3", Life::Lasting),
    math_server("math-server-4", Life::Spare),
    left(
        "jetstream",
        "order-publisher",
        20,
        Life::Again(1_000),
        run(
            "order-publisher",
            &["--count", FOR_EVER, "--in-flight", "2", "--storage", "{storage}"],
        ),
        Some(run("examples/first-order-publisher", &[FOR_EVER])),
    ),
    consumer("order-consumer-1", Life::Lasting),
    consumer("order-consumer-2", Life::Lasting),
    consumer("order-consumer-3", Life::Spare),
    left_tool("kv", "config-admin", "config-admin", Some("examples/first-config-admin")),
    left_tool("kv", "delete-bucket", "examples/delete-bucket", None),
    shop("shop-1"),
    shop("shop-2"),
    shop("shop-3"),
    sensor("sensor-0", &["--id", "sensor-0", "--qos", "0", "--interval", "250ms"], None),
    sensor(
        "sensor-1",
        &["--id", "sensor-1", "--qos", "1", "--interval", "250ms"],
        Some(run("examples/first-sensor", &[])),
    ),
    left_tool("mqtt-bridge", "device-admin", "device-admin", None),
    right(
        "mqtt-bridge",
        "backend",
        Life::Lasting,
        run("backend", &[]),
        Some(run("examples/first-backend", &[])),
    ),
    right("mqtt-bridge", "recorder", Life::Lasting, run("recorder", &[]), None),
    left_tool("jobs", "job-submit", "job-submit", Some("examples/first-job-submit")),
    left_tool("jobs", "job-admin", "job-admin", Some("examples/first-job-admin")),
    job_worker("job-worker-1", Life::Again(1_000)),
    job_worker("job-worker-2", Life::Again(1_000)),
    job_worker("job-worker-3", Life::Spare),
];

/// The experiments whose programs are needed.
#[must_use]
pub fn experiments() -> Vec<String> {
    PLANS.iter().map(|plan| plan.id.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_name_stands_for_one_program_of_a_scene() {
        let ids: BTreeSet<_> = ROLES.iter().map(|role| role.id).collect();
        assert_eq!(ids.len(), ROLES.len());
        for role in ROLES {
            assert!(PLANS.iter().any(|plan| plan.id == role.scene), "{}", role.id);
        }
    }
}
