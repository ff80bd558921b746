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

/// A button of a scene.
#[derive(Debug)]
pub struct Action {
    /// Its name in a request.
    pub id: &'static str,
    /// What stands on it.
    pub label: &'static str,
    /// What it does, in a sentence.
    pub title: &'static str,
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

const fn action(id: &'static str, label: &'static str, title: &'static str) -> Action {
    Action { id, label, title }
}

const MORE: Action = action("more", "One more", "Starts one more of them");

/// The scenes, in the order of the lessons.
pub const PLANS: [Plan; 7] = [
    Plan {
        id: "hello",
        legend: &[("message", "a message on hello"), ("ack", "a stranger's message on hello")],
        actions: &[action(
            "strangers",
            "Strangers on or off",
            "This page publishes on hello, too, thousands of times a second, as strangers may on a \
             public server",
        )],
        hint: "Let strangers in, then choose the first version and wait some seconds: it prints the \
               first message that comes, also one that another program has sent.",
    },
    Plan {
        id: "queue-groups",
        legend: &[("message", "a log entry"), ("bad", "a message that is no log entry")],
        actions: &[
            action("more", "One more worker", "Starts one more log-worker"),
            action(
                "bad",
                "Publish a bad message",
                "This page publishes `not json` on logs.process",
            ),
            action(
                "full",
                "5,000/s or calm",
                "Full load: 1,250 entries four times a second, and workers without work. Calm: 300 \
                 entries every 2 s, and 10 ms of work on each",
            ),
        ],
        hint: "Kill a worker while its bar is long: what it had received is gone. Stop it: a \
               service finishes, a first version loses. Nothing is stored anywhere.",
    },
    Plan {
        id: "rpc",
        legend: &[("message", "a request"), ("reply", "a reply"), ("bad", "an error reply")],
        actions: &[
            action("more", "One more server", "Starts one more math-server"),
            action(
                "rolling",
                "Rolling restart",
                "Stops each running server with SIGTERM, and starts it again, one after another",
            ),
            action("bad", "Send a bad request", "This page sends `not json` to math.sum"),
        ],
        hint: "A rolling restart of services costs no request its reply. Try it with first \
               versions.",
    },
    Plan {
        id: "jetstream",
        legend: &[
            ("message", "an order"),
            ("again", "an order, delivered again"),
            ("ack", "an acknowledgement"),
            ("bad", "a message that is no order"),
        ],
        actions: &[
            action("more", "One more consumer", "Starts one more order-consumer"),
            action(
                "bad",
                "Publish a bad order",
                "This page publishes `not json` on orders.created",
            ),
            action(
                "storage",
                "New stream: file or memory",
                "Deletes the stream; order-publisher makes it again, in the other kind of storage",
            ),
        ],
        hint: "Stop all consumers, wait, start one: the orders are still there. Then kill \
               nats-server, with the stream in a file and in memory.",
    },
    Plan {
        id: "kv",
        legend: &[("message", "a value of the switch")],
        actions: &[
            action("on", "Maintenance on", "Runs `config-admin set true`"),
            action("off", "Maintenance off", "Runs `config-admin set false`"),
            action(
                "delete",
                "Delete the bucket",
                "Runs the example delete-bucket: the next switch makes a new bucket, which counts \
                 from 1",
            ),
        ],
        hint: "Switch six times, delete the bucket, and switch again, with one shop as the first \
               version: its watch waits for a number that the new bucket has not reached. It is deaf.",
    },
    Plan {
        id: "mqtt-bridge",
        legend: &[
            ("message", "a reading"),
            ("ack", "an acknowledgement of a reading"),
            ("bad", "a message that is no reading"),
        ],
        actions: &[
            action("bad", "Publish a bad reading", "This page publishes `not json` on device.temp"),
            action("fast", "Faster", "Runs `device-admin interval`: 50 ms for both sensors"),
            action("calm", "Slower", "Runs `device-admin interval`: 500 ms for both sensors"),
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
            MORE,
            action("email", "20 emails", "Runs `job-submit email --count 20`"),
            action("report", "A report", "Submits a report of 4 s"),
            action("invoice", "5 invoices of ann", "Submits five invoices, which keep their order"),
            action("flaky", "A flaky job", "Its service is away for 4 s: it is tried again"),
            action("poison", "Poison", "Submits a job that kills its worker"),
            action("bad", "A bad job", "Submits a job that can never succeed"),
            action("later", "An email in 10 s", "nats-server holds it back"),
            action("retry", "Retry all dead", "Runs `job-admin retry --all`"),
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
    right("jobs", id, life, run("job-worker", ARGS), None)
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
        run("math-client", &["--count", FOR_EVER, "--concurrency", "4", "--quiet"]),
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
    left("kv", "config-admin", 0, Life::Tool, run("config-admin", &[]), None),
    left("kv", "delete-bucket", 0, Life::Tool, run("examples/delete-bucket", &[]), None),
    shop("shop-1"),
    shop("shop-2"),
    shop("shop-3"),
    sensor("sensor-0", &["--id", "sensor-0", "--qos", "0", "--interval", "250ms"], None),
    sensor(
        "sensor-1",
        &["--id", "sensor-1", "--qos", "1", "--interval", "250ms"],
        Some(run("examples/first-sensor", &[])),
    ),
    left("mqtt-bridge", "device-admin", 0, Life::Tool, run("device-admin", &[]), None),
    right(
        "mqtt-bridge",
        "backend",
        Life::Lasting,
        run("backend", &[]),
        Some(run("examples/first-backend", &[])),
    ),
    right("mqtt-bridge", "recorder", Life::Lasting, run("recorder", &[]), None),
    left("jobs", "job-submit", 0, Life::Tool, run("job-submit", &[]), None),
    left("jobs", "job-admin", 0, Life::Tool, run("job-admin", &[]), None),
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
