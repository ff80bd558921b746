//! The terminal sessions of a README, played for real.
//!
//! A `console` block under a heading "Run it" or "Break it" (or a heading below those) is one
//! terminal. Its lines that begin with `$ ` are commands, the lines after each what the command
//! prints on stdout, with `[..]` for a part of a line and `...` for any number of lines. The
//! blocks of one heading are a [`Scene`]: they share a fresh server, in which they are started in
//! the order given.
//!
//! | a line of the block | means |
//! | --- | --- |
//! | `$ cargo run -p rpc --bin math-client -- 17 25` | a program of the workspace, with its arguments |
//! | `$ cargo run -p rpc --bin math-client -- 1 2 2>&1` | the same, with stderr, and with an exit code that is not 0 |
//! | `$ cargo run -p rpc --example first-math-server` | an example of the workspace |
//! | `$ pkill -KILL -x math-server` | kills every program of this scene with exactly that name |
//! | `$ pkill -KILL -f 'math-server'` | kills the programs of this scene whose command line contains that |
//! | `^C` | the program runs on; when all other blocks are done, it is stopped, and has to exit with 0 |
//! | `Killed` | the program runs on until a `pkill -KILL` of another block hits it |
//!
//! A block starts when each block before it has come to its end, or, where it runs on, has
//! printed a line: programs that run on print one when they are ready.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Parser, Tag, TagEnd};

use crate::program::Program;
use crate::server::Server;

/// What a README teaches, as far as it can be played.
#[derive(Debug)]
pub struct Lesson {
    /// Its first heading.
    pub title: String,
    /// Its first paragraph: the question it answers.
    pub question: String,
    /// The first paragraph under "What happened".
    pub seen: String,
    /// Its scenes, in order.
    pub scenes: Vec<Scene>,
    path: PathBuf,
    text: String,
}

/// Terminals that share a server.
#[derive(Debug)]
pub struct Scene {
    /// The heading above them: "Run it", or one below it, say.
    pub heading: String,
    /// The main heading above that: "Run it" or "Break it".
    pub section: String,
    /// The terminals, in the order in which they are opened.
    pub terminals: Vec<Terminal>,
}

/// One `console` block.
#[derive(Debug)]
pub struct Terminal {
    /// What happens in it, in order.
    pub steps: Vec<Step>,
    /// Where its text lies in the README.
    range: std::ops::Range<usize>,
}

/// A command and what it prints.
#[derive(Debug)]
pub struct Step {
    /// As typed, without the prompt.
    pub command: String,
    /// What it prints by itself, wildcards included.
    shown: String,
    /// How it ends.
    end: End,
    /// What it prints after that.
    farewell: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    ByItself,
    Interrupted,
    Killed,
}

impl End {
    /// The line that stands for it in a block.
    fn marker(self) -> &'static str {
        match self {
            Self::ByItself => "",
            Self::Interrupted => "^C\n",
            Self::Killed => "Killed\n",
        }
    }
}

/// What a step printed by itself, and after it was told to end.
#[derive(Debug, Default)]
pub struct Printed {
    shown: String,
    farewell: String,
}

/// What a command does.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Runs a program of the workspace.
    Run {
        /// Its path inside cargo's folder of built programs: `math-server`, or
        /// `examples/first-math-server` for an example.
        program: String,
        /// Its arguments.
        args: Vec<String>,
        /// Whether what it reports belongs to what it prints.
        with_stderr: bool,
    },
    /// Kills programs.
    Kill(Victims),
}

/// Which programs of a scene `pkill` kills.
#[derive(Debug, PartialEq)]
pub enum Victims {
    /// Those with this name (`pkill -x`).
    Named(String),
    /// Those whose command line contains this: the program's name, a blank, its arguments
    /// (`pkill -f`).
    Matching(String),
}

impl Lesson {
    /// Reads a README.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, or a block says what nobody can play.
    pub fn read(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(path, text)
    }

