//! The commands that a README's terminal sessions may contain.

use anyhow::{Context, Result, bail, ensure};

/// What a command does.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Runs a program of the workspace.
    Run(Run),
    /// Kills the programs of the scene that have this name, or its server (`pkill -KILL -x`).
    Kill(String),
    /// Edits a file in the folder of the scene's server (`sed -i.bak`).
    Edit {
        /// What `sed` does.
        script: String,
        /// The file.
        path: String,
    },
    /// Lets the scene's server read its configuration again (`pkill -HUP -x nats-server`).
    Reload,
    /// Starts the scene's server again if it is not running (`cargo xtask up`).
    Up {
        /// Whether it starts with an empty store (`--fresh`).
        fresh: bool,
    },
    /// Presses keys in the terminal of the scene's servers (`k1`).
    Press(String),
    /// Sets environment variables for the commands below it in its terminal (`export`).
    Export(Vec<(String, String)>),
    /// Sends these bytes to the scene's server (`printf '…' | nc …`).
    Send(Vec<u8>),
}

/// How to run a program of the workspace.
#[derive(Debug, Default, PartialEq)]
pub struct Run {
    /// Its path inside cargo's folder of built programs: `math-server`, or
    /// `examples/first-math-server` for an example.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Environment variables that the command sets.
    pub env: Vec<(String, String)>,
    /// Whether its stderr is shown too (`2>&1`).
    pub with_stderr: bool,
}

impl Action {
    /// Understands a command.
    ///
    /// # Errors
    ///
    /// If it is none of those that the [table](crate::Lesson#commands) lists.
    pub fn parse(command: &str) -> Result<Self> {
        let words = shell_words::split(command)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let variables = words.iter().take_while(|word| is_assignment(word));
        let env: Vec<_> = variables.filter_map(assignment).collect();
        match &words[env.len()..] {
            ["pkill", "-HUP", "-x", "nats-server"] => Ok(Self::Reload),
            ["sed", "-i.bak", script, path] if path.starts_with("target/") => {
                Ok(Self::Edit { script: (*script).to_owned(), path: (*path).to_owned() })
            }
            ["pkill", "-KILL", "-x", name] => {
                // Linux keeps no more of a process's name.
                ensure!(
                    name.len() <= 15,
                    "`{command}` kills nothing: pkill -x compares 15 characters of a name at most"
                );
                Ok(Self::Kill((*name).to_owned()))
            }
            [keys] if is_key(keys) => Ok(Self::Press((*keys).to_owned())),
            // Which servers those are is up to the one who plays the scene.
            ["cargo", "xtask", "up", flags @ ..]
                if flags.iter().all(|flag| {
                    ["--fresh", "--cluster", "--edge"].contains(flag)
                        || flag.starts_with("--secure")
                }) =>
            {
                Ok(Self::Up { fresh: flags.contains(&"--fresh") })
            }
            ["export", words @ ..] if words.iter().all(|word| is_assignment(word)) => {
                Ok(Self::Export(words.iter().filter_map(assignment).collect()))
            }
            ["printf", text, "|", "nc", "-w", "1", "localhost", "4222", ">", "/dev/null"] => {
                Ok(Self::Send(unescaped(text)?))
            }
            ["cargo", "run", rest @ ..] => {
                Run::parse(rest, env).map(Self::Run).with_context(|| format!("`{command}`"))
            }
            _ => bail!(
                "`{command}`: expected cargo run, cargo xtask up, export, pkill -KILL -x NAME, \
                 pkill -HUP -x nats-server, sed -i.bak SCRIPT target/…, or \
                 printf '…' | nc -w 1 localhost 4222 > /dev/null"
            ),
        }
    }
}

impl Run {
    fn parse(words: &[&str], env: Vec<(String, String)>) -> Result<Self> {
        let (words, with_stderr) = match words {
            [words @ .., "2>&1"] => (words, true),
            words => (words, false),
        };
        let split = words.iter().position(|word| *word == "--");
        let (flags, args) = words.split_at(split.unwrap_or(words.len()));
        let program = match flags.strip_prefix(&["-q"]).unwrap_or(flags) {
            ["-p", _, "--bin", program] => (*program).to_owned(),
            ["-p", _, "--example", program] => format!("examples/{program}"),
            ["-p", package] => (*package).to_owned(),
            _ => bail!(
                "expected cargo run -p PACKAGE [--bin PROGRAM | --example PROGRAM] [-- ARGUMENTS]"
            ),
        };
        Ok(Self {
            program,
            args: args.iter().skip(1).map(|arg| (*arg).to_owned()).collect(),
            env,
            with_stderr,
        })
    }

