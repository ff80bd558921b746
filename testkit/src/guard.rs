//! Nothing outlives the test, however it ends.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Kills a group of processes and removes a folder when *this* process is gone, SIGKILL included.
///
/// No destructor runs then, but the system closes our end of a pipe: a shell waits for that. (The
/// kernel's own means, a parent-death signal, exists on Linux only and needs unsafe code.)
#[derive(Debug)]
pub(crate) struct Guard(Child);

impl Guard {
    /// Guards the group that the process `pid` leads, and `folder` where one is named.
    pub(crate) fn new(pid: u32, folder: Option<&Path>) -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", r#"read -r _; kill -9 -"$0" 2>/dev/null; test -z "$1" || rm -rf "$1""#])
            .arg(pid.to_string())
            .args(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C goes to the whole group: the guard has to survive it.
            .process_group(0);
        shell.spawn().map(Self)
    }
}

impl Drop for Guard {
    /// The process was seen to end: nothing is left to guard.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
