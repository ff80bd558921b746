//! `cargo xtask up`: a server in the foreground.

pub mod cluster;
mod console;
pub mod edge;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anstream::println;
use anyhow::{Context, Result, bail, ensure};

use secured::{Credentials, Form, Secured, Stage, credentials};
use testkit::Ports;

use crate::workspace::root;

/// As in `nats-server.conf`.
const PORTS: [(u16, &str); 3] = [(4222, "NATS"), (1883, "MQTT"), (8222, "monitoring")];

/// Becomes the server, so that Ctrl-C and SIGTERM reach it directly.
pub fn run(data: Option<PathBuf>, fresh: bool) -> Result<()> {
    let server = testkit::nats_server()?;
    let data = data.unwrap_or_else(|| root().join("target/nats-server"));
    let state = prepare(&data, fresh, &PORTS)?;
    println!("NATS         nats://localhost:4222");
    println!("MQTT         mqtt://localhost:1883");
    println!("monitoring   http://localhost:8222");
    println!("data         {}, {state}", data.display());
    println!("Now, in another terminal (Ctrl-C ends the server):\n");
    for (variable, port) in [("NATS_URL", 4222), ("MQTT_URL", 1883)] {
        let hosts = [format!("localhost:{port}"), format!("127.0.0.1:{port}")];
        let is_this = |url: &str| hosts.iter().any(|host| url.ends_with(host));
        if std::env::var(variable).is_ok_and(|url| !is_this(&url)) {
            println!("    unset {variable}    # it names another server");
        }
    }
    println!("    cargo run -p hello\n");
    let mut server = Command::new(server);
    server.arg("--config").arg(root().join("nats-server.conf")).arg("--store_dir").arg(data);
    bail!("cannot run nats-server: {}", server.exec())
}

/// The ports of a server with TLS: those that clients expect.
const SECURE: Ports = Ports { nats: 4222, mqtt: 8883, monitoring: 8222 };

/// Understands three ports: NATS, MQTT, monitoring.
pub fn ports(text: &str) -> Result<Ports> {
    let ports = text.split(',').map(str::parse).collect::<Result<Vec<u16>, _>>()?;
    let [nats, mqtt, monitoring] = ports[..] else { bail!("expected three ports") };
    Ok(Ports { nats, mqtt, monitoring })
}

/// Becomes a server with users, certificates and permissions, which are made if there are none.
pub fn run_secure(
    data: Option<PathBuf>,
    fresh: bool,
    stage: Stage,
    creds: bool,
    ports: &[Ports],
) -> Result<()> {
    let server = testkit::nats_server()?;
    let ports = ports.first().copied().unwrap_or(SECURE);
    let (folder, form) =
        if creds { ("target/creds", Form::Jwt) } else { ("target/secure", Form::Configuration) };
    let data = std::path::absolute(data.unwrap_or_else(|| root().join(folder)))?;
    let configuration = data.join(match (creds, stage) {
        (true, Stage::Accounts) => credentials::FILE,
        (true, _) => bail!("--creds has an account for each experiment: leave out the stage"),
        (false, stage) => stage.file(),
    });
    let taken = [(ports.nats, "NATS"), (ports.mqtt, "MQTT"), (ports.monitoring, "monitoring")];
    let kept = prepare(&data, fresh, &taken)?;
    // Written last: what is yours to edit is never written again.
    if !data.join(secured::SERVER).exists() {
        if creds {
            Credentials::create(&data)?.configure(ports)?;
        } else {
            Secured::create(&data)?.configure(ports)?;
        }
    }
    ensure!(
        configuration.exists(),
        "{} is not there: name another folder with --data, or delete this one to begin anew",
        configuration.display()
    );
    println!("NATS           tls://localhost:{}", ports.nats);
    println!("MQTT           mqtts://localhost:{}", ports.mqtt);
    println!("monitoring     https://localhost:{}", ports.monitoring);
    println!("data           {}, {kept}", data.display());
    println!("configuration  {}, yours to edit", configuration.display());
    println!(
        "Now, in another terminal, the line of the program that you run (Ctrl-C ends the server):"
    );
    let mut names = BTreeSet::new();
    for (account, user) in secured::access::users() {
        let secret = data.join(secured::secret_file(user, form));
        let variables = secured::environment(&data, user, form, ports)?;
        names.extend(variables.iter().map(|(name, _)| *name));
        let words = variables.iter().map(|(name, value)| match *name {
            // No secret on the screen.
            "MQTT_PASSWORD" => format!("{name}=\"$(cat '{}')\"", secret.display()),
            _ if value.contains(' ') => format!("{name}='{value}'"),
            _ => format!("{name}={value}"),
        });
        let words: Vec<_> = words.collect();
        println!("\n# {} in {}\nexport {}", user.name, account.name, words.join(" "));
    }
    let names: Vec<_> = names.into_iter().collect();
    println!("\n# back to a server without users\nunset {}\n", names.join(" "));
    let mut server = Command::new(server);
    server.arg("--config").arg(configuration).arg("--store_dir").arg(data);
    bail!("cannot run nats-server: {}", server.exec())
}

