//! `cargo xtask up`, with users, as a cluster, and with a leaf node.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use testkit::{Port, Program};

use crate::common::run;
use crate::tasks::xtask;
use crate::terminal::Terminal;

/// A running `cargo xtask up --secure` with ports of its own, and what it has printed.
struct Secure {
    server: Program,
    lines: Vec<String>,
}

impl Secure {
    fn start(data: &Path, ports: &[Port; 3], flags: &[&str]) -> Result<Self> {
        let ports: Vec<_> = ports.iter().map(|port| port.number().to_string()).collect();
        let mut up = xtask(&["up", "--secure"]);
        up.arg("--data").arg(data).args(["--ports", &ports.join(",")]).args(flags);
        let mut server = Program::spawn(&mut up)?.quiet();
        server.expect_stderr("Server is ready")?;
        server.expect("unset ")?;
        let lines = server.stdout();
        Ok(Self { server, lines })
    }

    /// Runs a program in a shell, after the line that was printed for it.
    fn run(&self, user: &str, program: &str) -> Result<()> {
        let heading = format!("# {user} in ");
        let at = self.lines.iter().position(|line| line.starts_with(&heading));
        let line = &self.lines[at.context("no line")? + 1];
        let path = testkit::program(program.split(' ').next().unwrap_or_default());
        ensure!(path.exists(), "{} is not built: cargo build --workspace", path.display());
        let folder = path.parent().context("no folder")?.display();
        let mut shell = testkit::isolated("/bin/sh");
        shell.args(["-c", &format!("{line}\nexec '{folder}'/{program}")]);
        let ended = run(&mut shell)?;
        ensure!(ended.success(), "{line}: {ended:?}");
        Ok(())
    }
}

/// From an empty folder, to programs that connect with the lines that it has printed.
#[test]
fn up_secure_makes_all_that_its_programs_need() -> Result<()> {
    for flags in [&[][..], &["--creds"]] {
        let folder = tempfile::tempdir()?;
        // A path that has to be quoted.
        let data = folder.path().join("some data");
        let ports = [Port::claim()?, Port::claim()?, Port::claim()?];
        let mut secure = Secure::start(&data, &ports, flags)?;
        secure.run("hello", "hello")?;
        secure.run("sensor-1", "sensor --count 1 --interval 0s")?;
        let back = secure.lines.iter().find(|line| line.starts_with("unset "));
        let back = back.context("no way back")?;
        let secret = if flags.is_empty() { "NATS_NKEY" } else { "NATS_CREDS" };
        for name in ["NATS_URL", "NATS_CA", secret, "NATS_INBOX_PREFIX", "MQTT_PASSWORD"] {
            ensure!(back.contains(name), "{back}");
        }
        let mode = data.join("server.key").metadata()?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{mode:o}");
        secure.server.kill()?;

        // A second time: the same keys.
        let mut again = Secure::start(&data, &ports, flags)?;
        ensure!(again.lines.iter().any(|line| line.contains("kept from before")));
        secure.run("hello", "hello")?;
        again.server.kill()?;
    }
    Ok(())
}

#[test]
fn a_stage_that_does_not_exist_is_an_error_of_the_command_line() -> Result<()> {
    let ended = run(&mut xtask(&["up", "--secure=xyz"]))?;
    assert_eq!(ended.code(), Some(2));
    let said = ended.stderr.join("\n");
    for part in ["xyz", "open", "lists", "accounts"] {
        ensure!(said.contains(part), "{said}");
    }
    Ok(())
}

/// The ports of `N` servers.
struct Ports<const N: usize>([[Port; 3]; N]);

impl<const N: usize> Ports<N> {
    fn claim() -> Result<Self> {
        let mut ports = Vec::new();
        for _ in 0..N {
            ports.push([Port::claim()?, Port::claim()?, Port::claim()?]);
        }
        Ok(Self(ports.try_into().ok().context("not so many")?))
    }

    /// A task that uses them.
    fn up(&self, kind: &str, data: &Path) -> Command {
        let mut up = xtask(&["up", kind]);
        up.arg("--data").arg(data);
        for ports in &self.0 {
            up.arg("--ports").arg(ports.each_ref().map(|port| port.number().to_string()).join(","));
        }
        up
    }

    fn are_free(&self) -> bool {
        let mut ports = self.0.iter().flatten();
        ports.all(|port| TcpListener::bind(("127.0.0.1", port.number())).is_ok())
    }

    fn url(&self) -> String {
        self.0.each_ref().map(|[nats, ..]| format!("nats://localhost:{}", nats.number())).join(",")
    }
}

#[test]
fn up_cluster_does_what_its_keys_say() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ports = Ports::<3>::claim()?;
    let mut terminal = Terminal::start(&mut ports.up("--cluster", folder.path()))?;
    terminal.expect(&format!("export NATS_URL={}", ports.url()))?;
    terminal.expect("q   end all")?;
    for (key, done) in [("k2", "n2 was killed"), ("x3", "n3 is cut off"), ("h", "healed")] {
        terminal.press(key)?;
        terminal.expect(done)?;
    }
    let mut hello = testkit::isolated(testkit::program("hello"));
    ensure!(run(hello.env("NATS_URL", ports.url()))?.success());
    for (key, done) in [("r2", "n2 was started"), ("k4", "no server \"4\""), ("p3", "is paused")] {
        terminal.press(key)?;
        terminal.expect(done)?;
    }
    // It ends by itself; the paused one does not have to be woken before all end.
    terminal.press("l1")?;
    terminal.expect("Server Exiting")?;
    terminal.press("q")?;
    ensure!(terminal.wait()?.success());
    ensure!(ports.are_free());
    Ok(())
}

/// A service manager and `kill` do not press keys.
#[test]
fn up_edge_ends_on_sigterm_and_leaves_the_terminal_as_it_was() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ports = Ports::<2>::claim()?;
    let mut terminal = Terminal::start(&mut ports.up("--edge", folder.path()))?;
    terminal.expect("q   end all")?;
    terminal.press("x")?;
    terminal.expect("the line is cut")?;
    ensure!(!terminal.echoes()?, "keys are shown");
    let id = i32::try_from(terminal.id())?;
    kill_process(Pid::from_raw(id).context("no process")?, Signal::TERM)?;
    ensure!(terminal.wait()?.success());
    ensure!(terminal.echoes()?, "the terminal is as the program needed it");
    ensure!(ports.are_free());
    Ok(())
}
