//! What a person can get wrong ends in one clear line, soon, and without a secret in it.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use testkit::{Certificates, Ended, Port, Program, Server};

const HELLO: &str = env!("CARGO_BIN_EXE_hello");
const SECRET: &str = "s3cr3t-w0rd";

fn hello(server: &str, args: &[&str]) -> Command {
    let mut command = testkit::isolated(HELLO);
    command.args(["--server", server]).args(args);
    command
}

/// Runs it, and holds its end against what is true of every failure.
fn fails(command: &mut Command, code: i32, parts: &[&str]) -> Result<Ended> {
    let begun = Instant::now();
    // The most talkative it can be.
    let loud = Program::spawn(command.env("RUST_LOG", "trace"))?.wait()?;
    ensure!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
    ensure!(!loud.stderr.join("\n").contains(SECRET), "told a secret: {:#?}", loud.stderr);

    let ended = Program::spawn(command.env_remove("RUST_LOG"))?.wait()?;
    let said = ended.stderr.join("\n");
    ensure!(ended.code() == Some(code), "{:?} in place of {code}: {said}", ended.status);
    ensure!(ended.stdout.is_empty(), "{:?}", ended.stdout);
    for part in parts {
        ensure!(said.contains(part), "{part:?} is missing in: {said}");
    }
    Ok(ended)
}

fn fails_in_one_line(command: &mut Command, parts: &[&str]) -> Result<()> {
    let ended = fails(command, 1, parts)?;
    ensure!(ended.stderr.len() == 1, "more than one line: {:#?}", ended.stderr);
    Ok(())
}

#[test]
fn no_server() -> Result<()> {
    let port = Port::claim()?;
    let server = format!("nats://127.0.0.1:{}", port.number());
    let parts = [&*server, "refused", "cargo xtask up", "docker compose up -d", "--server"];
    fails_in_one_line(&mut hello(&server, &[]), &parts)?;
    // A secret in the URL stays one.
    let secret = server.replace("//", &format!("//someone:{SECRET}@"));
    fails_in_one_line(&mut hello(&secret, &[]), &parts)
}

#[test]
fn unknown_host() -> Result<()> {
    fails_in_one_line(
        &mut hello("nats://no-such-host.invalid", &[]),
        &["no-such-host.invalid:4222", "host", "--server"],
    )
}

#[test]
fn malformed_url() -> Result<()> {
    for (url, why) in [
        ("http://localhost", "nats://HOST:PORT"),
        ("nats://localhost:99999", "invalid port"),
        ("nats://", "empty host"),
        ("nats://[::1", "invalid IPv6"),
        (",", "no server"),
    ] {
        fails_in_one_line(&mut hello(url, &[]), &[why]).with_context(|| url.to_owned())?;
    }
    let secret = format!("nats://someone:{SECRET}@localhost:99999");
    fails_in_one_line(&mut hello(&secret, &[]), &["invalid port"])
}

#[test]
fn no_nats_server_but_something_else() -> Result<()> {
    let server = Server::start()?;
    fails_in_one_line(&mut hello(&server.mqtt_url().replace("mqtt", "nats"), &[]), &["--server"])
}

#[test]
fn a_server_that_never_answers() -> Result<()> {
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("nats://{}", silent.local_addr()?);
    fails_in_one_line(&mut hello(&url, &[]), &[&url, "no answer"])
}

#[test]
fn told_to_stop_while_it_connects_it_ends_well() -> Result<()> {
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("nats://{}", silent.local_addr()?);
    let mut program = Program::spawn(&mut hello(&url, &[]))?;
    // From here on it waits for the server's first words.
    let _connection = silent.accept()?;
    let ended = program.stop()?;
    assert!(ended.success(), "{ended:?}");
    assert_eq!(ended.stderr, [""; 0]);
    Ok(())
}

