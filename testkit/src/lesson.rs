//! The terminal sessions of a README, as far as they can be played.

use std::fmt::Write;
use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context, Result, bail, ensure};
use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Parser, Tag, TagEnd};

use crate::scene::{Host, Printed, Scene, Terminal};
use crate::server::Server;
use crate::topology::Topology;

/// A README and its terminal sessions.
///
/// A `console` block under a heading "Run it" or "Break it" (or a heading below those) is one
/// terminal. Its lines that begin with `$ ` are commands. The lines after a command are what it
/// prints on stdout: `[..]` stands for a part of a line and `...` for any number of lines. The
/// blocks of one heading are a [`Scene`]: they share a fresh server, and are played in the order
/// in which they stand there.
///
/// # Commands
///
/// | command | what it does |
/// | --- | --- |
/// | `cargo run -p rpc --bin math-client -- 17 25` | runs a program of the workspace with its arguments |
/// | `cargo run -p rpc --example first-math-server` | runs an example of the workspace |
/// | `cargo run -p rpc --bin math-client 2>&1` | shows stderr too; its exit code may be another than 0 |
/// | `NAME=value cargo run …` | sets an environment variable |
/// | `pkill -KILL -x math-server` | kills every program of this scene with exactly that name |
/// | `pkill -KILL -x nats-server` | kills the server of this scene |
/// | `cargo xtask up` | starts that server again, with its store, if it is not running; the lines below are not compared |
/// | `cargo xtask up --fresh` | the same with an empty store |
/// | `cargo xtask up --secure`, `--cluster`, `--edge` | the same; the server is what [`check_on`](Lesson::check_on) was given |
/// | `pkill -HUP -x nats-server` | lets the server of this scene read its configuration again |
/// | `sed -i.bak SCRIPT target/…` | edits a file in the server's folder |
/// | `export NAME=value` | sets an environment variable for the commands below it, with this server's ports; `"$(cat FILE)"` is the text of a file in its folder |
/// | `k1` | presses these keys in the terminal of `cargo xtask up --cluster` or `--edge` |
/// | `printf 'PUB hello 2\r\nhi\r\n' \| nc -w 1 localhost 4222 > /dev/null` | sends these bytes to the server |
///
/// # How a program ends
///
/// | line of the block | what it means |
/// | --- | --- |
/// | none | The program ends by itself. The blocks below are played after that. |
/// | `$` alone, at the end | The program ends by itself, while the blocks below are played. |
/// | `^C` | The program runs on. It is interrupted at the end of the scene, after all programs that end by themselves. |
/// | `^Z` and `$ kill %1` | The program is suspended as soon as it has printed the lines above. When the last block has been played, it is told to end (SIGTERM) and resumed. |
/// | `Killed` | The program runs on until a `pkill -KILL` of another block. |
/// | `Aborted` | The program crashes by itself (SIGABRT). The blocks below are played after that. |
///
/// A program that runs on has printed a line before the next block is played: programs that run
/// on print one when they are ready. Every program has to end with exit code 0, unless the command
/// ends with `2>&1`. An example need not handle signals, so a signal may also end it.
#[derive(Debug)]
pub struct Lesson {
    /// Its first heading.
    pub title: String,
    /// Its first paragraph: the question that it answers.
    pub question: String,
    /// The first paragraph under "What happened".
    pub seen: String,
    /// Its scenes, in order.
    pub scenes: Vec<Scene>,
    path: PathBuf,
    text: String,
}

impl Lesson {
    /// Reads a README.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or a block has a command that cannot be played.
    pub fn read(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(path, text)
    }

