//! `cargo xtask new`: makes an experiment the start of a service.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anstream::println;
use anyhow::{Context, Result, ensure};
use testkit::Lesson;

use crate::workspace::{cargo, ensure_independent, root};

/// The crates that an experiment needs.
const COMPANIONS: [&str; 2] = ["common", "testkit"];

/// Writes a workspace of its own to `destination`.
pub fn run(experiment: &str, destination: &Path, name: Option<&str>) -> Result<()> {
    ensure_independent(experiment)?;
    let name = match name {
        Some(name) => name,
        None => destination
            .file_name()
            .and_then(|name| name.to_str())
            .context("the destination has no name of its own: give one with --name")?,
    };
    ensure!(
        is_crate_name(name),
        "{name:?} is no name for a crate: lower-case letters, digits, - and _, a letter first, and \
         none of {}; give another with --name",
        COMPANIONS.join(", ")
    );
    let shown = destination.display();
    ensure!(!destination.exists(), "{shown} exists: name a folder that does not");

    let renamed = Renamed { experiment, name };
    for folder in COMPANIONS {
        copy(&root().join(folder), &destination.join(folder), &|_, text| text)?;
    }
    copy(&root().join(experiment), &destination.join(name), &|path, text| {
        renamed.text(path, &text)
    })?;
    for file in ["Cargo.lock", "LICENSE", "rustfmt.toml", ".gitignore", ".editorconfig"] {
        copy_file(&root().join(file), &destination.join(file), &|_, text| text)?;
    }
    let workspace = format!(
        "[workspace]\nresolver = \"3\"\nmembers = [\"common\", \"testkit\", \"testkit/prove\", {name:?}]\n"
    );
    fs::write(destination.join("Cargo.toml"), workspace)?;
    fs::write(destination.join("README.md"), renamed.readme()?)?;

    // Removes from Cargo.lock what is not needed here, and changes no version.
    let mut tidy = cargo();
    tidy.args(["update", "--workspace", "--quiet"]).current_dir(destination).stdout(Stdio::null());
    ensure!(tidy.status()?.success(), "cargo cannot read the new workspace in {shown}");
    println!("{shown} is a workspace that begins as {experiment}; next:\n");
    println!("    cd {shown}\n    cargo test");
    Ok(())
}

fn is_crate_name(name: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(is_allowed)
        // Crates that are there already, and names of the language's own crates.
        && !COMPANIONS.contains(&name)
        && !["core", "std", "alloc", "test", "proc_macro", "self", "super", "crate"].contains(&name)
}

/// An experiment under its new name.
struct Renamed<'a> {
    experiment: &'a str,
    name: &'a str,
}

impl Renamed<'_> {
    /// The text of a file of the experiment under the new name.
    fn text(&self, path: &Path, text: &str) -> String {
        let Self { experiment, name } = self;
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => text.replace(
                &format!("name = \"{experiment}\"\nversion"),
                &format!("name = \"{name}\"\nversion"),
            ),
            Some("rs") => self.commands(text),
            Some("md") => {
                // The first line of an excerpt names the file.
                let (old, new) = (format!("\n// {experiment}/"), format!("\n// {name}/"));
                without_links_outside(&self.commands(text).replace(&old, &new))
            }
            _ => text.to_owned(),
        }
    }

    /// Replaces the package's name in commands. Programs and libraries keep their names.
    fn commands(&self, text: &str) -> String {
        let Self { experiment, name } = self;
        let mut result = String::new();
        let old = format!("cargo run -p {experiment}");
        for (n, part) in text.split(&old).enumerate() {
            if n > 0 {
                result.extend(["cargo run -p ", name]);
                if ![" --bin", " --example"].iter().any(|flag| part.starts_with(flag)) {
                    result.extend([" --bin ", experiment]);
                }
            }
            result += part;
        }
        result.replace(&format!("cargo test -p {experiment}"), &format!("cargo test -p {name}"))
    }

    fn readme(&self) -> Result<String> {
        let Self { experiment, name } = self;
        let lesson = Lesson::read(root().join(experiment).join("README.md"))?;
        Ok(format!(
            "# {name}\n\n\
             Begun as `{experiment}` of NATS Playground, whose question is: {}\n\n\
             ```sh\n\
             cargo test   # needs a nats-server on the PATH, or Python's pip, which fetches one\n\
             ```\n\n\
             - [{name}/](./{name}/README.md): the programs, with their lesson and their tests\n\
             - [common/](./common/src/lib.rs): connection flags, shutdown, errors, payload types, ways through an outage; keep what you use\n\
             - [testkit/](./testkit/src/lib.rs): a real nats-server for the tests\n\n\
             What to change first: the payload types in [common/src/payload.rs](./common/src/payload.rs), the \
             subjects at the top of each program, and the tests that name them.\n",
            lesson.question
        ))
    }
}

