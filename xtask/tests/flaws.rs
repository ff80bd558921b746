//! Checks that no first version and no exercise fails: each has a program that does, for a stated
//! reason. So there is no check that cannot fail.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use course::EXERCISES;
use prove::{Candidate, Plan, Verdict};
use testkit::example;

use crate::common::{in_parallel, root};

/// Role, flaw, the check that fails, and what its figure says.
const FLAWS: &[(&str, &str, &str, &str)] = &[
    ("log-worker", "ends", "starts", "it ended before it subscribed to logs.process"),
    ("log-worker", "buffers", "killed", "of 1000 afterwards"),
    ("log-worker", "never-reconnects", "nats-server-restarted", "it ended with the connection"),
    ("math-client", "multiplies", "starts", "17 + 25 is not said to be 42"),
    ("math-server", "ends", "starts", "it ended before it subscribed to math.sum"),
    ("math-server", "adds-in-floats", "right-answers", "of 9 sums"),
    (
        "math-server",
        "needs-a-reply-subject",
        "no-reply-subject",
        "messages without a reply subject",
    ),
    ("math-server", "no-group", "shares-requests", "requests got"),
    ("math-server", "never-reconnects", "nats-server-restarted", "it ended with the connection"),
    ("math-server", "impatient", "slow-link", "replies in"),
    ("math-server", "impatient", "cut-link", "replies in"),
    ("order-publisher", "silent", "starts", "10 of 10 orders are stored, 0 were reported"),
    ("order-consumer", "ends", "starts", "it ended before it had taken and acknowledged an order"),
    ("order-consumer", "only-new", "history-first", "orders were taken"),
    ("order-consumer", "never-reconnects", "nats-server-restarted", "orders not taken"),
    ("config-app", "ends", "starts", "its last line says nothing, and the value is on"),
    ("config-app", "asks-now-and-then", "every-change", "of 100 changes were printed"),
    ("config-app", "not-false-is-on", "neither-value", "the value \"maybe\" does not turn it off"),
    ("config-admin", "other-words", "starts", "0 of 2 values that were written"),
    ("sensor", "counts-from-zero", "starts", "10 of 10 readings arrived as they have to be"),
    ("recorder", "ends", "starts", "it ended before"),
    ("recorder", "plain-subscriber", "while-it-was-away", "100 of 100 readings were not recorded"),
    ("recorder", "remembers-nothing", "duplicates", "20 of 20 readings were recorded twice"),
    ("recorder", "stumbles", "malformed-readings", "readings not recorded"),
    ("recorder", "acknowledges-first", "killed", "readings were never recorded"),
    ("recorder", "never-reconnects", "nats-server-restarted", "of 10 readings not recorded"),
    ("recorder", "no-handler", "ends", "the signal itself ends it"),
    (
        "recorder",
        "flushes-without-limit",
        "ends-without-nats-server",
        "it runs on after SIGTERM while nats-server was away",
    ),
    ("job-worker", "ends", "starts", "it ended before it had done and acknowledged a job"),
    ("job-worker", "only-emails", "does-jobs", "40 messages stay in the queue"),
    ("job-worker", "nak-at-once", "pauses", "a job that failed was tried again after"),
    ("job-worker", "reports-nothing", "long-job", "times while it ran"),
    ("job-worker", "looks-before-only", "frozen", "1 of 1 jobs were done twice"),
    ("job-worker", "never-reconnects", "nats-server-restarted", "it ended with the connection"),
];

fn verdict(role: &str, flaw: &str, check: &str) -> Result<Verdict> {
    let role = prove::role(role).context("no such role")?;
    let check = role.checks.iter().find(|it| it.name == check).context("no such check")?;
    let folder = format!("{}/{}-{flaw}-{}", env!("CARGO_TARGET_TMPDIR"), role.name, check.name);
    let plan = Plan { checks: vec![check], seed: 1, folder: folder.into() };
    let program = example("flawed");
    let words = [program.as_os_str(), role.name.as_ref(), flaw.as_ref()];
    prove::run(&plan, &Candidate::new(words)?, |_| ())?.pop().context("no verdict")
}

fn are_found(role: &str) -> Result<()> {
    let flaws = FLAWS.iter().filter(|(it, ..)| *it == role);
    in_parallel(flaws, |(_, flaw, check, reason)| {
        let verdict = verdict(role, flaw, check)?;
        let is_found = !verdict.holds() && verdict.figure().contains(reason);
        ensure!(is_found, "{role} {flaw} {check}: {verdict:#?}");
        Ok(())
    })
}

