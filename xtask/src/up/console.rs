//! Several servers in one terminal, and the keys that break them.

use std::io::{IsTerminal, Read, Write, stdin, stdout};
use std::sync::mpsc::channel;
use std::{mem, thread};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use anyhow::Result;
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use signal_hook::consts::TERM_SIGNALS;
use signal_hook::iterator::Signals;
use testkit::Topology;

const COLORS: [AnsiColor; 3] = [AnsiColor::Cyan, AnsiColor::Yellow, AnsiColor::Magenta];
const DONE: Style = Style::new().bold();
/// What a terminal in raw mode sends for Ctrl-C.
const CTRL_C: char = '\u{3}';

/// Returns what shows the lines of a server's log, under its name. The number chooses its colour.
pub fn log_of(number: usize, name: &str) -> impl Fn(&str) + Send + Sync + 'static {
    let style = COLORS[number % COLORS.len()].on_default();
    let name = format!("{style}{name} │{style:#}");
    move |line| {
        // Connections to the other servers come and go, several for each pair.
        if line.contains(" rid:") || line.contains("connect to route") {
            return;
        }
        // `[57] 2026/01/01 12:00:00.000000 [INF] Server is ready`: from the level on.
        let level = line.match_indices('[').nth(1).map_or(0, |(at, _)| at);
        show(&format!("{name} {}", &line[level..]));
    }
}

/// Prints a line, also in raw mode, in which `\n` alone does not lead to the line's begin.
fn show(line: &str) {
    let mut out = AutoStream::auto(stdout()).lock();
    let _ = write!(out, "{line}\r\n").and_then(|()| out.flush());
}

/// Does what keys say until q, Ctrl-C, SIGINT or SIGTERM, and then stops the servers.
pub fn obey(topology: &mut impl Topology) -> Result<()> {
    let is_terminal = stdin().is_terminal() && stdout().is_terminal();
    if is_terminal {
        enable_raw_mode()?;
    }
    // If there is no terminal, and nothing more to read, the servers stay.
    let (sender, keys) = channel();
    let (for_signals, mut signals) = (sender.clone(), Signals::new(TERM_SIGNALS)?);
    thread::spawn(move || signals.forever().try_for_each(|_| for_signals.send('q')));
    let for_reader = sender.clone();
    thread::spawn(move || {
        let bytes = stdin().lock().bytes().map_while(Result::ok);
        bytes.into_iter().try_for_each(|byte| for_reader.send(char::from(byte)))
    });
    let mut begun = String::new();
    for key in keys.iter().take_while(|key| !['q', CTRL_C].contains(key)) {
        if key.is_whitespace() {
            continue;
        }
        begun.push(key);
        let with_number = format!("{begun}N");
        if topology.keys().iter().all(|(name, _)| *name != with_number) {
            let done = match topology.press(&mem::take(&mut begun)) {
                Ok(done) => format!("{DONE}{done}{DONE:#}"),
                Err(error) => format!("{error:#}\n{}", menu(topology)),
            };
            show(&done.replace('\n', "\r\n"));
        }
    }
    drop(sender);
    if is_terminal {
        disable_raw_mode()?;
    }
    for server in topology.servers_mut().iter_mut().filter(|server| server.is_running()) {
        // A paused one would not stop; one that ends by itself meanwhile has stopped.
        let stopped = server.resume().and_then(|()| server.stop());
        if server.is_running() {
            stopped?;
        }
    }
    Ok(())
}

/// The keys, a line each.
pub fn menu(topology: &impl Topology) -> String {
    let line = |(key, what): &(&str, &str)| format!("    {key:<3} {what}\n");
    let lines: String = topology.keys().iter().map(line).collect();
    let names = topology.servers().iter().zip(1..);
    let names: Vec<_> = names.map(|(server, n)| format!("{n} for {}", server.name())).collect();
    format!("Keys; N is {}:\n\n{lines}    q   end all\n", names.join(", "))
}