/// Replaces links to other experiments by their text: the new workspace has only one.
fn without_links_outside(markdown: &str) -> String {
    let mut result = String::new();
    let mut rest = markdown;
    while let Some((before, after)) = rest.split_once("](../") {
        let is_companion = COMPANIONS.iter().any(|folder| after.starts_with(&format!("{folder}/")));
        let link = before.rfind('[').zip(after.find(')'));
        match link {
            Some((open, close)) if !is_companion => {
                result += &before[..open];
                result += &before[open + 1..];
                rest = &after[close + 1..];
            }
            _ => {
                result += before;
                result += "](../";
                rest = after;
            }
        }
    }
    result + rest
}

fn copy(from: &Path, to: &Path, change: &dyn Fn(&Path, String) -> String) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        let to: PathBuf = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &to, change)?;
        } else {
            copy_file(&path, &to, change)?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path, change: &dyn Fn(&Path, String) -> String) -> Result<()> {
    let cannot = || format!("cannot write {}", to.display());
    let shown = || format!("cannot read {}", from.display());
    let bytes = fs::read(from).with_context(shown)?;
    // No source, but a database that a program has left there.
    if bytes.contains(&0) {
        return Ok(());
    }
    let text = String::from_utf8(bytes).with_context(shown)?;
    fs::create_dir_all(to.parent().unwrap_or(to)).with_context(cannot)?;
    fs::write(to, change(from, text)).with_context(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_would_lead_nowhere_become_words() {
        let markdown = "[one](../rpc/README.md), [two](../common/src/lib.rs), [three](tests/x.rs), [four](../kv/README.md)";
        let expected = "one, [two](../common/src/lib.rs), [three](tests/x.rs), four";
        assert_eq!(without_links_outside(markdown), expected);
    }

    #[test]
    fn commands_name_the_package_and_programs_keep_their_names() {
        let renamed = Renamed { experiment: "hello", name: "greeter" };
        for (command, expected) in [
            ("cargo run -p hello -- --server x", "cargo run -p greeter --bin hello -- --server x"),
            ("cargo run -p hello --bin hello", "cargo run -p greeter --bin hello"),
            (
                "cargo run -p hello --example first-hello",
                "cargo run -p greeter --example first-hello",
            ),
        ] {
            assert_eq!(renamed.commands(command), expected);
        }
    }

    #[test]
    fn an_excerpt_names_the_file_in_its_new_folder() {
        let renamed = Renamed { experiment: "hello", name: "greeter" };
        let readme = "```rust\n// hello/src/main.rs\nfn main() {}\n```\n";
        let expected = "```rust\n// greeter/src/main.rs\nfn main() {}\n```\n";
        assert_eq!(renamed.text(Path::new("README.md"), readme), expected);
    }

    #[test]
    fn names_that_cargo_would_refuse_are_refused() {
        for good in ["my-service", "rpc", "a1_b"] {
            assert!(is_crate_name(good), "{good}");
        }
        for bad in ["", "1st", "My", "a b", "common", "testkit", "test", "ä", "-x"] {
            assert!(!is_crate_name(bad), "{bad}");
        }
    }
}
