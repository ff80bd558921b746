//! Chromium, without a window, through its WebDriver.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Port, Program};
use ureq::Agent;

use crate::process::PATIENCE;

/// The key under which an answer names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser. It ends with this value.
pub struct Browser {
    _driver: Program,
    /// Held so that no other test gets it.
    _port: Port,
    agent: Agent,
    session: String,
}

impl Browser {
    /// Starts one, with a window of this size.
    pub fn start(width: u32, height: u32) -> Result<Self> {
        // Asked for any free port, it takes one of IPv6, and fails if IPv4 has it in use.
        let port = Port::claim()?;
        let number = port.number();
        let mut driver =
            Program::spawn(Command::new("chromedriver").arg(format!("--port={number}")))
                .context("needs chromedriver and chromium (Debian: chromium-driver, chromium)")?;
        driver.expect("was started successfully on port")?;
        let agent = Agent::config_builder().http_status_as_error(false);
        let agent = agent.timeout_global(Some(PATIENCE)).build().into();
        let session = format!("http://127.0.0.1:{number}/session");
        let mut browser = Self { _driver: driver, _port: port, agent, session };
        let arguments = json!([
            "--headless=new",
            "--disable-gpu",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            format!("--window-size={width},{height}"),
        ]);
        let wanted = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let wanted = json!({ "capabilities": { "alwaysMatch": wanted } });
        let made = browser.command("", &wanted)?;
        let id = made["sessionId"].as_str().context("no session")?;
        browser.session = format!("{}/{id}", browser.session);
        Ok(browser)
    }

    /// Sends a command, and returns its value.
    fn command(&self, path: &str, body: &Value) -> Result<Value> {
        let url = format!("{}{path}", self.session);
        let mut answer = self.agent.post(&url).send_json(body)?;
        let answer: Value = answer.body_mut().read_json()?;
        let value = &answer["value"];
        ensure!(value["error"].is_null(), "{path}: {} {}", value["error"], value["message"]);
        Ok(value.clone())
    }

    /// Goes to a page.
    pub fn go(&self, url: &str) -> Result<()> {
        self.command("/url", &json!({ "url": url })).map(|_| ())
    }

    /// What a script returns.
    pub fn script(&self, script: &str) -> Result<Value> {
        self.command("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    fn element(&self, id: &str) -> Result<String> {
        let found = format!("#{id}");
        let found = json!({ "using": "css selector", "value": found });
        let found = self.command("/element", &found)?;
        Ok(found[ELEMENT].as_str().context("no element")?.to_owned())
    }

    /// Clicks on an element, as a mouse does.
    pub fn click(&self, id: &str) -> Result<()> {
        let element = self.element(id)?;
        self.command(&format!("/element/{element}/click"), &json!({})).map(|_| ())
    }

    /// Types into an element.
    pub fn keys(&self, id: &str, text: &str) -> Result<()> {
        let element = self.element(id)?;
        self.command(&format!("/element/{element}/value"), &json!({ "text": text })).map(|_| ())
    }

    /// A command of the browser's own protocol.
    pub fn tune(&self, command: &str, parameters: &Value) -> Result<Value> {
        self.command("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// Fails if the page has written anything to the console, errors of its requests included.
    pub fn is_silent(&self) -> Result<()> {
        let console = self.command("/se/log", &json!({ "type": "browser" }))?;
        ensure!(console == json!([]), "{console:#}");
        Ok(())
    }
}

impl Drop for Browser {
    /// The driver ends its browser with the session.
    fn drop(&mut self) {
        let _ = self.agent.delete(&self.session).call();
    }
}

/// A value as text.
pub fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}