/// Makes sure that the server can start on `ports` and keep its data in the folder `data`, which
/// is emptied if it is to be `fresh`. Returns what there is in the folder, in a few words.
fn prepare(data: &Path, fresh: bool, ports: &[(u16, &str)]) -> Result<&'static str> {
    let store = data.join("jetstream");
    let is_there = store.symlink_metadata().is_ok();
    if is_there && fresh {
        let is_store = is_store(&store).with_context(|| format!("cannot read {}", store.display()));
        ensure!(
            is_store?,
            "--fresh would delete {}, which is not a store of nats-server: delete it yourself, or \
             name another folder with --data",
            store.display()
        );
    }
    // The server itself would also say that, in its log, but not what to do.
    for (port, what) in ports {
        ensure!(
            TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_err(),
            "port {port} ({what}) is taken: perhaps a server runs already; use it, or stop it first"
        );
    }
    if is_there && fresh {
        fs::remove_dir_all(&store).with_context(|| format!("cannot delete {}", store.display()))?;
    }
    fs::create_dir_all(data).with_context(|| format!("cannot keep data in {}", data.display()))?;
    Ok(match (is_there, fresh) {
        (true, true) => "emptied",
        (true, false) => "kept from before (--fresh empties it)",
        (false, _) => "empty",
    })
}

/// Whether `folder` looks as nats-server leaves its store: a folder for each account, which has
/// nothing but the folders `streams` and `_js_`, and only folders in those. Nothing is a link.
fn is_store(folder: &Path) -> Result<bool> {
    let is_folder = |path: &Path| Ok::<_, anyhow::Error>(path.symlink_metadata()?.is_dir());
    if !is_folder(folder)? {
        return Ok(false);
    }
    for account in entries(folder)? {
        if !is_folder(&account)? {
            return Ok(false);
        }
        for part in entries(&account)? {
            let is_known = part.ends_with("streams") || part.ends_with("_js_");
            if !is_known || !is_folder(&part)? {
                return Ok(false);
            }
            for stream in entries(&part)? {
                if !is_folder(&stream)? {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let paths = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    Ok(paths.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use testkit::{Port, Server};

    use super::*;

    /// A store in which nats-server keeps a stream and a consumer: the folder that it was given,
    /// and the server, which has stopped.
    fn stored() -> Result<(PathBuf, Server)> {
        let mut server = Server::start()?;
        let mut stream = TcpStream::connect(("127.0.0.1", server.port()))?;
        let kept = r#"{"name":"kept","subjects":["kept"]}"#;
        let durable =
            r#"{"stream_name":"kept","config":{"durable_name":"d","ack_policy":"explicit"}}"#;
        write!(stream, "CONNECT {{\"verbose\":false}}\r\nSUB answer 1\r\n")?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        for (subject, payload) in [
            ("$JS.API.STREAM.CREATE.kept", kept),
            ("$JS.API.CONSUMER.DURABLE.CREATE.kept.d", durable),
            ("kept", "one"),
        ] {
            write!(stream, "PUB {subject} answer {}\r\n{payload}\r\n", payload.len())?;
            let answer = lines.by_ref().map_while(Result::ok);
            let answer = answer.into_iter().find(|line| line.starts_with('{'));
            let answer = answer.context("no answer")?;
            ensure!(!answer.contains("\"error\""), "{answer}");
        }
        server.stop()?;
        Ok((server.folder().join("store"), server))
    }

    #[test]
    fn fresh_empties_what_a_server_has_stored_and_nothing_else() -> Result<()> {
        let (data, _server) = stored()?;
        let (other, stream) = (data.join("other"), data.join("jetstream/$G/streams/kept"));
        fs::write(&other, "")?;
        assert_eq!(prepare(&data, false, &[])?, "kept from before (--fresh empties it)");
        assert!(stream.exists());
        assert_eq!(prepare(&data, true, &[])?, "emptied");
        assert!(!data.join("jetstream").exists() && other.exists());
        assert_eq!(prepare(&data, true, &[])?, "empty");
        Ok(())
    }

    #[test]
    fn a_folder_that_is_not_there_is_made() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("a/b");
        assert_eq!(prepare(&data, true, &[])?, "empty");
        assert!(data.is_dir());
        Ok(())
    }

    #[test]
    fn a_port_that_is_taken_is_named_and_nothing_is_deleted() -> Result<()> {
        let (data, _server) = stored()?;
        let port = Port::claim()?;
        let _taken = TcpListener::bind(("127.0.0.1", port.number()))?;
        let error = prepare(&data, true, &[(port.number(), "NATS")]).err();
        let error = error.context("it was prepared")?.to_string();
        let expected = format!("port {} (NATS) is taken", port.number());
        assert!(error.contains(&expected), "{error}");
        assert!(data.join("jetstream/$G/streams/kept/meta.inf").exists());
        Ok(())
    }

    #[test]
    fn what_is_not_a_store_is_never_deleted() -> Result<()> {
        // The first resembles this repository, whose crate `jetstream` would be gone.
        let folder = tempfile::tempdir()?;
        let (data, server) = stored()?;
        let [one, two, three, four] =
            ["one", "two", "three", "four"].map(|name| folder.path().join(name));
        fs::create_dir_all(one.join("jetstream/src/streams"))?;
        fs::write(one.join("jetstream/Cargo.toml"), "")?;
        fs::create_dir_all(two.join("jetstream/src/bin"))?;
        fs::create_dir_all(&three)?;
        symlink(data.join("jetstream"), three.join("jetstream"))?;
        fs::create_dir_all(four.join("jetstream/$G"))?;
        symlink(data.join("jetstream/$G/streams"), four.join("jetstream/$G/streams"))?;
        for data in [one, two, three, four] {
            let error = prepare(&data, true, &[]).err().context("it was emptied")?;
            assert!(error.to_string().contains("is not a store of nats-server"), "{error:#}");
            assert!(data.join("jetstream").exists(), "{}", data.display());
        }
        assert!(server.folder().join("store/jetstream/$G/streams/kept/meta.inf").exists());
        Ok(())
    }
}
