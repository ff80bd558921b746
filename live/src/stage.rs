//! nats-server and the programs, and what the buttons do to them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use testkit::Server;

use crate::actor::Actor;
use crate::board::Board;
use crate::cast::{Life, ROLES, Role};
use crate::scenes::Cause;
use crate::wire::Protocol;

/// How often it is looked whether a program has ended.
const LOOK: Duration = Duration::from_millis(50);
/// How long a program may take to start, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What arguments depend on.
#[derive(Debug)]
struct Mood {
    full: bool,
    memory: bool,
    /// The database of the job workers, in nats-server's folder: it is removed with it.
    database: PathBuf,
}

impl Mood {
    fn fill(&self, arg: &str) -> String {
        let (count, work) = if self.full { ("1250", "0s") } else { ("300", "10ms") };
        match arg {
            "{count}" => count.into(),
            "{work}" => work.into(),
            "{storage}" => if self.memory { "memory" } else { "file" }.into(),
            "{db}" => self.database.display().to_string(),
            _ => arg.into(),
        }
    }
}

/// nats-server, and the programs of all scenes.
#[derive(Debug)]
pub struct Stage {
    server: Mutex<Server>,
    url: String,
    actors: Vec<Mutex<Actor>>,
    programs: HashMap<String, PathBuf>,
    mood: Mutex<Mood>,
    /// Held during a change that takes a while.
    change: Mutex<()>,
    board: Arc<Board>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    /// Starts nats-server, on free ports and with an empty store. Starts no program.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn new(programs: HashMap<String, PathBuf>, board: &Arc<Board>) -> Result<Self> {
        let server = Server::start()?.quiet();
        let actor = |role: &'static Role| {
            let port = match role.protocol {
                Protocol::Nats => server.port(),
                Protocol::Mqtt => server.mqtt_port(),
            };
            Ok(Mutex::new(Actor::new(role, board, port)?))
        };
        let actors = ROLES.iter().map(actor).collect::<Result<_>>()?;
        let database = server.folder().join("jobs.db");
        Ok(Self {
            url: server.url(),
            server: Mutex::new(server),
            actors,
            programs,
            mood: Mutex::new(Mood { full: false, memory: false, database }),
            change: Mutex::default(),
            board: Arc::clone(board),
        })
    }

    /// The URL of nats-server, not through a line.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    fn actor(&self, id: &str) -> Result<MutexGuard<'_, Actor>> {
        let at = ROLES.iter().position(|role| role.id == id);
        Ok(lock(&self.actors[at.with_context(|| format!("there is no program {id:?}"))?]))
    }

    fn start(&self, actor: &mut Actor, more: &[&str]) -> Result<()> {
        let mood = lock(&self.mood);
        actor.start(&self.programs, &|arg| mood.fill(arg), more)
    }

    /// Starts the programs that run from the start.
    ///
    /// # Errors
    ///
    /// If one of them was not built.
    pub fn begin(&self) -> Result<()> {
        // The bucket that shops of the first version expect.
        self.tool("config-admin", &[&["set", "false"]], &[])?;
        for is_left in [false, true] {
            for actor in &self.actors {
                let mut actor = lock(actor);
                let is_lasting = matches!(actor.role.life, Life::Lasting | Life::Again(_));
                if is_lasting && actor.role.left == is_left {
                    self.start(&mut actor, &[])?;
                }
            }
            // What the left side sends before would find no worker, and no stream of readings.
            for id in ["ann", "bob", "cleo", "math-server-1", "recorder"] {
                let is_ready = || {
                    let actor = self.actor(id)?;
                    Ok(["waiting for", "recording"].iter().any(|word| actor.has_printed(word)))
                };
                // If one is not ready in time, its box shows why.
                let _ = wait_for(is_ready);
            }
        }
        Ok(())
    }

    /// Notices which programs have ended, starts those that run again and again, and lets the scenes
    /// know that time passes, until `is_over`.
    pub fn follow(&self, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) {
            for actor in &self.actors {
                let mut actor = lock(actor);
                if actor.look() {
                    // If it fails, perhaps for want of processes, it is tried again next time.
                    let _ = self.start(&mut actor, &[]);
                }
            }
            self.look_at_server();
            self.board.tick();
            // A process has an end, and no event that a thread could wait for together with others.
            thread::sleep(LOOK);
        }
    }

    /// Notices that nats-server was ended, and not by a button.
    fn look_at_server(&self) {
        // While a button is being pressed, it is held.
        if let Ok(server) = self.server.try_lock()
            && self.board.is_up()
            && !server.is_running()
        {
            self.board.server(false, "has ended");
        }
    }

    /// Does what a button of a program says.
    ///
    /// # Errors
    ///
    /// If there is no such program or button, or it cannot be done now.
    pub fn press(&self, program: &str, button: &str) -> Result<()> {
        let mut actor = self.actor(program)?;
        let is_run_elsewhere =
            actor.role.life == Life::Tool && (button == "start" || actor.role.first.is_none());
        ensure!(!is_run_elsewhere, "{program} is run by the buttons of its scene");
        match button {
            "start" => {
                actor.clear_lines();
                self.start(&mut actor, &[])
            }
            "stop" => actor.end(Cause::Stopped),
            "kill" => actor.end(Cause::Killed),
            "version" => actor.toggle(),
            "cut" | "slow" => actor.line(button),
            _ => bail!("there is no button {button:?}"),
        }
    }

    /// Does what a button of nats-server says.
    ///
    /// # Errors
    ///
    /// If there is no such button, or it cannot be done now.
    pub fn press_server(&self, button: &str) -> Result<()> {
        let mut server = lock(&self.server);
        match button {
            "kill" => {
                server.kill()?;
                self.board.server(false, "was killed (kill -9)");
            }
            "stop" => {
                server.stop()?;
                self.board.server(false, "was stopped (SIGTERM)");
            }
            "start" => {
                server.restart()?;
                self.board.server(true, "runs");
            }
            _ => bail!("there is no button {button:?}"),
        }
        Ok(())
    }

    /// Starts one more program of a scene.
    ///
    /// # Errors
    ///
    /// If all of them run.
    pub fn more(&self, scene: &str) -> Result<()> {
        for actor in &self.actors {
            let mut actor = lock(actor);
            let role = actor.role;
            let counts = role.scene == scene && !role.left && !actor.is_running();
            if counts && matches!(role.life, Life::Lasting | Life::Spare | Life::Again(_)) {
                return self.start(&mut actor, &[]);
            }
        }
        bail!("all of them run")
    }

    /// Runs a tool, once with each of these arguments, and each time after an earlier run of it has
    /// ended. Its first version gets those in `first`.
    ///
    /// # Errors
    ///
    /// If the first version cannot do it, or an earlier run does not end.
    pub fn tool(&self, id: &str, service: &[&[&str]], first: &[&[&str]]) -> Result<()> {
        let runs = if self.actor(id)?.first { first } else { service };
        ensure!(!runs.is_empty(), "the first version of {id} cannot do this");
        for args in runs {
            // Looked at and started under one lock: another button may wait for the same tool.
            wait_for(|| {
                let mut actor = self.actor(id)?;
                let is_idle = !actor.is_running();
                if is_idle {
                    self.start(&mut actor, args)?;
                }
                Ok(is_idle)
            })?;
        }
        Ok(())
    }

    /// Full load, or calm again. Workers get other work, so those that run are started again.
    ///
    /// # Errors
    ///
    /// If one does not come back.
    pub fn toggle_load(&self) -> Result<bool> {
        let _alone = self.alone()?;
        let full = {
            let mut mood = lock(&self.mood);
            mood.full = !mood.full;
            mood.full
        };
        self.actor("log-publisher")?.period = full.then_some(250);
        // One after another: a message that comes while none is subscribed would be lost.
        for role in ROLES.iter().filter(|role| role.scene == "queue-groups" && !role.left) {
            let is_meant = {
                let worker = self.actor(role.id)?;
                worker.is_running() && !worker.first
            };
            if is_meant {
                self.restart_and_wait(role.id)?;
            }
        }
        Ok(full)
    }

    /// The other kind of storage for the stream of orders. `delete` deletes the stream while
    /// order-publisher does not run: it would make the stream that it knows.
    ///
    /// # Errors
    ///
    /// If the stream cannot be deleted.
    pub fn toggle_storage(&self, delete: impl FnOnce() -> Result<()>) -> Result<bool> {
        self.change(
            |role| role.id == "order-publisher",
            || {
                delete()?;
                let mut mood = lock(&self.mood);
                mood.memory = !mood.memory;
                Ok(mood.memory)
            },
        )
    }

    /// Makes all job workers the other version. `clear` deletes the consumers while none of them
    /// runs: in a work queue those of one version would overlap with those of the other, and
    /// nats-server refuses that.
    ///
    /// # Errors
    ///
    /// If the consumers cannot be deleted.
    pub fn toggle_job_workers(&self, clear: impl FnOnce() -> Result<()>) -> Result<()> {
        let is_worker = |role: &Role| role.scene == "jobs" && !role.left;
        self.change(is_worker, || {
            clear()?;
            let workers = ROLES.iter().filter(|role| is_worker(role));
            workers.into_iter().try_for_each(|role| self.actor(role.id)?.toggle())
        })
    }

    /// Stops those of these programs that run, makes a change when they have ended, and starts them
    /// again.
    fn change<T>(
        &self,
        is_meant: impl Fn(&Role) -> bool,
        change: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let _alone = self.alone()?;
        let mut stopped = Vec::new();
        for actor in &self.actors {
            let mut actor = lock(actor);
            if is_meant(actor.role) && actor.end(Cause::Stopped).is_ok() {
                stopped.push(actor.role.id);
            }
        }
        wait_for(|| Ok(!stopped.iter().any(|id| self.is_running(id))))?;
        let changed = change();
        for id in stopped {
            self.start(&mut *self.actor(id)?, &[])?;
        }
        changed
    }

    /// One change that takes a while at a time.
    fn alone(&self) -> Result<MutexGuard<'_, ()>> {
        match self.change.try_lock() {
            Err(TryLockError::WouldBlock) => bail!("the last change still goes on"),
            Err(TryLockError::Poisoned(alone)) => Ok(alone.into_inner()),
            Ok(alone) => Ok(alone),
        }
    }

    /// Whether a program runs.
    #[must_use]
    pub fn is_running(&self, id: &str) -> bool {
        self.actor(id).is_ok_and(|actor| actor.is_running())
    }

    /// Stops each running math-server and starts it again, one after another.
    ///
    /// # Errors
    ///
    /// If none runs, or one does not come back.
    pub fn rolling_restart(&self) -> Result<()> {
        let _alone = self.alone()?;
        let running = |role: &&Role| role.scene == "rpc" && !role.left && self.is_running(role.id);
        let servers: Vec<_> = ROLES.iter().filter(running).map(|role| role.id).collect();
        ensure!(!servers.is_empty(), "no math-server runs");
        self.tell_rpc("rolling: begin", servers.len());
        let done = servers.iter().try_for_each(|id| self.restart_and_wait(id));
        self.tell_rpc("rolling: end", servers.len());
        done
    }

    fn restart_and_wait(&self, id: &str) -> Result<()> {
        let before = {
            let mut actor = self.actor(id)?;
            actor.restart()?;
            actor.runs()
        };
        wait_for(|| {
            let actor = self.actor(id)?;
            Ok(actor.runs() > before && actor.has_printed("waiting"))
        })
        .with_context(|| format!("{id} is not back"))
    }

    fn tell_rpc(&self, what: &str, servers: usize) {
        self.board.with("rpc", |scene| {
            scene.play.answered(&mut scene.desk, what, &json!({ "servers": servers }));
        });
    }
}

/// Waits until `is_so`, or too long.
fn wait_for(is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "{} s are over", PATIENCE.as_secs());
        thread::sleep(LOOK);
    }
    Ok(())
}
