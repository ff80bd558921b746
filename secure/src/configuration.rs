//! nats-server's configuration, as a person would write it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::str::FromStr;

use anyhow::{Result, bail};

use crate::access::{ACCOUNTS, ALL, Account, IMPORTED_REPLIES, Kind, REPLIES, User};

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
    /// What they are called on a command line.
    pub const NAMES: [&str; 3] = ["open", "lists", "accounts"];

    /// The stage of the command `cargo xtask up --secure=STAGE`: the last one, if it names none.
    ///
    /// # Errors
    ///
    /// If there is no such stage, or the command does not say `--secure`.
    pub fn of(command: &str) -> Result<Self> {
        let flag = command.split_whitespace().find_map(|word| word.strip_prefix("--secure"));
        match flag {
            Some("") => Ok(Self::Accounts),
            Some(stage) => stage.strip_prefix('=').unwrap_or(stage).parse(),
            None => bail!("`{command}` does not say --secure"),
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

impl FromStr for Stage {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "open" => Self::Open,
            "lists" => Self::Lists,
            "accounts" => Self::Accounts,
            _ => bail!("there is no stage {name:?}, expected one of {}", Self::NAMES.join(", ")),
        })
    }
}

/// An entry of a user's list: the user, and the subject.
pub type Entry<'a> = (&'a str, &'a str);

/// Returns the `accounts` block. `login` says by what nats-server knows a user. For tests, one entry
/// can be left out.
///
/// # Errors
///
/// Those of `login`.
pub fn accounts(
    stage: Stage,
    login: impl Fn(&User) -> Result<String>,
    without: Option<Entry>,
) -> Result<String> {
    let user = |user: &User| {
        let login = login(user)?;
        if stage == Stage::Open {
            return Ok(format!("      {{ {login} }} # {}\n", user.name));
        }
        let [publish, subscribe] = [user.publish, user.subscribe].map(|subjects| {
            let subject = |subject| match subject {
                IMPORTED_REPLIES if stage == Stage::Lists => REPLIES,
                subject => subject,
            };
            let subjects = subjects.iter().filter(|it| without != Some((user.name, it)));
            list(&subjects.map(|it| subject(*it)).collect())
        });
        Ok(format!(
            "      {{ # {}\n        {login}\n        permissions {{\n          publish {publish}\n          \
             subscribe {subscribe}\n        }}\n      }}\n",
            user.name
        ))
    };
    let mut text = String::from("accounts {\n");
    if stage == Stage::Accounts {
        for account in ACCOUNTS {
            let users: Result<String> = account.users.iter().map(&user).collect();
            text += &block(account, &users?);
        }
    } else {
        let users: Result<String> = crate::access::users().map(|(_, it)| user(it)).collect();
        text += &block(&ALL, &users?);
    }
    Ok(text + "}\n")
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

fn block(account: &Account, users: &str) -> String {
    let limits = account.limits;
    let mut text = format!(
        "  {} {{\n    limits {{ max_connections: {}, max_subscriptions: {}, max_payload: {} }}\n",
        account.name,
        limits.connections,
        limits.subscriptions,
        size(limits.payload.into())
    );
    if let Some(storage) = account.storage {
        let _ = writeln!(
            text,
            "    jetstream {{ max_mem: {}, max_file: {}, max_streams: {}, max_consumers: {} }}",
            size(storage.memory),
            size(storage.file),
            storage.streams,
            storage.consumers
        );
    }
    let _ = writeln!(text, "    users: [\n{users}    ]");
    for (word, lines) in [("exports", exports(account)), ("imports", imports(account))] {
        if !lines.is_empty() {
            let _ = writeln!(text, "    {word}: [\n{lines}    ]");
        }
    }
    text + "  }\n"
}

/// A number of bytes, as nats-server reads it: 4KB, 64MB.
fn size(bytes: u64) -> String {
    const MB: u64 = 1 << 20;
    if bytes.is_multiple_of(MB) {
        format!("{}MB", bytes / MB)
    } else {
        format!("{}KB", bytes >> 10)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_does_not_exist_is_refused() -> Result<()> {
        assert_eq!(Stage::of("cargo xtask up --secure --fresh")?, Stage::Accounts);
        assert_eq!(Stage::of("cargo xtask up --fresh --secure=lists")?, Stage::Lists);
        for wrong in ["--secure=xyz", "--secure=", "--secured", "--secure=listsx", "--fresh"] {
            assert!(Stage::of(&format!("cargo xtask up {wrong}")).is_err(), "{wrong}");
        }
        Ok(())
    }
}
