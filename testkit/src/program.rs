//! A running program and its output.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::io::retry_on_intr;
pub use rustix::process::Signal;
use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use crate::guard::Guard;

/// Time-out of every wait for something that usually takes milliseconds. It is this long because
/// a test must not fail on a machine that is busy.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(180);

/// A running program. It is killed, together with every process that it has started, when this
/// value is dropped or this process ends.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    _guard: Guard,
    output: Arc<Output>,
    /// How many lines of stdout and of stderr [`Program::expect`] has searched.
    searched: [usize; 2],
    timeout: Duration,
    quiet: bool,
}

/// How many bytes of a program's output are kept, unless [`Program::keep`] says otherwise.
const KEPT: usize = 256 << 20;

/// What a line costs besides its bytes, about.
const LINE: usize = 64;

/// A line that is longer is cut into several, in bytes.
const LONGEST_LINE: u64 = 1 << 20;

/// How long the output of a program that has ended may take. A process that it has started may keep
/// its pipes open for ever.
const LAST_LINES: Duration = Duration::from_secs(5);

/// How a program ended, and its whole output.
#[derive(Debug)]
pub struct Ended {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// When it ended.
    pub at: Instant,
    /// The lines of its stdout.
    pub stdout: Vec<String>,
    /// The lines of its stderr.
    pub stderr: Vec<String>,
}

impl Ended {
    /// Whether it ended with exit code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Its exit code; none if a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

#[derive(Clone, Copy)]
enum Stream {
    Stdout = 0,
    Stderr = 1,
}

/// Called with each line of a stream as it comes.
pub(crate) type OnLine = Box<dyn Fn(&str) + Send>;

impl Program {
    /// Starts a program.
    ///
    /// # Errors
    ///
    /// If it cannot be started, because there is no such file for instance.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        Self::spawn_guarded(command, None, [None, None])
    }

    /// Starts a program, and calls `on_line` with each line of its stdout, on another thread. Its
    /// output is not shown when it is dropped.
    ///
    /// # Errors
    ///
    /// As [`Program::spawn`].
    pub fn spawn_watched(
        command: &mut Command,
        on_line: impl Fn(&str) + Send + 'static,
    ) -> Result<Self> {
        Ok(Self::spawn_guarded(command, None, [Some(Box::new(on_line)), None])?.quiet())
    }

    /// Starts a program, and calls `on_line` with each line that it prints, on other threads; the
    /// flag says whether the line comes from stderr. Its output is not shown when it is dropped.
    ///
    /// # Errors
    ///
    /// As [`Program::spawn`].
    pub fn spawn_followed(
        command: &mut Command,
        on_line: impl Fn(bool, &str) + Clone + Send + 'static,
    ) -> Result<Self> {
        let of = |is_stderr: bool| -> Option<OnLine> {
            let on_line = on_line.clone();
            Some(Box::new(move |line| on_line(is_stderr, line)))
        };
        Ok(Self::spawn_guarded(command, None, [of(false), of(true)])?.quiet())
    }

    /// Starts a program. If this process is killed, `folder` is removed. `on_line` is for the lines
    /// of stdout and of stderr.
    pub(crate) fn spawn_guarded(
        command: &mut Command,
        folder: Option<&Path>,
        on_line: [Option<OnLine>; 2],
    ) -> Result<Self> {
        let program = command.get_program().to_owned();
        let mut child = command
            // A process group of its own: all of it is killed together.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| cannot_start(Path::new(&program)))?;
        let guard = Guard::new(child.id(), folder).inspect_err(|_| {
            let _ = child.kill();
            let _ = child.wait();
        })?;
        let output = Arc::new(Output::default());
        let pipes = child.stdout.take().zip(child.stderr.take());
        let program = Self {
            name: name_of(&program),
            child,
            _guard: guard,
            output,
            searched: [0, 0],
            timeout: TIMEOUT,
            quiet: false,
        };
        if let Some((stdout, stderr)) = pipes {
            let [on_stdout, on_stderr] = on_line;
            program.output.follow(Stream::Stdout, stdout, on_stdout);
            program.output.follow(Stream::Stderr, stderr, on_stderr);
        }
        program.output.follow_end(program.pid()?);
        Ok(program)
    }

    /// Sets the time-out of [`expect`](Self::expect) and [`wait`](Self::wait), which is 180 s
    /// otherwise.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Keeps so many bytes of its output, in place of 256 MiB. What it prints after them is read, and
    /// dropped.
    #[must_use]
    pub fn keep(self, bytes: usize) -> Self {
        self.output.lock().kept = Some(bytes);
        self
    }