    fn parse(path: PathBuf, text: String) -> Result<Self> {
        let (mut title, mut question, mut seen) = (String::new(), String::new(), String::new());
        let mut scenes: Vec<Scene> = Vec::new();
        // The headings above the present place, and the text of what is being read.
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
        ensure!(
            !scenes.is_empty(),
            "{} has no `console` block under \"Run it\"",
            path.display()
        );
        Ok(Self {
            title,
            question,
            seen,
            scenes,
            path,
            text,
        })
    }

    /// Plays every scene against a fresh server, and compares what is printed with what the
    /// README shows. The programs are those which cargo built beside the test that calls this.
    ///
    /// With `BLESS=1` in the environment the README is rewritten instead, where it differs.
    ///
    /// # Errors
    ///
    /// Where a program prints something else, does not end, or ends badly.
    pub fn check(&self) -> Result<()> {
        let bless = std::env::var_os("BLESS").is_some_and(|bless| bless == "1");
        let mut text = self.text.clone();
        let mut differences = String::new();
        // From the end, so that ranges before a change stay true.
        for scene in self.scenes.iter().rev() {
            let server = Server::start()?;
            let printed = scene.play(
                |program| server.command(beside_this_test(program)),
                |_, _| {},
            )?;
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
                "{} shows what is not so (`cargo xtask bless`, or BLESS=1, rewrites it){differences}",
                self.path.display()
            );
        }
        Ok(())
    }
}

impl Scene {
    /// Plays it, and returns what each step of each terminal printed. `command` makes the command
    /// that starts a program of the workspace. `on_line` gets every line of every terminal as it
    /// comes, what is typed included, with the number of the terminal from 0.
    ///
    /// # Errors
    ///
    /// Where a program does not print what is expected of it in time, or ends badly.
    pub fn play(
        &self,
        command: impl Fn(&str) -> Command,
        on_line: impl Fn(usize, &str) + Clone + Send + 'static,
    ) -> Result<Vec<Vec<Printed>>> {
        let mut stage = Stage::default();
        let mut printed: Vec<Vec<Printed>> = Vec::new();
        for (terminal, Terminal { steps, .. }) in self.terminals.iter().enumerate() {
            printed.push(Vec::new());
            for step in steps {
                on_line(terminal, &format!("$ {}", step.command));
                let shown = match Action::parse(&step.command)? {
                    Action::Kill(victims) => {
                        stage.kill(&victims)?;
                        String::new()
                    }
                    Action::Run {
                        program,
                        args,
                        with_stderr,
                    } => {
                        let on_line = on_line.clone();
                        let mut command = command(&program);
                        let mut process =
                            Program::spawn_watched(command.args(&args), move |line| {
                                on_line(terminal, line);
                            })?;
                        if step.end == End::ByItself {
                            finish(&mut process, &step.command, with_stderr)?
                        } else {
                            process.expect("")?;
                            stage.running.push(Running {
                                line: format!("{} {}", name_of(&program), args.join(" ")),
                                process,
                                place: (terminal, printed[terminal].len()),
                                killed: false,
                            });
                            String::new()
                        }
                    }
                };
                printed[terminal].push(Printed {
                    shown,
                    farewell: String::new(),
                });
            }
        }
        for running in stage.running {
            let (terminal, step) = running.place;
            printed[terminal][step] = running.end(&self.terminals[terminal].steps[step])?;
        }
        Ok(printed)
    }
}

/// Waits for an end by itself, and returns what was printed.
fn finish(process: &mut Program, command: &str, with_stderr: bool) -> Result<String> {
    let ended = process.wait()?;
    if with_stderr {
        return Ok(text(&ended.stdout) + &text(&ended.stderr));
    }
    let stderr = ended.stderr.join("\n");
    ensure!(
        ended.success(),
        "`{command}` ended with {}: {stderr}",
        ended.status
    );
    Ok(text(&ended.stdout))
}

/// The programs that run on.
#[derive(Default)]
struct Stage {
    running: Vec<Running>,
}

struct Running {
    /// Program and arguments.
    line: String,
    process: Program,
    /// Terminal and step.
    place: (usize, usize),
    killed: bool,
}

