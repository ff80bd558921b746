//! No process and no folder outlives the test, even if the test is killed.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Kills a group of processes and removes a folder when *this* process ends, even by SIGKILL.
///
/// No destructor runs after SIGKILL, but the system closes this process's end of a pipe, and a
/// shell waits for that. (A parent-death signal would do the same, on Linux only and with unsafe
/// code.)
#[derive(Debug)]
pub(crate) struct Guard(Child);

/// `rm` is tried again: a process that is being killed may make a file meanwhile.
const SCRIPT: &str = r#"
    read -r _
    kill -9 -"$0" 2>/dev/null
    test -z "$1" || rm -rf "$1" || { sleep 1; rm -rf "$1"; }
"#;

impl Guard {
    /// Guards the process group whose leader is `pid`, and `folder` if there is one.
    pub(crate) fn new(pid: u32, folder: Option<&Path>) -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", SCRIPT])
            .arg(pid.to_string())
            .args(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C goes to the whole group of the test, and must not end the guard.
            .process_group(0);
        shell.spawn().map(Self)
    }
}

impl Drop for Guard {
    /// The process has ended, so the guard is not needed any more.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