    /// Does not show the program's output when it is dropped. By default it is shown on stderr,
    /// which the test harness hides if the test succeeds.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Waits for a line of stdout that contains `text`, and returns it. The search begins after the
    /// line that the last call has found.
    ///
    /// # Errors
    ///
    /// If no such line comes in time, or the program ends before. The error has its output.
    pub fn expect(&mut self, text: &str) -> Result<String> {
        self.expect_on(Stream::Stdout, text)
    }

    /// As [`Program::expect`], on stderr.
    ///
    /// # Errors
    ///
    /// As [`Program::expect`].
    pub fn expect_stderr(&mut self, text: &str) -> Result<String> {
        self.expect_on(Stream::Stderr, text)
    }

    fn expect_on(&mut self, stream: Stream, text: &str) -> Result<String> {
        let searched = self.searched[stream as usize];
        let found = self.output.wait(self.timeout, |lines| {
            let new = lines.of(stream).iter().enumerate().skip(searched);
            new.into_iter()
                .find(|(_, line)| line.contains(text))
                .map(|(at, line)| (at, line.clone()))
        });
        match found {
            Some((at, line)) => {
                self.searched[stream as usize] = at + 1;
                Ok(line)
            }
            None => bail!(
                "{}: no line with {text:?} has come; its output:\n{}",
                self.name,
                self.output_so_far()
            ),
        }
    }

    /// Waits until the lines of stdout satisfy `is_enough`, and returns true. Returns false if the
    /// program ends before, or the time is up.
    pub fn wait_for(&self, is_enough: impl Fn(&[String]) -> bool) -> bool {
        self.wait_for_within(self.timeout, is_enough)
    }

    pub(crate) fn wait_for_within(
        &self,
        timeout: Duration,
        is_enough: impl Fn(&[String]) -> bool,
    ) -> bool {
        let enough = |lines: &Record| is_enough(lines.of(Stream::Stdout)).then_some(());
        self.output.wait(timeout, enough).is_some()
    }

    /// The lines of its stdout so far.
    #[must_use]
    pub fn stdout(&self) -> Vec<String> {
        self.output.lock().of(Stream::Stdout).to_vec()
    }

    /// The lines of its stderr so far.
    #[must_use]
    pub fn stderr(&self) -> Vec<String> {
        self.output.lock().of(Stream::Stderr).to_vec()
    }

    /// Sends a signal to the program.
    ///
    /// A shell starts what it runs in the background with SIGINT ignored, these tests perhaps among
    /// it, and a program that handles no signals inherits that. It gets SIGTERM in place of SIGINT.
    ///
    /// # Errors
    ///
    /// If the program has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.status(WaitIdOptions::NOHANG)? {
            bail!(
                "{} has ended already ({status}); its output:\n{}",
                self.name,
                self.output_so_far()
            );
        }
        let is_ignored = signal == Signal::INT && self.ignores(signal);
        Ok(kill_process(self.pid()?, if is_ignored { Signal::TERM } else { signal })?)
    }

    /// Suspends the program (SIGSTOP), and returns when none of its threads runs.
    ///
    /// # Errors
    ///
    /// If the program has ended already.
    pub fn suspend(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let pid = self.pid()?;
        retry_on_intr(|| waitid(WaitId::Pid(pid), stopped))?;
        Ok(())
    }

    /// Sends a signal to the program and to every process that it has started, as a service manager
    /// does. Does nothing if all of them have ended.
    pub fn signal_all(&mut self, signal: Signal) {
        if let Ok(pid) = self.pid() {
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Kills the program, as `kill -9` does.
    ///
    /// # Errors
    ///
    /// If the program has ended already.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.status(WaitIdOptions::empty())?;
        Ok(())
    }

    /// Sends SIGTERM, as a supervisor does, and waits for the program's end.
    ///
    /// # Errors
    ///
    /// If it has ended already, or does not end.
    pub fn stop(&mut self) -> Result<Ended> {
        self.signal(Signal::TERM)?;
        self.wait()
    }

    /// Waits for the program's end.
    ///
    /// # Errors
    ///
    /// If it does not end in time. The error has its output.
    pub fn wait(&mut self) -> Result<Ended> {
        let Some(at) = self.output.wait(self.timeout, |lines| lines.ended) else {
            bail!("{} has not ended; its output:\n{}", self.name, self.output_so_far());
        };
        self.output.wait(LAST_LINES, |lines| (lines.open == 0).then_some(()));
        let status = self.status(WaitIdOptions::empty())?;
        let status = status.with_context(|| format!("how {} ended is unknown", self.name))?;
        Ok(Ended { status, at, stdout: self.stdout(), stderr: self.stderr() })
    }

    /// Whether the program ignores `signal`. Returns false on systems other than Linux, which do
    /// not tell.
    fn ignores(&self, signal: Signal) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("SigIgn:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
    }

    /// Whether the program is running.
    ///
    /// # Errors
    ///
    /// If the system does not tell.
    pub fn is_running(&self) -> Result<bool> {
        Ok(self.status(WaitIdOptions::NOHANG)?.is_none())
    }

    /// How the program has ended; none if it is running.
    ///
    /// It is not waited for before this value is dropped, so its id is not given to another
    /// process. Otherwise a signal could hit that process.
    fn status(&self, options: WaitIdOptions) -> Result<Option<ExitStatus>> {
        let options = options | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let pid = self.pid()?;
        let ended = retry_on_intr(|| waitid(WaitId::Pid(pid), options))?;
        Ok(ended.map(|ended| {
            let code = ended.exit_status().unwrap_or_default() << 8;
            ExitStatus::from_raw(code | ended.terminating_signal().unwrap_or_default())
        }))
    }

    /// The most memory that the program has held so far, in bytes (Linux only).
    ///
    /// # Errors
    ///
    /// If the system does not tell, because the program has ended for instance.
    pub fn peak_memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = peak.and_then(|peak| peak.split_whitespace().next());
        let kilobytes: u64 = kilobytes.with_context(|| format!("no VmHWM in {path}"))?.parse()?;
        Ok(kilobytes * 1024)
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Result<Pid> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        pid.with_context(|| format!("{} has no process id", self.name))
    }

    fn output_so_far(&self) -> String {
        let lines = self.output.lock();
        let tail = |stream: Stream| {
            let lines = lines.of(stream);
            let cut = lines.len().saturating_sub(40);
            let more = if cut > 0 { format!("  … {cut} lines …\n") } else { String::new() };
            more + &lines[cut..].iter().map(|line| format!("  {line}\n")).collect::<String>()
        };
        format!(" stdout:\n{} stderr:\n{}", tail(Stream::Stdout), tail(Stream::Stderr))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(pid) = self.pid() {
            // Even if the program has ended: a process that it started may be running.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.wait();
        // The test harness shows this only if the test fails.
        if !self.quiet {
            eprintln!("--- {} ---\n{}", self.name, self.output_so_far());
        }
    }
}

