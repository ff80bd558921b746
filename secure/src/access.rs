//! The accounts of the playground, and the lists of their users: a user for each program.
//!
//! The lists are the shortest with which the lessons can be played. The tests remove each entry
//! once, and then something fails.

/// What an account is, and who is in it.
#[derive(Debug)]
pub struct Account {
    /// Its name in nats-server's configuration.
    pub name: &'static str,
    /// Whether it may have streams and buckets.
    pub jetstream: bool,
    /// Its users.
    pub users: &'static [User],
    /// What other accounts may use.
    pub exports: &'static [Export],
}

/// A program, and what it may do.
#[derive(Debug)]
pub struct User {
    /// The program's name; a device's id, if it is a device.
    pub name: &'static str,
    /// How it connects.
    pub protocol: Protocol,
    /// The subjects to which it may publish.
    pub publish: &'static [&'static str],
    /// The subjects to which it may subscribe; with a queue group, only in that group.
    pub subscribe: &'static [&'static str],
}

/// How a program connects, and by what nats-server knows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Protocol {
    /// By NATS, with an NKEY.
    Nats,
    /// By MQTT, with a password.
    Mqtt,
}

/// Something that one other account may use.
#[derive(Debug)]
pub struct Export {
    /// Messages go out, or requests come in.
    pub kind: Kind,
    /// On this subject, in both accounts.
    pub subject: &'static str,
    /// The account that may use it.
    pub to: &'static str,
}

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Requests of the other account are answered.
    Service,
    /// The other account may subscribe.
    Stream,
}

const fn nats(
    name: &'static str,
    publish: &'static [&'static str],
    subscribe: &'static [&'static str],
) -> User {
    User { name, protocol: Protocol::Nats, publish, subscribe }
}

