//! The files of the decentralized form: `.creds` files, and a configuration with an operator.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nkeys::KeyPair;
use testkit::{Certificates, Ports, write_secret};

use crate::access::{ACCOUNTS, Export, Protocol, User, users};
use crate::files::{Form, secret_file, write_server};
use crate::jwt::{self, Terms};

/// The name of the configuration file.
pub const FILE: &str = "creds.conf";

/// The keys of an operator, of its accounts and their users, and the folder with all files. Only
/// this user may read those with secrets.
pub struct Credentials {
    folder: PathBuf,
    certificates: Certificates,
    operator: KeyPair,
    system_account: KeyPair,
    keys: BTreeMap<&'static str, KeyPair>,
}

impl Credentials {
    /// Makes the certificates, the keys, and a file for each user. The seeds of operator and accounts
    /// are in the folder, too: with them users can be added.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let certificates = Certificates::in_folder(folder)?;
        let (operator, system_account) = (KeyPair::new_operator(), KeyPair::new_account());
        let accounts = ACCOUNTS.iter().map(|account| (account.name, KeyPair::new_account()));
        let users_keys = users().map(|(_, user)| (user.name, KeyPair::new_user()));
        let keys = accounts.chain(users_keys).collect();
        let folder = folder.to_owned();
        let made = Self { folder, certificates, operator, system_account, keys };
        write_secret(&made.folder.join("OPERATOR.nk"), &made.operator.seed()?)?;
        for account in ACCOUNTS {
            let seed = made.key(account.name)?.seed()?;
            write_secret(&made.folder.join(format!("{}.nk", account.name)), &seed)?;
        }
        for (_, user) in users() {
            made.vouch(user.name, Terms::default())?;
        }
        Ok(made)
    }

    fn key(&self, name: &str) -> Result<&KeyPair> {
        self.keys.get(name).with_context(|| format!("no key of {name}"))
    }

    /// Writes the file of a user.
    ///
    /// # Errors
    ///
    /// If there is no such user, or its file cannot be written.
    pub fn vouch(&self, name: &str, terms: Terms) -> Result<()> {
        let (account, user) = users().find(|(_, it)| it.name == name).context("no such user")?;
        let key = self.key(name)?;
        let jwt = jwt::user(self.key(account.name)?, user, key, terms)?;
        let text = match user.protocol {
            Protocol::Nats => credentials(&jwt, &key.seed()?),
            Protocol::Mqtt => jwt,
        };
        write_secret(&self.folder.join(secret_file(user, Form::Jwt)), &text)
    }

    /// The text of a credentials file of a user who may do everything in an account.
    ///
    /// # Errors
    ///
    /// If there is no such account.
    pub fn admin(&self, account: &str) -> Result<String> {
        let (protocol, all) = (Protocol::Nats, &[">"]);
        let admin = User { name: "admin", protocol, publish: all, subscribe: all };
        let key = KeyPair::new_user();
        let jwt = jwt::user(self.key(account)?, &admin, &key, Terms::default())?;
        Ok(credentials(&jwt, &key.seed()?))
    }

    /// Writes nats-server's configuration.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn configure(&self, ports: Ports) -> Result<()> {
        let text = format!("include \"server.conf\"\n\n{}", self.operator()?);
        write_secret(&self.folder.join(FILE), &text)?;
        write_server(&self.folder, &self.certificates, ports)
    }

    /// The part of a configuration that is about accounts: the operator's word for each.
    ///
    /// # Errors
    ///
    /// If a key is missing, or cannot sign.
    pub fn operator(&self) -> Result<String> {
        self.operator_with(None)
    }

    /// The same, for tests: an account also imports what was exported to another one.
    ///
    /// # Errors
    ///
    /// Those of [`operator`](Self::operator).
    pub fn operator_with(&self, taken: Option<Taken>) -> Result<String> {
        let (operator, system) = (&self.operator, &self.system_account);
        let mut lines = vec![format!(
            "  # SYS\n  {}: {}\n",
            system.public_key(),
            jwt::system_account(operator, system)?
        )];
        for account in ACCOUNTS {
            let mut more = Vec::new();
            if let Some(taken) = taken.filter(|taken| taken.by == account.name) {
                let from = self.key(taken.from)?;
                let granted_to = taken.with_token_of.map(|it| self.key(it)).transpose()?;
                let word = granted_to.map(|to| jwt::activation(from, to, taken.export));
                more.push(jwt::import(from, taken.export, word.transpose()?.as_deref()));
            }
            let jwt = jwt::account(operator, account, |name| self.key(name), &more)?;
            let key = self.key(account.name)?.public_key();
            lines.push(format!("  # {}\n  {key}: {jwt}\n", account.name));
        }
        Ok(format!(
            "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload {{\n{}}}\n",
            jwt::operator(operator, system)?,
            system.public_key(),
            lines.concat()
        ))
    }

    /// The certificates.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }
}

/// An import of an account to which nothing was exported.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// The account that imports.
    pub by: &'static str,
    /// The account that exports.
    pub from: &'static str,
    /// What it exports.
    pub export: &'static Export,
    /// The account for which the exporting account has signed the token, if there is one.
    pub with_token_of: Option<&'static str>,
}

fn credentials(jwt: &str, seed: &str) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}