/// The output of a program, shared with the threads that read it.
#[derive(Debug, Default)]
struct Output {
    record: Mutex<Record>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Record {
    lines: [Vec<String>; 2],
    /// How many bytes were printed.
    bytes: usize,
    /// How many of them are kept.
    kept: Option<usize>,
    /// How many of the two streams are open.
    open: usize,
    /// When the program has ended.
    ended: Option<Instant>,
}

impl Record {
    fn of(&self, stream: Stream) -> &[String] {
        &self.lines[stream as usize]
    }

    fn add(&mut self, stream: Stream, line: &str) {
        self.bytes += line.len() + LINE;
        if self.bytes <= self.kept.unwrap_or(KEPT) {
            self.lines[stream as usize].push(line.to_owned());
        }
    }
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Record> {
        // A thread that panicked cannot have left a line half added.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(
        self: &Arc<Self>,
        stream: Stream,
        from: impl Read + Send + 'static,
        on_line: Option<OnLine>,
    ) {
        self.lock().open += 1;
        let output = Arc::clone(self);
        thread::spawn(move || {
            let (mut from, mut bytes) = (BufReader::new(from), Vec::new());
            while let Ok(1..) = from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut bytes) {
                let line = String::from_utf8_lossy(&bytes);
                let line = line.trim_end_matches('\n').trim_end_matches('\r');
                if let Some(on_line) = &on_line {
                    on_line(line);
                }
                output.change(|lines| lines.add(stream, line));
                bytes.clear();
            }
            output.change(|lines| lines.open -= 1);
        });
    }

    /// Notes when the process ends. It is not waited for, see [`Program::status`].
    fn follow_end(self: &Arc<Self>, pid: Pid) {
        let output = Arc::clone(self);
        thread::spawn(move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let _ = retry_on_intr(|| waitid(WaitId::Pid(pid), options));
            output.change(|lines| lines.ended = Some(Instant::now()));
        });
    }

    fn change(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `find` finds something, the program has ended and both streams are closed, or the
    /// time is up.
    fn wait<T>(&self, timeout: Duration, find: impl Fn(&Record) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut lines = self.lock();
        loop {
            let found = find(&lines);
            let left = deadline.saturating_duration_since(Instant::now());
            let is_over = lines.open == 0 && lines.ended.is_some();
            if found.is_some() || is_over || left.is_zero() {
                return found;
            }
            let waited = self.changed.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn cannot_start(program: &Path) -> String {
    let shown = program.display();
    let folder = program.parent().and_then(Path::file_name);
    if folder.is_some_and(|folder| folder == "examples") {
        return format!("cannot start {shown} (`cargo build --examples` makes it)");
    }
    format!("cannot start {shown}")
}

fn name_of(program: &OsStr) -> String {
    let name = Path::new(program).file_name().unwrap_or(program);
    name.to_string_lossy().into_owned()
}