/// One account for each experiment, and one for programs that use what two of the others offer.
pub const ACCOUNTS: &[Account] = &[
    Account {
        name: "HELLO",
        jetstream: false,
        users: &[nats("hello", &["hello"], &["hello"])],
        exports: &[],
    },
    Account {
        name: "LOGS",
        jetstream: false,
        users: &[
            nats("log-publisher", &["logs.process"], &[]),
            nats("log-worker", &[], &["logs.process log_workers"]),
        ],
        exports: &[],
    },
    Account {
        name: "MATH",
        jetstream: false,
        users: &[
            nats("math-server", &[IMPORTED_REPLIES], &["math.sum math_servers"]),
            nats(
                "math-service",
                // Programs of its own account ask what it is.
                &[IMPORTED_REPLIES, REPLIES],
                &["math.sum math_servers", "$SRV.*", "$SRV.*.math", "$SRV.*.math.*"],
            ),
        ],
        exports: &[Export { kind: Kind::Service, subject: "math.sum", to: "OFFICE" }],
    },
    Account {
        name: "OFFICE",
        jetstream: false,
        users: &[
            nats("math-client", &["math.sum"], &["_INBOX.math-client.>"]),
            nats("backend", &[], &["device.temp"]),
        ],
        exports: &[],
    },
    Account {
        name: "ORDERS",
        jetstream: true,
        users: &[
            nats(
                "order-publisher",
                &["orders.created", "$JS.API.STREAM.CREATE.playgrnd_stream"],
                &["_INBOX.order-publisher.>"],
            ),
            nats(
                "order-consumer",
                &[
                    "$JS.API.CONSUMER.INFO.playgrnd_stream.order_processor",
                    "$JS.API.CONSUMER.CREATE.playgrnd_stream.order_processor",
                    "$JS.API.CONSUMER.MSG.NEXT.playgrnd_stream.order_processor",
                    "$JS.ACK.playgrnd_stream.order_processor.>",
                    "$JS.ACK.*.*.playgrnd_stream.order_processor.>",
                ],
                &["_INBOX.order-consumer.>"],
            ),
        ],
        exports: &[],
    },
    Account {
        name: "CONFIG",
        jetstream: true,
        users: &[
            nats(
                "config-admin",
                &[
                    "$KV.configs_playgrnd.site_maintenance",
                    "$JS.API.INFO",
                    "$JS.API.STREAM.INFO.KV_configs_playgrnd",
                    "$JS.API.STREAM.CREATE.KV_configs_playgrnd",
                    "$JS.API.DIRECT.GET.KV_configs_playgrnd.$KV.configs_playgrnd.site_maintenance",
                    "$JS.API.CONSUMER.CREATE.KV_configs_playgrnd",
                    "$JS.API.STREAM.MSG.GET.KV_configs_playgrnd",
                ],
                &["_INBOX.config-admin.>"],
            ),
            nats(
                "config-app",
                &[
                    "$JS.API.STREAM.INFO.KV_configs_playgrnd",
                    "$JS.API.CONSUMER.CREATE.KV_configs_playgrnd",
                    "$JS.API.CONSUMER.DELETE.KV_configs_playgrnd.*",
                    "$JS.API.DIRECT.GET.KV_configs_playgrnd.$KV.configs_playgrnd.site_maintenance",
                    "$JS.FC.KV_configs_playgrnd.>",
                    "$JS.FC.*.*.KV_configs_playgrnd.>",
                ],
                &["_INBOX.config-app.>"],
            ),
        ],
        exports: &[],
    },
    Account {
        name: "PLANT",
        jetstream: true,
        users: &[
            User {
                name: "sensor-1",
                protocol: Protocol::Mqtt,
                publish: &["device.temp", "device.status.sensor-1"],
                subscribe: &["device.cmd.sensor-1"],
            },
            nats("device-admin", &["device.cmd.*"], &[]),
            nats(
                "recorder",
                &[
                    "$JS.API.STREAM.INFO.readings",
                    "$JS.API.STREAM.CREATE.readings",
                    "$JS.API.CONSUMER.INFO.readings.recorder",
                    "$JS.API.CONSUMER.CREATE.readings.recorder",
                    "$JS.API.CONSUMER.CREATE.readings",
                    "$JS.API.CONSUMER.MSG.NEXT.readings.*",
                    "$JS.ACK.readings.recorder.>",
                    "$JS.ACK.*.*.readings.recorder.>",
                ],
                &["_INBOX.recorder.>"],
            ),
        ],
        exports: &[Export { kind: Kind::Stream, subject: "device.temp", to: "OFFICE" }],
    },
    Account {
        name: "JOBS",
        jetstream: true,
        users: &[
            nats(
                "job-submit",
                &["jobs.new.*.*", "jobs.sched.*", "$JS.API.STREAM.CREATE.jobs"],
                &["_INBOX.job-submit.>"],
            ),
            nats(
                "job-worker",
                &[
                    "jobs.dead.*.*",
                    "jobs.sched.*",
                    "$JS.API.STREAM.CREATE.jobs",
                    "$JS.API.STREAM.CREATE.jobs_dead",
                    "$JS.API.CONSUMER.INFO.jobs.*",
                    "$JS.API.CONSUMER.CREATE.jobs.>",
                    "$JS.API.CONSUMER.MSG.NEXT.jobs.*",
                    "$JS.API.STREAM.MSG.GET.jobs",
                    "$JS.API.STREAM.MSG.GET.jobs_dead",
                    "$JS.API.STREAM.MSG.DELETE.jobs_dead",
                    "$JS.ACK.jobs.>",
                    "$JS.ACK.*.*.jobs.>",
                ],
                &["_INBOX.job-worker.>"],
            ),
            nats(
                "job-admin",
                &[
                    "jobs.new.*.*",
                    "$JS.API.STREAM.INFO.jobs",
                    "$JS.API.STREAM.INFO.jobs_dead",
                    "$JS.API.STREAM.CREATE.jobs_dead",
                    "$JS.API.CONSUMER.LIST.jobs",
                    "$JS.API.STREAM.MSG.GET.jobs",
                    "$JS.API.STREAM.MSG.GET.jobs_dead",
                    "$JS.API.STREAM.MSG.DELETE.jobs_dead",
                    "$JS.API.STREAM.PURGE.jobs",
                ],
                &["_INBOX.job-admin.>"],
            ),
        ],
        exports: &[],
    },
];

/// If a request comes from another account, nats-server gives it a reply subject of its own, and
/// passes the reply on.
pub const IMPORTED_REPLIES: &str = "_R_.>";
/// If it comes from the same account, the reply subject is the requester's inbox.
pub const REPLIES: &str = "_INBOX.>";

/// All users, with their accounts.
pub fn users() -> impl Iterator<Item = (&'static Account, &'static User)> {
    ACCOUNTS.iter().flat_map(|account| account.users.iter().map(move |user| (account, user)))
}

/// What the subjects begin with on which a user gets its replies.
#[must_use]
pub fn inbox_prefix(user: &str) -> String {
    format!("_INBOX.{user}")
}