    fn parse(path: PathBuf, text: String) -> Result<Self> {
        let (mut title, mut question, mut seen) = (String::new(), String::new(), String::new());
        let mut scenes: Vec<Scene> = Vec::new();
        // The headings above the present place, and the text of the heading or paragraph there.
        let mut headings = [String::new(), String::new()];
        let mut words = String::new();
        let mut block = None;
        for (event, range) in Parser::new(&text).into_offset_iter() {
            match event {
                Event::Start(Tag::Heading { .. } | Tag::Paragraph) => words.clear(),
                Event::Text(text) | Event::Code(text) if block.is_none() => words.push_str(&text),
                Event::SoftBreak => words.push(' '),
                Event::Text(_) => {
                    block = block.map(|found: Option<std::ops::Range<usize>>| {
                        Some(found.map_or(range.start, |found| found.start)..range.end)
                    });
                }
                Event::End(TagEnd::Heading(HeadingLevel::H1)) => title.clone_from(&words),
                Event::End(TagEnd::Heading(HeadingLevel::H2)) => {
                    headings = [words.clone(), String::new()];
                }
                Event::End(TagEnd::Heading(_)) => headings[1].clone_from(&words),
                Event::End(TagEnd::Paragraph) if question.is_empty() => question.clone_from(&words),
                Event::End(TagEnd::Paragraph)
                    if seen.is_empty() && headings[0] == "What happened" =>
                {
                    seen.clone_from(&words);
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language)))
                    if &*language == "console" =>
                {
                    block = Some(None);
                }
                Event::End(TagEnd::CodeBlock) => {
                    let Some(Some(range)) = block.take() else {
                        continue;
                    };
                    if !matches!(&*headings[0], "Run it" | "Break it") {
                        continue;
                    }
                    let terminal = Terminal::parse(&text, range)
                        .with_context(|| format!("{}, under {headings:?}", path.display()))?;
                    let heading = headings.iter().rfind(|heading| !heading.is_empty());
                    let heading = heading.cloned().unwrap_or_default();
                    match scenes.last_mut() {
                        Some(scene) if scene.heading == heading => scene.terminals.push(terminal),
                        _ => scenes.push(Scene {
                            heading,
                            section: headings[0].clone(),
                            terminals: vec![terminal],
                        }),
                    }
                }
                _ => {}
            }
        }
        ensure!(!scenes.is_empty(), "{} has no `console` block under \"Run it\"", path.display());
        Ok(Self { title, question, seen, scenes, path, text })
    }

    /// Plays every scene against a fresh server, all at once, and compares what is printed with what the
    /// README shows. The programs are those that cargo built beside the test that calls this.
    ///
    /// With `BLESS=1` in the environment, the blocks that differ are rewritten instead.
    ///
    /// # Errors
    ///
    /// If a program prints something else, does not end, or ends badly.
    pub fn check(&self) -> Result<()> {
        self.check_on(|_| Server::start())
    }

    /// As [`check`](Self::check), against the server that `start` returns for each scene.
    ///
    /// # Errors
    ///
    /// Those of [`check`](Self::check), and those of `start`.
    pub fn check_on(&self, start: impl Fn(&Scene) -> Result<Server> + Sync) -> Result<()> {
        self.compare(|scene| {
            let mut server = start(scene)?;
            scene.play(Host::Own(&mut server), program, |_, _| {})
        })
    }

    /// As [`check`](Self::check), against the servers that `start` returns for each scene.
    ///
    /// # Errors
    ///
    /// Those of [`check`](Self::check), and those of `start`.
    pub fn check_on_several<T: Topology>(
        &self,
        start: impl Fn(&Scene) -> Result<T> + Sync,
    ) -> Result<()> {
        self.compare(|scene| {
            let mut servers = start(scene)?;
            scene.play(Host::Several(&mut servers), program, |_, _| {})
        })
    }

    fn compare(&self, play: impl Fn(&Scene) -> Result<Vec<Vec<Printed>>> + Sync) -> Result<()> {
        let bless = std::env::var_os("BLESS").is_some_and(|bless| bless == "1");
        let mut text = self.text.clone();
        let mut differences = String::new();
        let played: Vec<_> = thread::scope(|scope| {
            let playing: Vec<_> =
                self.scenes.iter().map(|scene| scope.spawn(|| play(scene))).collect();
            playing.into_iter().map(ScopedJoinHandle::join).collect()
        });
        // From the end: a change leaves the ranges before it as they are.
        for (scene, played) in self.scenes.iter().zip(played).rev() {
            let printed = played
                .unwrap_or_else(|panic| resume_unwind(panic))
                .with_context(|| format!("{}, under {:?}", self.path.display(), scene.heading))?;
            for (terminal, printed) in scene.terminals.iter().zip(printed).rev() {
                if terminal.matches(&printed) {
                    continue;
                }
                let range = terminal.range.clone();
                let actual = terminal.with(&printed);
                write!(
                    differences,
                    "\n--- shown under {:?}\n{}\n+++ printed\n{actual}",
                    scene.heading,
                    &self.text[range.clone()]
                )?;
                text.replace_range(range, &actual);
            }
        }
        if bless && !differences.is_empty() {
            fs::write(&self.path, text)?;
        } else if !differences.is_empty() {
            bail!(
                "{} shows something else than what is printed (`cargo xtask bless`, or BLESS=1, rewrites it){differences}",
                self.path.display()
            );
        }
        Ok(())
    }
}

/// Returns the path of the example `name` of the package whose test calls this:
/// `target/debug/examples/name`, as a rule.
///
/// `cargo test` builds examples, `cargo test --test NAME` does not: it leaves those that an earlier
/// build has made.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    program("examples").join(name)
}

/// Returns the path of a program of the workspace, as seen from a test, which cargo puts into a folder
/// beside it: `target/debug/name`, as a rule.
#[must_use]
pub fn program(program: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let folder = own.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    folder.join(program)
}