macro_rules! roles {
    ($($test:ident: $role:literal,)*) => {
        $(
            #[test]
            fn $test() -> Result<()> {
                are_found($role)
            }
        )*

        const ROLES: &[&str] = &[$($role),*];
    };
}

roles! {
    flaws_of_a_log_worker: "log-worker",
    flaws_of_a_math_client: "math-client",
    flaws_of_a_math_server: "math-server",
    flaws_of_an_order_publisher: "order-publisher",
    flaws_of_an_order_consumer: "order-consumer",
    flaws_of_a_config_app: "config-app",
    flaws_of_a_config_admin: "config-admin",
    flaws_of_a_sensor: "sensor",
    flaws_of_a_recorder: "recorder",
    flaws_of_a_job_worker: "job-worker",
}

/// The same programs, without the flaw, hold those checks: what fails is the flaw.
#[test]
fn without_its_flaw_a_program_holds_the_check() -> Result<()> {
    let holds = |(role, checks): &(&str, &[&str])| {
        checks.iter().try_for_each(|check| {
            let verdict = verdict(role, "none", check)?;
            ensure!(verdict.holds(), "{role} {check}: {verdict:#?}");
            Ok(())
        })
    };
    let sound: [(&str, &[&str]); 8] = [
        ("log-worker", &["nats-server-restarted"]),
        ("math-server", &["right-answers", "no-reply-subject", "shares-requests", "cut-link"]),
        ("order-publisher", &["starts"]),
        ("order-consumer", &["history-first", "nats-server-restarted"]),
        ("config-app", &["every-change", "neither-value"]),
        ("sensor", &["starts"]),
        (
            "recorder",
            &[
                "while-it-was-away",
                "malformed-readings",
                "killed",
                "nats-server-restarted",
                "ends",
                "ends-without-nats-server",
            ],
        ),
        ("job-worker", &["does-jobs", "pauses", "long-job", "frozen", "nats-server-restarted"]),
    ];
    in_parallel(sound.iter(), holds)
}

/// The rows of PROVE.md: a role, the checks that its first version fails, and the test's file.
fn rows() -> Result<Vec<(String, BTreeSet<String>, String)>> {
    let text = fs::read_to_string(root().join("PROVE.md"))?;
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `first-"));
    let rows = rows.map(|row| {
        let (role, rest) = row.split_once('`').context("no role")?;
        let mut cells = rest.split('|').skip(1);
        let checks = cells.next().context("no checks")?.split('`').skip(1).step_by(2);
        let link = cells.next().and_then(|cell| Some(cell.split_once('[')?.1.split_once(']')?.0));
        let checks = checks.map(str::to_owned).collect();
        Ok((role.to_owned(), checks, link.context("no test")?.to_owned()))
    });
    rows.collect()
}

#[test]
fn the_table_of_first_versions_says_what_their_tests_say() -> Result<()> {
    for (role, checks, test) in rows()? {
        let text = fs::read_to_string(root().join(test))?;
        let name = format!("fn first_{}_fails_these_checks()", role.replace('-', "_"));
        let (_, body) = text.split_once(&name).context(name)?;
        let (body, _) = body
            .split_once(
                "
}
",
            )
            .context("no end")?;
        let quoted: BTreeSet<_> = body.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        let others = [role.clone(), format!("first-{role}"), "{failing:#?}".to_owned()];
        let listed: BTreeSet<_> = quoted.into_iter().filter(|it| !others.contains(it)).collect();
        assert_eq!(listed, checks, "first-{role}");
    }
    Ok(())
}

/// Each check fails for a first version, as PROVE.md lists them, for an exercise, or for a program
/// of this file.
#[test]
fn no_check_exists_that_cannot_fail() -> Result<()> {
    let rows = rows()?;
    let of_row = rows
        .iter()
        .flat_map(|(role, checks, _)| checks.iter().map(|check| (role.as_str(), check.as_str())));
    let mut failed: BTreeSet<_> = of_row.collect();
    for exercise in EXERCISES {
        failed.extend(exercise.checks.last().map(|check| (exercise.role, *check)));
    }
    failed.extend(FLAWS.iter().map(|(role, _, check, _)| (*role, *check)));
    for role in prove::roles() {
        for check in role.checks {
            ensure!(failed.contains(&(role.name, check.name)), "{} {}", role.name, check.name);
        }
    }
    let tested: BTreeSet<&str> = FLAWS.iter().map(|(role, ..)| *role).collect();
    assert_eq!(tested, ROLES.iter().copied().collect());
    Ok(())
}
