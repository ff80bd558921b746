//! What a page from elsewhere cannot do, and what is left at the end: nothing.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::process::{Backend, PATIENCE, processes};

/// Method, path and headers of a request.
type Attempt<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

#[test]
fn a_page_from_elsewhere_cannot_press_a_button() -> Result<()> {
    let backend = Backend::start()?;
    let ann = backend.find("--name ann")?.context("ann does not run")?;
    let token = ("x-token", backend.token.as_str());
    let own = format!("http://127.0.0.1:{}", backend.port);
    let other_port = "http://127.0.0.1:1".to_owned();
    let kill = "/do/queue-groups/ann/kill";
    let refused: [Attempt; 8] = [
        ("POST", kill, &[]),
        ("POST", kill, &[("x-token", "00000000000000000000000000000000")]),
        ("POST", kill, &[("x-token", "")]),
        ("POST", kill, &[token, ("Origin", "http://example.com")]),
        ("POST", kill, &[token, ("Origin", &other_port)]),
        ("POST", kill, &[token, ("Origin", "null")]),
        ("POST", kill, &[token, ("Host", "example.com")]),
        // A name server can lead another name to this machine: then its pages are of one origin.
        ("GET", "/token", &[("Host", "example.com")]),
    ];
    for (method, path, headers) in refused {
        let (status, body) = backend.request(method, path, headers)?;
        assert_eq!(status, 403, "{method} {path} {headers:?}: {body}");
        assert!(!body.contains(&backend.token), "{body}");
    }
    assert_eq!(backend.find("--name ann")?, Some(ann));
    assert_eq!(backend.request("GET", kill, &[token])?.0, 405);

    let (status, body) = backend.request("POST", kill, &[token, ("Origin", &own)])?;
    assert_eq!(status, 200, "{body}");
    backend.until("--name ann", <[u32]>::is_empty)
}

#[test]
fn what_is_not_in_the_tables_is_refused() -> Result<()> {
    let backend = Backend::start()?;
    for path in [
        "queue-groups/..%2f..%2f..%2fbin%2fsh/start",
        "queue-groups/ann/start%20--help",
        "queue-groups/ann/rm",
        "queue-groups/scene/email",
        "nothing/scene/more",
        "kv/config-admin/start",
        "kv/server/format",
    ] {
        let (status, body) = backend.press(path)?;
        assert_eq!(status, 409, "{path}: {body}");
    }
    Ok(())
}

#[test]
fn the_page_lets_no_other_page_frame_it() -> Result<()> {
    let backend = Backend::start()?;
    let (status, body) = backend.request("GET", "/", &[])?;
    assert_eq!(status, 200);
    // Nothing from outside: no address but that of SVG's namespace.
    for address in body.split("http").skip(1) {
        assert!(address.starts_with("://www.w3.org/2000/svg"), "{address:.60}");
    }
    assert!(body.contains(&backend.token));
    Ok(())
}

/// The folder of the private server, out of its command line.
fn folder(backend: &Backend) -> Result<PathBuf> {
    let started = backend.started()?;
    let server = started.iter().find(|(_, command)| command.contains("nats.conf"));
    let (_, command) = server.context("no nats-server")?;
    let path = command.split(' ').find(|word| word.contains("nats.conf")).context("no path")?;
    Ok(PathBuf::from(path).parent().context("no folder")?.to_owned())
}

fn until_gone(pids: &[(u32, String)], folder: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = processes()?;
        let is_there = |pid: &u32| all.iter().any(|(other, ..)| other == pid);
        let left: Vec<_> = pids.iter().filter(|(pid, _)| is_there(pid)).collect();
        if left.is_empty() && !folder.exists() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "left: {left:?}, {}", folder.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn nothing_is_left_after_kill_9() -> Result<()> {
    let mut backend = Backend::start()?;
    let (started, folder) = (backend.started()?, folder(&backend)?);
    assert!(started.len() > 30, "{started:?}"); // programs, guards, nats-server
    backend.kill()?;
    until_gone(&started, &folder)
}

#[test]
fn nothing_is_left_after_sigterm() -> Result<()> {
    let mut backend = Backend::start()?;
    let (started, folder) = (backend.started()?, folder(&backend)?);
    // A page that is open does not keep it.
    let mut events = backend.events("rpc")?;
    events.until(|sections| sections.contains_key("flows"))?;
    let ended = backend.stop()?;
    ensure!(ended.success(), "{ended:?}");
    until_gone(&started, &folder)
}

#[test]
fn a_taken_port_leads_to_the_next_one() -> Result<()> {
    let taken = TcpListener::bind(("127.0.0.1", 0))?;
    let port = taken.local_addr()?.port();
    let backend = Backend::start_on(port)?;
    assert!(backend.port > port);
    Ok(())
}
