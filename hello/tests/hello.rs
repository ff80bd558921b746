//! `hello` against a real server.

use anyhow::Result;
use testkit::{Lesson, Program, Server};

const HELLO: &str = env!("CARGO_BIN_EXE_hello");

#[test]
fn it_prints_its_own_message_and_nothing_else() -> Result<()> {
    let server = Server::start()?;
    let ended = Program::spawn(&mut server.command(HELLO))?.wait()?;
    assert!(ended.success());
    assert_eq!(ended.stdout, ["Hello World!"]);
    assert_eq!(ended.stderr, [""; 0]);
    Ok(())
}

#[test]
fn the_readme_is_true() -> Result<()> {
    Lesson::read(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"))?.check()
}
