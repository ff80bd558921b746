//! A terminal in which a test types.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

/// A program in a terminal.
pub struct Terminal {
    keys: File,
    printed: Receiver<String>,
    /// What was printed and not yet waited for.
    rest: String,
    program: Child,
}

impl Terminal {
    /// Starts a program.
    pub fn start(command: &mut Command) -> Result<Self> {
        let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&main)?;
        unlockpt(&main)?;
        let name = ptsname(&main, Vec::new())?;
        let terminal = File::options().read(true).write(true).open(name.to_str()?)?;
        command.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal);
        let program = command.env("TERM", "xterm").spawn()?;
        // The command's own copies: the terminal ends with the program.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let keys = File::from(main);
        let mut screen = keys.try_clone()?;
        let (sender, printed) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                let _ = sender.send(String::from_utf8_lossy(&buffer[..count]).into_owned());
            }
        });
        Ok(Self { keys, printed, rest: String::new(), program })
    }

    /// Waits until the text was printed.
    pub fn expect(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(600);
        loop {
            if let Some(at) = self.rest.find(text) {
                self.rest.drain(..at + text.len());
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.printed.recv_timeout(left) {
                Ok(printed) => self.rest += &printed,
                Err(_) => bail!("{text:?} was not printed, but: {}", self.rest),
            }
        }
    }

    /// Types a key, or several.
    pub fn press(&mut self, key: &str) -> Result<()> {
        Ok(self.keys.write_all(key.as_bytes())?)
    }

    /// Waits for the program's end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.program.wait()?)
    }

    /// Whether it shows what is typed, and hands it on line by line: as a shell needs it.
    pub fn echoes(&self) -> Result<bool> {
        Ok(tcgetattr(&self.keys)?.local_modes.contains(LocalModes::ECHO | LocalModes::ICANON))
    }

    /// The process id of the program.
    pub fn id(&self) -> u32 {
        self.program.id()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
