//! nats-server's configuration, as a person would write it.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::access::{ACCOUNTS, Account, IMPORTED_REPLIES, Kind, REPLIES, User};

/// How far the lesson has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage {
    /// One account, and each user may do everything in it.
    Open,
    /// One account, and each user may do what is on its lists.
    Lists,
    /// An account for each experiment, with the same lists.
    Accounts,
}

impl Stage {
    /// The stage of the command `cargo xtask up --secure=STAGE`, by default the last one.
    #[must_use]
    pub fn of(command: &str) -> Self {
        match command.split("--secure=").nth(1) {
            Some(stage) if stage.starts_with("open") => Self::Open,
            Some(stage) if stage.starts_with("lists") => Self::Lists,
            _ => Self::Accounts,
        }
    }

    /// The name of its configuration file.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Open => "open.conf",
            Self::Lists => "lists.conf",
            Self::Accounts => "accounts.conf",
        }
    }
}

/// An entry of a user's list: the user, and the subject.
pub type Entry<'a> = (&'a str, &'a str);

/// Returns the `accounts` block. `login` says by what nats-server knows a user. For tests, one entry
/// can be left out.
#[must_use]
pub fn accounts(stage: Stage, login: impl Fn(&User) -> String, without: Option<Entry>) -> String {
    let user = |user: &User| {
        let login = login(user);
        if stage == Stage::Open {
            return format!("      {{ {login} }} # {}\n", user.name);
        }
        let [publish, subscribe] = [user.publish, user.subscribe].map(|subjects| {
            let subject = |subject| match subject {
                IMPORTED_REPLIES if stage == Stage::Lists => REPLIES,
                subject => subject,
            };
            let subjects = subjects.iter().filter(|it| without != Some((user.name, it)));
            list(&subjects.map(|it| subject(*it)).collect())
        });
        format!(
            "      {{ # {}\n        {login}\n        permissions {{\n          publish {publish}\n          \
             subscribe {subscribe}\n        }}\n      }}\n",
            user.name
        )
    };
    let mut text = String::from("accounts {\n");
    if stage == Stage::Accounts {
        for account in ACCOUNTS {
            text += &block(account, account.users.iter().map(&user));
        }
    } else {
        let all = Account { name: "PLAYGROUND", jetstream: true, users: &[], exports: &[] };
        text += &block(&all, crate::access::users().map(|(_, it)| user(it)));
    }
    text + "}\n"
}

/// A list that allows nothing has to say so: an empty one allows everything.
fn list(subjects: &BTreeSet<&str>) -> String {
    let subjects: Vec<_> = subjects.iter().map(|subject| format!("\"{subject}\"")).collect();
    match &subjects[..] {
        [] => "{ deny: \">\" }".into(),
        [one] => format!("{{ allow: [{one}] }}"),
        more => format!("{{ allow: [\n            {}\n          ] }}", more.join("\n            ")),
    }
}

fn block(account: &Account, users: impl Iterator<Item = String>) -> String {
    let mut text = format!("  {} {{\n", account.name);
    if account.jetstream {
        text += "    jetstream: enabled\n";
    }
    text += "    users: [\n";
    text.extend(users);
    text += "    ]\n";
    for (word, lines) in [("exports", exports(account)), ("imports", imports(account))] {
        if !lines.is_empty() {
            let _ = writeln!(text, "    {word}: [\n{lines}    ]");
        }
    }
    text + "  }\n"
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "service",
        Kind::Stream => "stream",
    }
}

fn exports(account: &Account) -> String {
    let line = |export: &crate::access::Export| {
        let (kind, subject, to) = (word(export.kind), export.subject, export.to);
        format!("      {{ {kind}: \"{subject}\", accounts: [{to}] }}\n")
    };
    account.exports.iter().map(line).collect()
}

fn imports(account: &Account) -> String {
    let mut lines = String::new();
    for from in ACCOUNTS {
        for export in from.exports.iter().filter(|export| export.to == account.name) {
            let (kind, subject, from) = (word(export.kind), export.subject, from.name);
            let _ = writeln!(
                lines,
                "      {{ {kind}: {{ account: {from}, subject: \"{subject}\" }} }}"
            );
        }
    }
    lines
}