impl Stage {
    fn kill(&mut self, victims: &Victims) -> Result<()> {
        let mut hit = false;
        for running in &mut self.running {
            let is_victim = match victims {
                Victims::Named(name) => running.line.split(' ').next() == Some(name),
                Victims::Matching(part) => running.line.contains(part),
            };
            if is_victim && !running.killed {
                running.process.kill()?;
                running.killed = true;
                hit = true;
            }
        }
        ensure!(
            hit,
            "pkill found no running program of this scene: {victims:?}"
        );
        Ok(())
    }
}

impl Running {
    fn end(mut self, step: &Step) -> Result<Printed> {
        if step.end == End::Killed {
            ensure!(self.killed, "nobody killed `{}`", self.line);
            return Ok(Printed {
                shown: text(&self.process.wait()?.stdout),
                farewell: String::new(),
            });
        }
        // Not before it has shown what is to be seen. Where that does not come, the comparison
        // has the last word.
        self.process
            .wait_for(|lines| is_match(&step.shown, &text(lines)));
        let shown = self.process.stdout().len();
        let ended = self.process.stop()?;
        let stderr = ended.stderr.join("\n");
        ensure!(
            ended.success(),
            "`{}` ended with {}: {stderr}",
            self.line,
            ended.status
        );
        Ok(Printed {
            shown: text(&ended.stdout[..shown]),
            farewell: text(&ended.stdout[shown..]),
        })
    }
}

impl Terminal {
    fn parse(text: &str, range: std::ops::Range<usize>) -> Result<Self> {
        let mut steps: Vec<Step> = Vec::new();
        for line in text[range.clone()].lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => {
                    Action::parse(command)?;
                    steps.push(Step {
                        command: command.to_owned(),
                        shown: String::new(),
                        end: End::ByItself,
                        farewell: String::new(),
                    });
                }
                (None, None) => bail!("a console block begins with `$ COMMAND`, not with {line:?}"),
                (None, Some(step)) => match (line, step.end) {
                    ("^C", _) => step.end = End::Interrupted,
                    ("Killed", _) => step.end = End::Killed,
                    (line, End::ByItself) => step.shown.extend([line, "\n"]),
                    (line, _) => step.farewell.extend([line, "\n"]),
                },
            }
        }
        let last = steps.len().saturating_sub(1);
        ensure!(
            steps[..last].iter().all(|step| step.end == End::ByItself),
            "only the last program of a terminal can run on"
        );
        Ok(Self { steps, range })
    }

    fn matches(&self, printed: &[Printed]) -> bool {
        self.steps
            .iter()
            .zip(printed)
            .all(|(step, printed)| step.matches(printed))
    }

    /// The block as it reads with what was printed; what matches stays as it is.
    fn with(&self, printed: &[Printed]) -> String {
        let step = |(step, printed): (&Step, &Printed)| {
            let (shown, farewell) = if step.matches(printed) {
                (&step.shown, &step.farewell)
            } else {
                (&printed.shown, &printed.farewell)
            };
            format!("$ {}\n{shown}{}{farewell}", step.command, step.end.marker())
        };
        self.steps.iter().zip(printed).map(step).collect()
    }
}

