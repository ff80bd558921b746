//! `cargo xtask demo`: plays the lessons.

use std::collections::HashMap;
use std::io::{IsTerminal, stdin};
use std::path::PathBuf;
use std::time::Instant;

use anstream::{eprintln, println};
use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result, ensure};
use edged::{Config, Edge, streams};
use secured::Stage;
use testkit::{Action, Cluster, Host, Lesson, Scene, Server, Step, Topology};

use crate::workspace::{build, chosen, root};

const COLORS: [AnsiColor; 6] = [
    AnsiColor::Cyan,
    AnsiColor::Yellow,
    AnsiColor::Magenta,
    AnsiColor::Green,
    AnsiColor::Blue,
    AnsiColor::Red,
];
const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const WIDTH: usize = 80;

/// Plays the named experiments, or all, in the README's order. Fails if one of them fails.
pub fn run(named: &[String], server: Option<&str>, step: bool) -> Result<()> {
    let chosen = chosen(named)?;
    // Both may take a while and report on stderr, so they come before the first lesson.
    let programs = build(&chosen)?;
    if server.is_none() {
        testkit::nats_server()?;
    }
    let mut results = Vec::new();
    for (number, name) in chosen.iter().enumerate() {
        if step && number > 0 {
            wait_for_enter()?;
        }
        let begun = Instant::now();
        let played = play(name, &programs, server);
        if let Err(error) = &played {
            eprintln!("{BOLD}{name} failed{BOLD:#}: {error:#}");
        }
        results.push((name, begun.elapsed(), played.is_ok()));
    }
    println!("\n{BOLD}{}{BOLD:#}", rule("summary"));
    for (name, time, is_ok) in &results {
        let verdict = if *is_ok { "ok" } else { "failed" };
        println!("{name:<14} {verdict:<6} {:>5.1} s", time.as_secs_f64());
    }
    let failed = results.iter().filter(|(_, _, is_ok)| !is_ok).count();
    ensure!(failed == 0, "{failed} of {} experiments failed", results.len());
    Ok(())
}

fn play(name: &str, programs: &HashMap<String, PathBuf>, server: Option<&str>) -> Result<()> {
    let lesson = Lesson::read(root().join(name).join("README.md"))?;
    println!("\n{BOLD}{}{BOLD:#}", rule(&lesson.title));
    println!("{}\n", wrap(&lesson.question));
    for scene in lesson.scenes.iter().filter(|scene| scene.section == "Run it") {
        let mut several = several(name)?;
        let mut own = match name {
            // Its scenes say how their server is secured.
            "secure" => Some(secured::start(Stage::of(scene.first_command())?)?.quiet()),
            _ if server.is_some() || several.is_some() => None,
            _ => Some(Server::start()?.quiet()),
        };
        let host = match (&mut own, &mut several) {
            (Some(own), _) => Host::Own(own),
            (_, Some(several)) => Host::Several(&mut **several),
            _ => Host::Running(server),
        };
        let labels = labels(scene);
        let width = labels.iter().map(String::len).max().unwrap_or_default();
        let show = move |terminal: usize, line: &str| {
            let color = COLORS[terminal % COLORS.len()].on_default();
            let label = &labels[terminal];
            let style = if line.starts_with("$ ") { DIM } else { Style::new() };
            let room = textwrap::Options::new(WIDTH - width - 3).subsequent_indent("  ");
            for line in textwrap::wrap(line, room) {
                println!("{color}{label:>width$} │{color:#} {style}{line}{style:#}");
            }
        };
        let path = |program: &str| {
            // A program that was not built cannot be started: the error names it.
            let path = programs.get(program).cloned();
            path.unwrap_or_else(|| program.into())
        };
        scene.play(host, path, show)?;
    }
    println!("\n{}", wrap(&lesson.seen));
    Ok(())
}

/// The servers of a lesson that needs more than one.
fn several(name: &str) -> Result<Option<Box<dyn Topology>>> {
    Ok(match name {
        "cluster" => {
            let mut cluster = Cluster::start(Cluster::PORTS.len())?;
            cluster.servers.iter_mut().for_each(Server::be_quiet);
            Some(Box::new(cluster))
        }
        "edge" => {
            let edge = Edge::start(&Config::default(), |_, options| options)?.quiet();
            streams::lay_blocking(&edge)?;
            Some(Box::new(edge))
        }
        _ => None,
    })
}

/// The label of each terminal: its first program, numbered if several terminals run the same one.
fn labels(scene: &Scene) -> Vec<String> {
    let names: Vec<String> = scene
        .terminals
        .iter()
        .map(|terminal| {
            let program = |step: &Step| match Action::parse(&step.command) {
                Ok(Action::Run(run)) => Some(run.name().to_owned()),
                Ok(Action::Up { .. } | Action::Press(_)) => Some("nats-server".to_owned()),
                _ => None,
            };
            terminal.steps.iter().find_map(program).unwrap_or_else(|| "shell".into())
        })
        .collect();
    let label = |(at, name): (usize, &String)| {
        let same = names.iter().filter(|other| *other == name).count();
        let number = names[..=at].iter().filter(|other| *other == name).count();
        if same > 1 { format!("{name} {number}") } else { name.clone() }
    };
    names.iter().enumerate().map(label).collect()
}

fn rule(title: &str) -> String {
    format!("── {title} {}", "─".repeat(WIDTH.saturating_sub(title.chars().count() + 4)))
}

fn wrap(text: &str) -> String {
    textwrap::fill(text, WIDTH)
}

fn wait_for_enter() -> Result<()> {
    ensure!(stdin().is_terminal(), "--step needs a terminal to press Enter in");
    println!("\n{DIM}press Enter to go on{DIM:#}");
    stdin().read_line(&mut String::new()).context("cannot read from the terminal")?;
    Ok(())
}
