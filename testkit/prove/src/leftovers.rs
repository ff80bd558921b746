//! Processes that a program has started and not ended.

use std::process::Command;

use rustix::process::{Pid, Signal, getpid, kill_process};

/// The environment variable by which a process is recognised, whichever process started it.
const MARK: &str = "NATS_PLAYGROUND_PROVE";

/// Processes are looked for again as often: one that is being killed may start another meanwhile.
const ROUNDS: usize = 20;

/// Marks the process that `command` will start, and all that inherit its environment.
pub(crate) fn mark(command: &mut Command, mark: &str) {
    command.env(MARK, mark);
}

/// The ids of the marked processes that run. None on systems other than Linux, which do not tell.
pub(crate) fn marked(mark: &str) -> Vec<Pid> {
    let wanted = format!("{MARK}={mark}");
    processes()
        .filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
        })
        .filter_map(Pid::from_raw)
        .collect()
}

/// Kills all marked processes.
pub(crate) fn kill(mark: &str) {
    for _ in 0..ROUNDS {
        let found = marked(mark);
        if found.is_empty() {
            return;
        }
        for pid in found {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// While this value lives, processes whose parents have ended become children of this process. When
/// it is dropped, they are killed, and every other child of this process: one that has cleared its
/// environment is not recognised otherwise.
///
/// Does nothing on systems other than Linux.
#[derive(Debug)]
pub struct Orphans(());

impl Orphans {
    /// Adopts what loses its parent from now on.
    #[must_use]
    pub fn adopt() -> Self {
        #[cfg(target_os = "linux")]
        let _ = rustix::process::set_child_subreaper(Some(getpid()));
        Self(())
    }
}

impl Drop for Orphans {
    fn drop(&mut self) {
        for _ in 0..ROUNDS {
            let children: Vec<i32> = processes().filter(|pid| is_own(*pid)).collect();
            if children.is_empty() {
                return;
            }
            for pid in children.into_iter().filter_map(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            }
        }
    }
}

/// Whether the process is a child of this one.
fn is_own(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may hold anything. Then come the state and the parent.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let parent = after_name.split_whitespace().nth(1).and_then(|parent| parent.parse().ok());
    parent == Some(getpid().as_raw_nonzero().get())
}