impl Step {
    fn matches(&self, printed: &Printed) -> bool {
        // As one text: a line can come while the program is being told to end.
        let expected = format!("{}{}", self.shown, self.farewell);
        is_match(&expected, &format!("{}{}", printed.shown, printed.farewell))
    }
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Whether `printed` is what `expected` says: `[..]` stands for a part of a line, `...` for any
/// lines. This is the notation of the library `snapbox`, which compares.
#[must_use]
pub fn is_match(expected: &str, printed: &str) -> bool {
    use snapbox::{Assert, IntoData};
    Assert::new()
        .try_eq(
            None,
            printed.to_owned().into_data(),
            expected.to_owned().into_data(),
        )
        .is_ok()
}

impl Action {
    /// Understands a command.
    ///
    /// # Errors
    ///
    /// Where it is none of the two.
    pub fn parse(command: &str) -> Result<Self> {
        let words = shell_words::split(command)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match &words[..] {
            ["pkill", "-KILL", "-x", name] => {
                // Linux keeps no more of a process's name.
                ensure!(
                    name.len() <= 15,
                    "`{command}` kills nothing: pkill -x compares 15 characters of a name at most"
                );
                Ok(Self::Kill(Victims::Named((*name).to_owned())))
            }
            ["pkill", "-KILL", "-f", part] => Ok(Self::Kill(Victims::Matching((*part).to_owned()))),
            ["cargo", "run", rest @ ..] => {
                let (rest, with_stderr) = match rest {
                    [rest @ .., "2>&1"] => (rest, true),
                    rest => (rest, false),
                };
                let split = rest
                    .iter()
                    .position(|word| *word == "--")
                    .unwrap_or(rest.len());
                let (flags, args) = rest.split_at(split);
                let program = match flags.strip_prefix(&["-q"]).unwrap_or(flags) {
                    ["-p", _, "--bin", program] => (*program).to_owned(),
                    ["-p", _, "--example", program] => format!("examples/{program}"),
                    ["-p", package] => (*package).to_owned(),
                    _ => bail!(
                        "`{command}`: expected cargo run -p PACKAGE [--bin PROGRAM|--example PROGRAM] [-- ARGUMENTS]"
                    ),
                };
                let args = args.iter().skip(1).map(|arg| (*arg).to_owned()).collect();
                Ok(Self::Run {
                    program,
                    args,
                    with_stderr,
                })
            }
            _ => bail!("`{command}`: neither `cargo run` nor `pkill -KILL -x`"),
        }
    }
}

/// Returns the path of the example `name` of the package whose test calls this:
/// `target/debug/examples/name`, as a rule.
///
/// `cargo test` builds examples, `cargo test --test NAME` does not: it leaves those that an earlier
/// build has made.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    beside_this_test("examples").join(name)
}

/// The path of a built program, as seen from a test, which cargo puts into a folder beside it.
fn beside_this_test(program: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let folder = own
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new("."));
    folder.join(program)
}

/// The name of a program, without the folder.
fn name_of(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(program: &str, args: &[&str], with_stderr: bool) -> Action {
        Action::Run {
            program: program.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            with_stderr,
        }
    }

    #[test]
    fn commands_name_a_program_an_example_or_a_victim() -> Result<()> {
        for (command, action) in [
            ("cargo run -p hello", run("hello", &[], false)),
            (
                "cargo run -q -p rpc --bin math-client -- 1 2 2>&1",
                run("math-client", &["1", "2"], true),
            ),
            (
                "cargo run -p rpc --example first-math-client -- 1 2",
                run("examples/first-math-client", &["1", "2"], false),
            ),
            (
                "pkill -KILL -x math-server",
                Action::Kill(Victims::Named("math-server".into())),
            ),
        ] {
            assert_eq!(Action::parse(command)?, action);
        }
        Ok(())
    }

    #[test]
    fn a_name_that_pkill_cannot_find_is_refused() {
        assert!(Action::parse("pkill -KILL -x order-publisher").is_ok());
        assert!(Action::parse("pkill -KILL -x first-math-server").is_err());
    }

    #[test]
    fn pkill_hits_the_programs_of_exactly_that_name() -> Result<()> {
        let mut stage = Stage::default();
        for line in ["sleep 1000", "sleep 1000 again", "sleeper sleep"] {
            stage.running.push(Running {
                line: line.into(),
                process: Program::spawn(Command::new("sleep").arg("1000"))?,
                place: (0, 0),
                killed: false,
            });
        }
        stage.kill(&Victims::Named("sleep".into()))?;
        let killed: Vec<bool> = stage.running.iter().map(|running| running.killed).collect();
        assert_eq!(killed, [true, true, false]);
        // A program is killed once: there is none left.
        assert!(stage.kill(&Victims::Named("sleep".into())).is_err());
        Ok(())
    }
}
