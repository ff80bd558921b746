//! What the documents name is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A Markdown file of the repository.
struct Document {
    path: PathBuf,
    text: String,
}

impl Document {
    fn all() -> Result<Vec<Self>> {
        // What is ignored, built or lifted elsewhere is none of them.
        let mut list = Command::new("git");
        list.args(["ls-files", "--cached", "--others", "--exclude-standard", "*.md"]);
        let output = list.current_dir(root()).output().context("cannot run git")?;
        let list = String::from_utf8(output.stdout)?;
        let documents: Vec<Self> = list.lines().map(Self::read).collect::<Result<_>>()?;
        ensure!(!documents.is_empty(), "git knows no document");
        Ok(documents)
    }

    fn read(path: &str) -> Result<Self> {
        let path = root().join(path);
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

    /// The anchors of its headings, as GitHub makes them.
    fn anchors(&self) -> Vec<String> {
        let mut anchors = Vec::new();
        let mut heading: Option<String> = None;
        for event in self.events() {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::End(TagEnd::Heading(_)) => {
                    anchors.extend(heading.take().map(|heading| anchor(&heading)));
                }
                _ => {}
            }
        }
        anchors
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
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
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
                let linked = Document { text: fs::read_to_string(&file)?, path: file };
                ensure!(
                    linked.anchors().iter().any(|anchor| anchor == fragment),
                    "{name}: no heading for {target}"
                );
            }
        }
    }
    Ok(())
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
fn every_guarantee_links_its_proof() -> Result<()> {
    for document in Document::all()? {
        let Some((_, card)) =
            document.text.split_once("\n## What is guaranteed, and what is not\n")
        else {
            continue;
        };
        let card = card.split("\n## ").next().unwrap_or_default();
        let rows: Vec<&str> = card.lines().filter(|line| line.starts_with('|')).skip(2).collect();
        ensure!(!rows.is_empty(), "{}: an empty guarantee card", document.path.display());
        for row in rows {
            ensure!(row.contains("tests/"), "{}: not proved: {row}", document.path.display());
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

/// Without indentation.
fn plain(code: &str) -> String {
    code.lines().map(|line| format!("{}\n", line.trim())).collect()
}
