//! The accounts of the playground, and the lists of their users: a user for each program.
//!
//! The lists are the shortest with which the lessons can be played. The tests remove each entry
//! once, and then something fails.

/// What an account is, and who is in it.
#[derive(Debug)]
pub struct Account {
    /// Its name in nats-server's configuration.
    pub name: &'static str,
    /// How much of nats-server its programs may use.
    pub limits: Limits,
    /// How much its streams and buckets may hold; none if it may not have any.
    pub storage: Option<Storage>,
    /// Its users.
    pub users: &'static [User],
    /// What other accounts may use.
    pub exports: &'static [Export],
}

/// How much of nats-server the programs of an account may use. None of it is about time: a program
/// may publish as fast as it can.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time, of all its users together.
    pub connections: u32,
    /// Subscriptions of each connection.
    pub subscriptions: u32,
    /// The longest message, in bytes, headers included.
    pub payload: u32,
}

/// How much the streams and buckets of an account may hold together.
#[derive(Clone, Copy, Debug)]
pub struct Storage {
    /// Bytes in memory.
    pub memory: u64,
    /// Bytes in files.
    pub file: u64,
    /// Streams and buckets.
    pub streams: u32,
    /// Consumers of each stream.
    pub consumers: u32,
}

const KB: u32 = 1 << 10;
const MB: u64 = 1 << 20;
/// Programs that exchange short messages.
const SMALL: Limits = Limits { connections: 20, subscriptions: 200, payload: 4 * KB };
/// Messages as long as nats-server takes them by default.
const LARGE: Limits = Limits { payload: 1024 * KB, ..SMALL };
/// Many devices.
const DEVICES: Limits = Limits { connections: 100, ..SMALL };
/// Enough for the lessons.
const STORAGE: Storage = Storage { memory: 64 * MB, file: 256 * MB, streams: 10, consumers: 200 };
/// The account of the lesson's first steps, for all programs.
pub const ALL: Account = Account {
    name: "PLAYGROUND",
    limits: Limits { connections: 100, ..LARGE },
    storage: Some(Storage { memory: 256 * MB, file: 1024 * MB, streams: 40, ..STORAGE }),
    users: &[],
    exports: &[],
};

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
        limits: SMALL,
        storage: None,
        users: &[nats("hello", &["hello"], &["hello"])],
        exports: &[],
    },
    Account {
        name: "LOGS",
        limits: SMALL,
        storage: None,
        users: &[
            nats("log-publisher", &["logs.process"], &[]),
            nats("log-worker", &[], &["logs.process log_workers"]),
        ],
        exports: &[],
    },
    Account {
        name: "MATH",
        limits: SMALL,
        storage: None,
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
        limits: SMALL,
        storage: None,
        users: &[
            nats("math-client", &["math.sum"], &["_INBOX.math-client.>"]),
            nats("backend", &[], &["device.temp"]),
        ],
        exports: &[],
    },
    Account {
        name: "ORDERS",
        limits: SMALL,
        storage: Some(STORAGE),
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
        limits: LARGE,
        storage: Some(STORAGE),
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
        limits: DEVICES,
        storage: Some(STORAGE),
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
        limits: LARGE,
        storage: Some(STORAGE),
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
