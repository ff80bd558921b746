//! Links, code and tables of the documents, and the form of the lessons.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use serde_json::Value;

use crate::metadata::{dependencies, is_experiment, name, packages, root};

/// The heading that ends the lesson of a README.
const REFERENCE: &str = "Reference";
/// The heading of the table of guarantees.
const GUARANTEES: &str = "What is guaranteed, and what is not";
/// The heading of the table that compares the first version with the service.
const ADDITIONS: &str = "What the service adds";

/// A Markdown file of the repository.
struct Document {
    path: PathBuf,
    text: String,
}

impl Document {
    fn all() -> Result<Vec<Self>> {
        // Without those that git ignores: the starter tests make copies below target/.
        let mut list = Command::new("git");
        list.args(["ls-files", "--cached", "--others", "--exclude-standard", "*.md"]);
        let output = list.current_dir(root()).output().context("cannot run git")?;
        let list = String::from_utf8(output.stdout)?;
        let documents: Vec<Self> =
            list.lines().map(|path| Self::read(root().join(path))).collect::<Result<_>>()?;
        ensure!(!documents.is_empty(), "git knows no document");
        Ok(documents)
    }

    fn read(path: PathBuf) -> Result<Self> {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, text })
    }

    fn events(&self) -> Parser<'_> {
        Parser::new_ext(&self.text, Options::ENABLE_TABLES)
    }

    /// Text and target of each link.
    fn links(&self) -> Vec<(String, String)> {
        let mut links = Vec::new();
        let mut open: Option<(String, String)> = None;
        for event in self.events() {
            match event {
                Event::Start(Tag::Link { dest_url, .. }) => {
                    open = Some((String::new(), dest_url.to_string()));
                }
                Event::Text(text) | Event::Code(text) => {
                    if let Some((words, _)) = &mut open {
                        words.push_str(&text);
                    }
                }
                Event::End(TagEnd::Link) => links.extend(open.take()),
                _ => {}
            }
        }
        links
    }

    /// The text of each heading.
    fn headings(&self) -> Vec<String> {
        let mut headings = Vec::new();
        let mut heading: Option<String> = None;
        for event in self.events() {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::End(TagEnd::Heading(_)) => headings.extend(heading.take()),
                _ => {}
            }
        }
        headings
    }

    /// The anchors of its headings, as GitHub makes them: a repeated heading gets a number.
    fn anchors(&self) -> Vec<String> {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let headings = self.headings();
        let numbered = headings.iter().map(|heading| {
            let anchor = anchor(heading);
            let count = seen.entry(anchor.clone()).or_default();
            *count += 1;
            if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
        });
        numbered.collect()
    }

    /// Language and text of each code block.
    fn code(&self) -> Vec<(String, String)> {
        let mut blocks = Vec::new();
        let mut open: Option<(String, String)> = None;
        for event in self.events() {
            match event {
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    open = Some((language.to_string(), String::new()));
                }
                Event::Text(text) => {
                    if let Some((_, code)) = &mut open {
                        code.push_str(&text);
                    }
                }
                Event::End(TagEnd::CodeBlock) => blocks.extend(open.take()),
                _ => {}
            }
        }
        blocks
    }

    /// The rows of the tables between the heading `title` and the next one: of each row its text
    /// and the targets of its links. None if there is no such heading.
    fn rows_under(&self, title: &str) -> Vec<(String, Vec<String>)> {
        let mut rows = Vec::new();
        let (mut heading, mut is_heading) = (String::new(), false);
        let mut row: Option<(String, Vec<String>)> = None;
        for event in self.events() {
            match event {
                Event::Start(Tag::Heading { .. }) => (heading, is_heading) = (String::new(), true),
                Event::End(TagEnd::Heading(_)) => is_heading = false,
                Event::Start(Tag::TableRow) if heading == title => row = Some(Default::default()),
                Event::End(TagEnd::TableRow) => rows.extend(row.take()),
                Event::Start(Tag::Link { dest_url, .. }) => {
                    if let Some((_, links)) = &mut row {
                        links.push(dest_url.to_string());
                    }
                }
                Event::Text(text) | Event::Code(text) => match &mut row {
                    Some((words, _)) => words.extend([&text, " "]),
                    None if is_heading => heading.push_str(&text),
                    None => {}
                },
                _ => {}
            }
        }
        rows
    }

    /// The number of words before the heading "Reference", without code blocks, diagrams and
    /// tables.
    fn words_of_lesson(&self) -> usize {
        let mut count = 0;
        let (mut heading, mut is_heading, mut is_apart) = (String::new(), false, false);
        for event in self.events() {
            match event {
                Event::Start(Tag::CodeBlock(_) | Tag::Table(_)) => is_apart = true,
                Event::End(TagEnd::CodeBlock | TagEnd::Table) => is_apart = false,
                Event::Start(Tag::Heading { .. }) => (heading, is_heading) = (String::new(), true),
                Event::End(TagEnd::Heading(_)) if heading == REFERENCE => break,
                Event::End(TagEnd::Heading(_)) => is_heading = false,
                Event::Text(text) | Event::Code(text) if !is_apart => {
                    if is_heading {
                        heading.push_str(&text);
                    }
                    let words = text.split_whitespace();
                    count += words.filter(|word| word.contains(char::is_alphanumeric)).count();
                }
                _ => {}
            }
        }
        count
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// An experiment and its README.
struct Lesson {
    package: Value,
    readme: Document,
}

impl Lesson {
    fn all() -> Result<Vec<Self>> {
        let mut lessons = Vec::new();
        for package in packages()?.into_iter().filter(is_experiment) {
            let readme = Document::read(root().join(name(&package)).join("README.md"))?;
            let is_in_two_parts = readme.headings().iter().any(|heading| heading == REFERENCE);
            ensure!(is_in_two_parts, "{}: no heading {REFERENCE:?}", readme.path.display());
            lessons.push(Self { package, readme });
        }
        ensure!(!lessons.is_empty(), "no experiment was found");
        Ok(lessons)
    }

    fn name(&self) -> &str {
        name(&self.package)
    }

    /// The names of the targets of one kind: bin, example, lib.
    fn targets(&self, kind: &str) -> Vec<&str> {
        let targets = self.package["targets"].as_array().into_iter().flatten();
        targets.filter(|target| target["kind"][0] == kind).map(name).collect()
    }
}

#[test]
fn every_relative_link_and_anchor_leads_somewhere() -> Result<()> {
    for document in Document::all()? {
        let name = document.path.display();
        for (_, target) in document.links().iter().filter(|(_, target)| !target.contains("://")) {
            let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
            let folder = document.path.parent().context("no folder")?;
            let file = if path.is_empty() { document.path.clone() } else { folder.join(path) };
            ensure!(file.exists(), "{name}: {target} leads nowhere");
            if !fragment.is_empty() {
                let linked = Document::read(file)?;
                ensure!(has_fragment(&linked, fragment), "{name}: nothing is at {target}");
            }
        }
    }
    Ok(())
}

/// Whether a document has the heading that `fragment` names, or a source file the line.
fn has_fragment(linked: &Document, fragment: &str) -> bool {
    if linked.path.extension().is_some_and(|extension| extension == "md") {
        return linked.anchors().iter().any(|anchor| anchor == fragment);
    }
    let lines = fragment.split('-').map(|line| line.strip_prefix('L')?.parse::<usize>().ok());
    lines.into_iter().all(|line| line.is_some_and(|line| line <= linked.text.lines().count()))
}

#[test]
fn every_test_that_a_document_names_exists() -> Result<()> {
    let mut named = 0;
    for document in Document::all()? {
        for (words, target) in document.links() {
            let is_test = target.contains("tests/")
                && words.contains('_')
                && !words.contains(['.', ' ', '/']);
            if !is_test {
                continue;
            }
            let file = document.path.parent().context("no folder")?.join(&target);
            let source =
                fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
            let is_there = source.contains(&format!("fn {words}()"));
            ensure!(is_there, "{}: no test {words} in {target}", document.path.display());
            named += 1;
        }
    }
    ensure!(named > 0, "no document names a test: this one looks for the wrong thing");
    Ok(())
}

#[test]
fn every_guarantee_and_every_addition_links_its_proof() -> Result<()> {
    for Lesson { readme, .. } in Lesson::all()? {
        let name = readme.path.display();
        for title in [GUARANTEES, ADDITIONS] {
            let rows = readme.rows_under(title);
            ensure!(!rows.is_empty(), "{name}: no table under {title:?}");
            for (row, links) in rows {
                let is_proved = links.iter().any(|link| link.contains("tests/"));
                ensure!(is_proved, "{name}: no test is linked in: {row}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_lesson_keeps_its_word_budget() -> Result<()> {
    let mut over = Vec::new();
    for lesson in Lesson::all()? {
        let budget = if lesson.name() == "mqtt-bridge" { 1_200 } else { 900 };
        let words = lesson.readme.words_of_lesson();
        if words > budget {
            over.push(format!("{}: {words} words, budget {budget}", lesson.name()));
        }
    }
    ensure!(over.is_empty(), "{over:?}");
    Ok(())
}

/// `pkill -f` also kills an editor that has the word in its command line.
#[test]
fn no_document_kills_by_a_part_of_a_command_line() -> Result<()> {
    for document in Document::all()? {
        for line in document.text.lines().filter(|line| line.contains("pkill")) {
            let mut words = line.split([' ', '`']);
            ensure!(!words.any(|word| word == "-f"), "{}: {line}", document.path.display());
        }
    }
    Ok(())
}

#[test]
fn rust_in_a_readme_is_what_the_source_says() -> Result<()> {
    for document in Document::all()? {
        for (_, code) in document.code().iter().filter(|(language, _)| language.starts_with("rust"))
        {
            let (first, excerpt) = code.split_once('\n').context("an empty block")?;
            let name = document.path.display();
            let path = first
                .strip_prefix("// ")
                .with_context(|| format!("{name}: {first:?} names no source"))?;
            let source =
                fs::read_to_string(root().join(path)).with_context(|| format!("{name}: {path}"))?;
            ensure!(
                plain(&source).contains(&plain(excerpt)),
                "{name}: {path} does not say:\n{excerpt}"
            );
        }
    }
    Ok(())
}

/// The code without indentation.
fn plain(code: &str) -> String {
    code.lines().map(|line| format!("{}\n", line.trim())).collect()
}

#[test]
fn every_program_has_a_first_version() -> Result<()> {
    // Each is a second way to do what a program with a first version does.
    const WITHOUT: [&str; 3] = ["recorder", "device-admin", "math-service"];
    for lesson in Lesson::all()? {
        let examples = lesson.targets("example");
        for program in lesson.targets("bin") {
            let first = format!("first-{program}");
            ensure!(
                WITHOUT.contains(&program) || examples.contains(&first.as_str()),
                "{}: no example {first}",
                lesson.name()
            );
        }
    }
    Ok(())
}

#[test]
fn a_first_version_is_short_plain_and_part_of_its_lesson() -> Result<()> {
    const ALLOWED: [&str; 5] = ["async-nats", "rumqttc", "tokio", "futures", "serde_json"];
    const LINES: std::ops::RangeInclusive<usize> = 12..=35;
    let mut wrong = Vec::new();
    for lesson in Lesson::all()? {
        let folder = root().join(lesson.name());
        let refused: Vec<String> = dependencies(&lesson.package)
            .map(name)
            .filter(|used| !ALLOWED.contains(used))
            .map(|used| used.replace('-', "_"))
            .collect();
        let own = lesson.targets("lib").join("");
        for first in lesson.targets("example") {
            if !first.starts_with("first-") {
                continue;
            }
            let code = code(&folder.join("examples").join(first).with_extension("rs"))?;
            if !LINES.contains(&code.len()) {
                wrong.push(format!("{first}: {} lines of code", code.len()));
            }
            for name in &refused {
                if code.iter().any(|line| names_crate(line, name)) {
                    wrong.push(format!("{first} uses {name}"));
                }
            }
            if code.iter().any(|line| line.starts_with(&format!("use {own}::"))) {
                wrong.push(format!("{first} uses the library of its package"));
            }
            if !lesson.readme.text.contains(&format!("--example {first}")) {
                wrong.push(format!("{first} is not run in its README"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// The lines of a source file that are neither blank nor comments.
fn code(path: &Path) -> Result<Vec<String>> {
    let source = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = source.lines().map(str::trim);
    let is_code = |line: &&str| !line.is_empty() && !line.starts_with("//");
    Ok(lines.filter(is_code).map(str::to_owned).collect())
}

/// Whether a line says `name::`, and `name` is not the end of a longer word or path.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}