    /// The program's name, without the folder.
    #[must_use]
    pub fn name(&self) -> &str {
        self.program.rsplit('/').next().unwrap_or(&self.program)
    }

    /// Whether it is an example, which may leave signals to the system.
    #[must_use]
    pub fn is_example(&self) -> bool {
        self.program.starts_with("examples/")
    }
}

/// Whether a line of a block stands for keys: a letter, perhaps with a number.
pub(crate) fn is_key(line: &str) -> bool {
    let mut letters = line.chars();
    letters.next().is_some_and(|letter| letter.is_ascii_lowercase())
        && letters.next().is_none_or(|digit| digit.is_ascii_digit())
        && letters.next().is_none()
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
    })
}

fn assignment(word: &&str) -> Option<(String, String)> {
    word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// What `printf` makes of `\r` and `\n`.
fn unescaped(text: &str) -> Result<Vec<u8>> {
    let plain = text.replace(r"\r", "\r").replace(r"\n", "\n");
    ensure!(!plain.contains(['\\', '%']), r"only \r and \n are understood in {text:?}");
    Ok(plain.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(program: &str, args: &[&str]) -> Run {
        Run {
            program: program.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            ..Run::default()
        }
    }

    #[test]
    fn every_kind_of_command_is_understood() -> Result<()> {
        for (command, action) in [
            ("cargo run -p hello", Action::Run(run("hello", &[]))),
            (
                "cargo run -q -p rpc --bin math-client -- 1 2 2>&1",
                Action::Run(Run { with_stderr: true, ..run("math-client", &["1", "2"]) }),
            ),
            (
                "cargo run -p rpc --example first-math-client -- 1 2",
                Action::Run(run("examples/first-math-client", &["1", "2"])),
            ),
            (
                "NATS_URL=nats://localhost:4999 cargo run -p hello",
                Action::Run(Run {
                    env: vec![("NATS_URL".into(), "nats://localhost:4999".into())],
                    ..run("hello", &[])
                }),
            ),
            ("pkill -KILL -x math-server", Action::Kill("math-server".into())),
            ("pkill -HUP -x nats-server", Action::Reload),
            (
                "sed -i.bak '/a b/d' target/x.conf",
                Action::Edit { script: "/a b/d".into(), path: "target/x.conf".into() },
            ),
            ("cargo xtask up", Action::Up { fresh: false }),
            ("cargo xtask up --secure=lists --fresh", Action::Up { fresh: true }),
            ("cargo xtask up --cluster", Action::Up { fresh: false }),
            ("k1", Action::Press("k1".into())),
            ("h", Action::Press("h".into())),
            (
                "export NATS_URL=tls://localhost:4222 A=b",
                Action::Export(vec![
                    ("NATS_URL".into(), "tls://localhost:4222".into()),
                    ("A".into(), "b".into()),
                ]),
            ),
            (
                r"printf 'PUB logs.process 4\r\noops\r\n' | nc -w 1 localhost 4222 > /dev/null",
                Action::Send(b"PUB logs.process 4\r\noops\r\n".into()),
            ),
        ] {
            assert_eq!(Action::parse(command)?, action);
        }
        for wrong in [
            "cargo run",
            "cargo run --bin x",
            "export A",
            "cargo xtask up --creds",
            "pkill -HUP -x math-server",
            "sed -i.bak d /etc/passwd",
            "rm -rf /",
            "",
            "A=b",
            r"printf '\x' | nc -w 1 localhost 4222 > /dev/null",
        ] {
            assert!(Action::parse(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }

    #[test]
    fn a_name_that_pkill_cannot_find_is_refused() {
        assert!(Action::parse("pkill -KILL -x order-publisher").is_ok());
        assert!(Action::parse("pkill -KILL -x first-math-server").is_err());
    }
}