#[test]
fn wrong_password() -> Result<()> {
    let server = Server::options()
        .config(r#"authorization { user: someone, password: "p@ss/word" }"#)
        .start()?;
    let url = server.url();
    let parts = [&*url, "refuses these credentials", "--password"];
    fails_in_one_line(&mut hello(&url, &[]), &parts)?;
    fails_in_one_line(&mut hello(&url, &["--user", "someone", "--password", SECRET]), &parts)?;
    fails_in_one_line(
        &mut hello(&url.replace("//", &format!("//someone:{SECRET}@")), &[]),
        &parts,
    )?;

    // The right one: by flag, by environment, in the URL.
    let by_flag = &mut hello(&url, &["--user", "someone", "--password", "p@ss/word"]);
    let by_environment = &mut hello(&url, &[]);
    by_environment.env("NATS_USER", "someone").env("NATS_PASSWORD", "p@ss/word");
    let by_url = &mut hello(&url.replace("//", "//someone:p%40ss%2Fword@"), &[]);
    for command in [by_flag, by_environment, by_url] {
        assert_eq!(Program::spawn(command)?.wait()?.stdout, ["Hello World!"]);
    }
    Ok(())
}

#[test]
fn token() -> Result<()> {
    let server =
        Server::options().config(&format!("authorization {{ token: {SECRET} }}")).start()?;
    let url = server.url();
    fails_in_one_line(&mut hello(&url, &["--token", "other"]), &["refuses these credentials"])?;
    let in_url = &mut hello(&url.replace("//", &format!("//{SECRET}@")), &[]);
    for command in [&mut hello(&url, &["--token", SECRET]), in_url] {
        assert_eq!(Program::spawn(command)?.wait()?.stdout, ["Hello World!"]);
    }
    Ok(())
}

#[test]
fn tls() -> Result<()> {
    let plain = Server::start()?;
    let tls_to_plain = plain.url().replace("nats://", "tls://");
    fails_in_one_line(&mut hello(&tls_to_plain, &[]), &["does not speak TLS", "scheme"])?;

    let certificates = Certificates::new()?;
    let server = Server::options().tls(&certificates.server_config(true)).start()?;
    let ca = certificates.authority();
    let ca = ca.to_str().context("not UTF-8")?;
    // The system knows some authorities, or none at all: this one it cannot know.
    fails_in_one_line(&mut hello(&server.url(), &[]), &["authority", "--tlsca"])?;
    fails_in_one_line(&mut hello(&server.url(), &["--tlsca", ca]), &["--tlscert", "--tlskey"])?;
    fails_in_one_line(
        &mut hello(&server.url(), &["--tlsca", "/no/such.pem"]),
        &["cannot read --tlsca /no/such.pem"],
    )?;
    let other = Certificates::new()?;
    let other = other.authority();
    let other = other.to_str().context("not UTF-8")?;
    fails_in_one_line(
        &mut hello(&server.url(), &["--tlsca", other]),
        &["unknown authority", "--tlsca"],
    )?;

    let mut trusted = with_client_certificate(&server, &certificates);
    assert_eq!(Program::spawn(&mut trusted)?.wait()?.stdout, ["Hello World!"]);
    Ok(())
}

fn with_client_certificate(server: &Server, certificates: &Certificates) -> Command {
    let mut command = hello(&server.url(), &[]);
    command.arg("--tlsca").arg(certificates.authority());
    command.arg("--tlscert").arg(certificates.client());
    command.arg("--tlskey").arg(certificates.client_key());
    command
}

#[test]
fn a_servers_certificate_that_is_not_valid() -> Result<()> {
    for (certificates, says) in [
        (Certificates::expired()?, ["expired", "clock"]),
        (Certificates::for_another_name()?, ["another name", "elsewhere.example"]),
    ] {
        let server = Server::options().tls(&certificates.server_config(false)).start()?;
        let mut command = hello(&server.url(), &[]);
        fails_in_one_line(command.arg("--tlsca").arg(certificates.authority()), &says)?;
    }
    Ok(())
}

#[test]
fn a_client_certificate_that_is_no_users() -> Result<()> {
    let certificates = Certificates::new()?;
    let tls = certificates.server_config(true).replace("verify: true", "verify_and_map: true");
    let users = |name: &str| format!("authorization {{ users: [{{ user: {name} }}] }}");
    // A certificate stands for the user of one of its names.
    let server = Server::options().tls(&tls).config(&users("localhost")).start()?;
    let mut command = with_client_certificate(&server, &certificates);
    assert_eq!(Program::spawn(&mut command)?.wait()?.stdout, ["Hello World!"]);
    let server = Server::options().tls(&tls).config(&users("hello")).start()?;
    let mut command = with_client_certificate(&server, &certificates);
    fails_in_one_line(&mut command, &["refuses these credentials", "--tlscert"])
}

#[test]
fn a_server_that_expects_tls_before_it_says_anything() -> Result<()> {
    let certificates = Certificates::new()?;
    let tls = certificates.server_config(false);
    let first = tls.replace("verify: false", "handshake_first: true");
    let ca = certificates.authority();
    let ca = ca.to_str().context("not UTF-8")?;
    let server = Server::options().tls(&first).start()?;
    // Both wait 2 s for the other one: either gives up first.
    fails_in_one_line(&mut hello(&server.url(), &["--tlsca", ca]), &["--tlsfirst"])?;
    let mut command = hello(&server.url(), &["--tlsca", ca, "--tlsfirst"]);
    assert_eq!(Program::spawn(&mut command)?.wait()?.stdout, ["Hello World!"]);
    // The other way round.
    let server = Server::options().tls(&tls).start()?;
    fails_in_one_line(
        &mut hello(&server.url(), &["--tlsca", ca, "--tlsfirst"]),
        &["does not speak TLS there, or not from the start"],
    )
}

#[test]
fn an_inbox_prefix() -> Result<()> {
    let user =
        "{ user: me, password: secret, permissions: { subscribe: [hello, \"_INBOX.me.>\"] } }";
    let server =
        Server::options().config(&format!("authorization {{ users: [{user}] }}")).start()?;
    let me = ["--user", "me", "--password", "secret"];
    let mut command = hello(&server.url(), &me);
    let ended = Program::spawn(command.args(["--inbox-prefix", "_INBOX.me"]))?.wait()?;
    assert_eq!(ended.stdout, ["Hello World!"], "{:?}", ended.stderr);
    for wrong in ["_INBOX.", "a b", "_INBOX.>", "*"] {
        let mut command = hello(&server.url(), &me);
        command.args(["--inbox-prefix", wrong]);
        fails_in_one_line(&mut command, &["--inbox-prefix", wrong])?;
    }
    Ok(())
}

#[test]
fn unreadable_files() -> Result<()> {
    let server = Server::start()?;
    for flag in ["--creds", "--nkey"] {
        let missing = format!("cannot read {flag} /no/such.file");
        fails_in_one_line(&mut hello(&server.url(), &[flag, "/no/such.file"]), &[&missing])?;
        // A file of another kind, which holds a secret all the same.
        let path = server.folder().join("secret");
        std::fs::write(&path, SECRET)?;
        let path = path.to_str().context("not UTF-8")?;
        fails_in_one_line(&mut hello(&server.url(), &[flag, path]), &[flag, path])?;
    }
    Ok(())
}

#[test]
fn nkey() -> Result<()> {
    let user = KeyPair::new_user();
    let users = format!("authorization {{ users: [{{ nkey: {} }}] }}", user.public_key());
    let server = Server::options().config(&users).start()?;
    let path = server.folder().join("user.nk");
    std::fs::write(&path, format!("{}\n", user.seed()?))?;
    let mut command = hello(&server.url(), &[]);
    let ended = Program::spawn(command.arg("--nkey").arg(&path))?.wait()?;
    assert_eq!(ended.stdout, ["Hello World!"], "{:?}", ended.stderr);
    // Another one, well made.
    std::fs::write(&path, KeyPair::new_user().seed()?)?;
    fails_in_one_line(&mut command, &["refuses these credentials"])
}

#[test]
fn creds() -> Result<()> {
    // An operator vouches for an account, the account for a user: the three documents that the
    // tool `nsc` writes.
    let (operator, account, user) =
        (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let config = format!(
        "operator: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {} }}\n",
        jwt(&operator, &operator, "operator")?,
        account.public_key(),
        jwt(&operator, &account, "account")?,
    );
    // JetStream is an account's to use where its document says so; this one says nothing.
    let server = Server::options().no_jetstream().config(&config).start()?;
    let path = server.folder().join("user.creds");
    let creds = format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        jwt(&account, &user, "user")?,
        user.seed()?
    );
    std::fs::write(&path, creds)?;
    let ended = Program::spawn(hello(&server.url(), &[]).arg("--creds").arg(&path))?.wait()?;
    assert_eq!(ended.stdout, ["Hello World!"], "{:?}", ended.stderr);
    fails_in_one_line(&mut hello(&server.url(), &[]), &["refuses these credentials", "--creds"])
}

/// What `issuer` says about `subject`, signed: a JWT as NATS uses it (ADR-14).
fn jwt(issuer: &KeyPair, subject: &KeyPair, kind: &str) -> Result<String> {
    let header = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
    // Without a word on it, nothing is allowed: to a user here, to an account one level below.
    let limits = r#""subs":-1,"data":-1,"payload":-1"#;
    let limits = format!(r#"{limits},"limits":{{{limits},"conn":-1,"wildcards":true}}"#);
    let (issuer_key, subject_key) = (issuer.public_key(), subject.public_key());
    let claims = format!(
        r#"{{"jti":"1","iat":1,"iss":"{issuer_key}","sub":"{subject_key}","nats":{{"type":"{kind}","version":2,{limits}}}}}"#
    );
    let text = format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(header.as_bytes()),
        BASE64URL_NOPAD.encode(claims.as_bytes())
    );
    let signature = BASE64URL_NOPAD.encode(&issuer.sign(text.as_bytes())?);
    Ok(format!("{text}.{signature}"))
}

#[test]
fn a_bad_flag() -> Result<()> {
    fails(&mut hello("nats://localhost", &["--no-such-flag"]), 2, &["--no-such-flag", "--help"])?;
    fails(&mut hello("nats://localhost", &["--tlscert", "x.pem"]), 2, &["--tlskey"])?;
    Ok(())
}

#[test]
fn an_address_in_the_wrong_place_is_shown_without_its_password() -> Result<()> {
    let address = format!("nats://me:{SECRET}@localhost:4222");
    fails(
        &mut hello("nats://localhost", &[&address]),
        2,
        &["unexpected argument 'nats://localhost:4222'", "--help"],
    )?;
    Ok(())
}

#[test]
fn an_environment_variable_that_is_empty_says_nothing() -> Result<()> {
    let server = Server::start()?;
    let mut command = hello(&server.url(), &[]);
    for name in [
        "USER",
        "PASSWORD",
        "TOKEN",
        "CREDS",
        "NKEY",
        "CA",
        "CERT",
        "KEY",
        "TLSFIRST",
        "INBOX_PREFIX",
    ] {
        command.env(format!("NATS_{name}"), "");
    }
    let ended = Program::spawn(&mut command)?.wait()?;
    assert!(ended.success(), "{ended:?}");
    // Nobody listens at the default address here, or somebody else does.
    let mut elsewhere = testkit::isolated(HELLO);
    let ended = Program::spawn(elsewhere.env("NATS_URL", ""))?.wait()?;
    let named = ended.stderr.iter().any(|line| line.contains("nats://localhost:4222"));
    assert!(ended.success() || named, "{ended:?}");
    Ok(())
}

#[test]
fn help_tells_no_secret() -> Result<()> {
    let mut command = hello("nats://localhost", &["--help"]);
    for name in ["NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_TOKEN", "NATS_CREDS"] {
        command.env(name, SECRET);
    }
    let ended = Program::spawn(&mut command)?.wait()?;
    let help = ended.stdout.join("\n");
    assert!(ended.success() && help.contains("NATS_PASSWORD") && !help.contains(SECRET), "{help}");
    Ok(())
}
