//! The page of a backend in a browser: buttons are pressed, and texts awaited.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::driver::{Browser, plain};
use crate::process::{Backend, PATIENCE, processes};

/// A backend, and a browser that shows one of its scenes.
pub struct Page {
    pub backend: Backend,
    pub browser: Browser,
}

impl Page {
    /// Starts both, with programs, and waits until the scene is there.
    pub fn open(scene: &str) -> Result<Self> {
        Self::of(Backend::start()?, scene)
    }

    /// The page of a backend.
    pub fn of(backend: Backend, scene: &str) -> Result<Self> {
        let browser = Browser::start(1280, 1400)?;
        let page = Self { backend, browser };
        page.show(scene)?;
        Ok(page)
    }

    /// Presses buttons, and fails if the page has then written to the console.
    pub fn silently(self, act: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        act(&self)?;
        self.browser.is_silent()
    }

    /// Shows a scene.
    pub fn show(&self, scene: &str) -> Result<Value> {
        let url = format!("http://127.0.0.1:{}/#{scene}", self.backend.port);
        self.browser.go(&url)?;
        self.until("the scene is there", "return document.title", |title| {
            title.as_str().is_some_and(|title| title.starts_with(scene))
        })
    }

    /// What a script returns.
    pub fn script(&self, script: &str) -> Result<Value> {
        self.browser.script(script)
    }

    /// Waits until what a script returns satisfies `is_so`.
    pub fn until(&self, what: &str, script: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.script(script)?;
            if is_so(&value) {
                return Ok(value);
            }
            let said = self.script("return said.textContent + ' | ' + events.innerText")?;
            ensure!(Instant::now() < deadline, "{what}: {}; {}", plain(&value), plain(&said));
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// Presses a button when it can be pressed: that of a program, of `server` or of the `scene`.
    pub fn press(&self, target: &str, button: &str) -> Result<()> {
        let id = format!("{target}-{button}");
        let is_enabled = format!(
            "const it = document.getElementById('{id}'); \
             return it && it.getAttribute('aria-disabled') !== 'true'"
        );
        self.until(&format!("{id} can be pressed"), &is_enabled, |it| *it == json!(true))?;
        self.browser.click(&id).with_context(|| format!("cannot press {id}"))
    }

    /// Waits until the list of events has a line with `text`.
    pub fn told(&self, text: &str) -> Result<Value> {
        self.until(text, "return events.innerText", |events| {
            events.as_str().is_some_and(|events| events.contains(text))
        })
    }

    /// Waits until a counter satisfies `is_so`.
    pub fn counter(&self, name: &str, is_so: impl Fn(&str) -> bool) -> Result<Value> {
        let script = format!(
            "const name = [...counters.children].find((it) => it.textContent === '{name}'); \
             return name?.nextSibling.textContent"
        );
        self.until(name, &script, |value| value.as_str().is_some_and(&is_so))
    }

    /// Waits until a program's box says that a process runs, and returns its id.
    pub fn process(&self, program: &str, other_than: Option<u32>) -> Result<u32> {
        let script = format!("return sections['program:{program}']?.pid");
        let is_other = |pid: &Value| {
            pid.as_u64().is_some_and(|pid| other_than.is_none_or(|old| pid != u64::from(old)))
        };
        let pid = self.until(&format!("{program} runs"), &script, is_other)?;
        Ok(u32::try_from(pid.as_u64().context("no id")?)?)
    }

    /// Waits until another process of a program, which a button has started, prints on stdout. None
    /// does before it is connected.
    pub fn is_connected(&self, program: &str, other_than: u32) -> Result<()> {
        let script = format!(
            "const it = sections['program:{program}']; \
             return !!it.pid && it.pid !== {other_than} && it.lines.some(([err]) => !err)"
        );
        let is_so = |is: &Value| *is == json!(true);
        self.until(&format!("{program} is connected"), &script, is_so).map(|_| ())
    }

    /// Waits until a program that a button has started says that it cannot connect. Fails if it has
    /// printed anything on stdout.
    pub fn cannot_connect(&self, program: &str) -> Result<()> {
        let lines = self.printed(program, "cannot connect")?;
        let script = format!("return sections['program:{program}'].lines.some(([err]) => !err)");
        ensure!(self.script(&script)? == json!(false), "{program}: {lines}");
        Ok(())
    }

    /// Waits until the last lines of a program contain `text`.
    pub fn printed(&self, program: &str, text: &str) -> Result<Value> {
        let script = format!("return sections['program:{program}'].lines.join('\\n')");
        let has = |lines: &Value| lines.as_str().is_some_and(|lines| lines.contains(text));
        self.until(&format!("{program} prints {text}"), &script, has)
    }
}

/// The command line of a process; empty if it has ended.
pub fn command(pid: u32) -> Result<String> {
    let found = processes()?.into_iter().find(|(other, ..)| *other == pid);
    Ok(found.map(|(.., command)| command).unwrap_or_default())
}

/// Waits until a process has ended.
pub fn gone(pid: u32) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !command(pid)?.is_empty() {
        ensure!(Instant::now() < deadline, "process {pid} runs on: {}", command(pid)?);
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
