//! Programs that behave badly get a verdict, and leave nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use prove::{Candidate, Flaw, Instance, Trial};
use testkit::{Server, Signal};

/// Starts a shell script as a candidate. Its output is kept in a folder of this name.
fn start(name: &str, script: &str) -> Result<(Instance, PathBuf)> {
    let server = Server::start()?.quiet();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let script = script.replace("FOLDER", &folder.display().to_string());
    let trial = Trial::new(&Candidate::new(["/bin/sh", "-c", &script])?, &folder, 1)?;
    Ok((trial.launch(&server).start()?, folder))
}

/// Waits for what never comes, and returns what is wrong.
fn flaw(instance: &mut Instance, limit: Duration) -> Result<Flaw> {
    let waited = instance.wait(limit, "it did something", || Ok(None::<()>));
    waited.err().context("it came")?.downcast()
}

/// Waits until a process has ended whose id is in this file.
fn is_gone(file: &Path) -> Result<()> {
    let pid = fs::read_to_string(file).with_context(|| format!("no {}", file.display()))?;
    let process = Path::new("/proc").join(pid.trim());
    let deadline = Instant::now() + Duration::from_secs(20);
    while process.exists() {
        ensure!(Instant::now() < deadline, "{pid} runs");
        std::thread::yield_now();
    }
    Ok(())
}

#[test]
fn a_program_that_ends_at_once_is_told_how() -> Result<()> {
    let (mut instance, _) = start("ends", "echo no such module >&2; exit 3")?;
    let flaw = flaw(&mut instance, Duration::from_secs(20))?;
    assert_eq!(flaw.figure, "it ended before it did something");
    assert!(flaw.saw.contains("exited with code 3"), "{flaw}");
    assert!(flaw.saw.contains("`no such module`"), "{flaw}");
    Ok(())
}

#[test]
fn output_without_end_is_read_and_a_part_of_it_kept() -> Result<()> {
    for (name, script) in [
        ("lines", "yes & yes no >&2"),
        ("one-line", "cat /dev/zero"),
        ("binary", "cat /dev/urandom"),
    ] {
        let (mut instance, folder) = start(name, script)?;
        let flaw = flaw(&mut instance, Duration::from_secs(1))?;
        assert_eq!(flaw.figure, "1.0 s went by before it did something");
        drop(instance);
        let kept = fs::metadata(folder.join("copy-1.txt"))?.len();
        // A byte that is no text becomes three.
        assert!((1..64 << 20).contains(&kept), "{name}: {kept} bytes");
    }
    Ok(())
}

#[test]
fn a_program_that_ignores_signals_is_killed_after_a_while() -> Result<()> {
    let script = "trap '' TERM INT; echo $$ > FOLDER/pid; while :; do sleep 0.1; done";
    let (mut instance, folder) = start("ignores", script)?;
    instance.wait(Duration::from_secs(20), "it had its trap", || {
        Ok(folder.join("pid").exists().then_some(()))
    })?;
    instance.signal(Signal::TERM);
    let ended = instance.ends_well(("SIGTERM", Instant::now()));
    let flaw = ended.err().context("it ended well")?.downcast::<Flaw>()?;
    assert_eq!(flaw.figure, "it runs on after SIGTERM");
    drop(instance);
    is_gone(&folder.join("pid"))
}

#[test]
#[cfg(target_os = "linux")]
fn a_process_that_leaves_its_group_is_found_and_killed() -> Result<()> {
    let script = "setsid sh -c 'echo $$ > FOLDER/pid; exec sleep 1000' & \
                  while [ ! -s FOLDER/pid ]; do sleep 0.01; done; exit 0";
    let (mut instance, folder) = start("forks", script)?;
    let ended = instance.ends_well(("nothing", Instant::now()));
    let flaw = ended.err().context("it ended well")?.downcast::<Flaw>()?;
    assert_eq!(flaw.figure, "it leaves 1 processes behind");
    is_gone(&folder.join("pid"))
}
