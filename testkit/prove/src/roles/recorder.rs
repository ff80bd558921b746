//! `recorder`: records readings, also those that were sent while it was away.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use async_nats::jetstream;
use testkit::{Server, Signal};

use crate::instance::Instance;
use crate::roles::durable::number;
use crate::roles::readings::{READINGS, SUBJECT, id, reading, store};
use crate::roles::{confirmed, ends, ends_without_nats_server, restarted};
use crate::verdict::{Flaw, shown};
use crate::{Check, Role, Seen, Trial};

const LESSON: &str = "mqtt-bridge/README.md#what-the-service-adds";

/// It has to be ready by then.
const STARTED: Duration = Duration::from_secs(30);

/// What can be recorded has to be recorded by then. A busy machine needs less.
const RECORDED: Duration = Duration::from_secs(20);

/// A reading that was delivered to a program that is dead comes again after `ack_wait`, which is 30 s
/// unless the program says otherwise.
const RECORDED_AGAIN: Duration = Duration::from_secs(45);

/// The role.
pub const ROLE: Role = Role {
    name: "recorder",
    contract: include_str!("../../contracts/recorder.txt"),
    checks: &[
        Check {
            name: "starts",
            claim: "makes the stream and its consumer, and records a reading",
            lesson: LESSON,
            run: starts,
        },
        Check {
            name: "while-it-was-away",
            claim: "records what was sent while it was away",
            lesson: LESSON,
            run: while_it_was_away,
        },
        Check {
            name: "duplicates",
            claim: "a reading that was sent twice is recorded once, also by a recorder started anew",
            lesson: LESSON,
            run: duplicates,
        },
        Check {
            name: "malformed-readings",
            claim: "what is no reading stops nothing, and never comes again",
            lesson: LESSON,
            run: malformed_readings,
        },
        Check {
            name: "killed",
            claim: "killed with -9 and started again: every reading is recorded",
            lesson: LESSON,
            run: killed,
        },
        Check {
            name: "nats-server-restarted",
            claim: "records again within 5 s of nats-server's return",
            lesson: LESSON,
            run: nats_server_restarted,
        },
        Check {
            name: "ends",
            claim: "ends within 5 s of SIGTERM and of SIGINT, with exit code 0",
            lesson: LESSON,
            run: |trial| ends(trial, idle),
        },
        Check {
            name: "ends-without-nats-server",
            claim: "the same while nats-server is away",
            lesson: LESSON,
            run: |trial| {
                ends_without_nats_server(trial, |trial, server| idle(trial, server).map(confirmed))
            },
        },
    ],
};

fn seen() -> Seen {
    Seen::new(|word| word.starts_with("prove-"))
}

/// Starts a copy, and waits until its consumer is there.
fn start(trial: &Trial, server: &Server, seen: &Seen) -> Result<Instance> {
    let mut recorder = trial.launch(server).watched(seen).start()?;
    recorder.wait(STARTED, "the stream readings had a consumer recorder", || {
        Ok((!READINGS.consumer_info(server)?.is_null()).then_some(()))
    })?;
    Ok(recorder)
}

/// Starts a copy that has recorded and acknowledged all there is.
fn idle(trial: &Trial, server: &Server) -> Result<Instance> {
    let seen = seen();
    let mut recorder = start(trial, server, &seen)?;
    let nats = trial.client(server)?;
    trial.block_on(store(&nats, 1..=1))?;
    recorder.wait(STARTED, "it had recorded and acknowledged a reading", || {
        let info = READINGS.consumer_info(server)?;
        let is_idle = number(&info, "/ack_floor/stream_seq") > 0
            && number(&info, "/num_ack_pending") + number(&info, "/num_pending") == 0;
        Ok(is_idle.then_some(()))
    })?;
    Ok(recorder)
}

fn starts(trial: &Trial) -> Result<String> {
    let server = trial.server()?;
    let begun = Instant::now();
    idle(trial, &server)?;
    Ok(format!("a reading acknowledged after {}", shown(begun.elapsed())))
}

fn ids(numbers: RangeInclusive<u64>) -> Vec<String> {
    numbers.map(id).collect()
}

fn while_it_was_away(trial: &Trial) -> Result<String> {
    const AWAY: u64 = 100;
    let (server, seen) = (trial.server()?, seen());
    let mut recorder = start(trial, &server, &seen)?;
    recorder.signal(Signal::TERM);
    let end = recorder.ends_well(("SIGTERM", Instant::now()));
    recorder.kill();
    let nats = trial.client(&server)?;
    trial.block_on(store(&nats, 1..=AWAY))?;
    let mut recorder = start(trial, &server, &seen)?;
    let (missing, _) = READINGS.handled(&server, &mut recorder, &seen, &ids(1..=AWAY), RECORDED)?;
    if missing > 0 {
        bail!(
            Flaw::new(format!("{missing} of {AWAY} readings were not recorded"))
                .did(format!("It was stopped, {AWAY} readings were sent, and it was started again."))
                .saw(recorder.end()?.unwrap_or_else(|| "It runs.".into()))
                .likely("A plain subscriber gets what is sent while it is there. A stream keeps the readings, and a durable consumer the position.")
        );
    }
    end?;
    Ok(format!("{AWAY} of {AWAY} readings"))
}

fn duplicates(trial: &Trial) -> Result<String> {
    let (server, seen) = (trial.server()?, seen());
    let mut recorder = start(trial, &server, &seen)?;
    let nats = trial.client(&server)?;
    let jetstream = jetstream::new(nats.clone());
    let again = |number: u64| {
        let reading = reading(&id(number), 1, 1_790_000_000_000);
        trial.block_on(async {
            jetstream.publish(SUBJECT, reading.into()).await?.await?;
            anyhow::Ok(())
        })
    };
    trial.block_on(store(&nats, 1..=20))?;
    for number in 1..=10 {
        again(number)?;
    }
    trial.block_on(store(&nats, 21..=21))?;
    let (missing, repeated) =
        READINGS.handled(&server, &mut recorder, &seen, &ids(1..=21), RECORDED)?;
    recorder.signal(Signal::TERM);
    let _ = recorder.ends_well(("SIGTERM", Instant::now()));
    recorder.kill();
    for number in 11..=20 {
        again(number)?;
    }
    trial.block_on(store(&nats, 22..=22))?;
    let mut recorder = start(trial, &server, &seen)?;
    let (missing_later, _) =
        READINGS.handled(&server, &mut recorder, &seen, &ids(22..=22), RECORDED)?;
    let (_, repeated_later) =
        READINGS.handled(&server, &mut recorder, &seen, &ids(1..=22), Duration::ZERO)?;
    if missing + missing_later + repeated_later > 0 {
        bail!(
            Flaw::new(format!("{repeated_later} of 20 readings were recorded twice"))
                .did("Ten readings came a second time while it ran, ten when it had been started again.")
                .saw(format!("{repeated} were recorded twice while it ran, {} after its start; {} were not recorded. {}", repeated_later - repeated, missing + missing_later, recorder.end()?.unwrap_or_else(|| "It runs.".into())))
                .likely("QoS 1 means at least once: a sensor sends a reading again if it does not hear that it arrived. Sensor id, sequence number and time together name a reading; remember those of the last readings, and look at the stream's end at the start.")
        );
    }
    Ok("0 of 20 recorded twice".into())
}

fn malformed_readings(trial: &Trial) -> Result<String> {
    const MALFORMED: [&[u8]; 6] =
        [b"", b"21.5", b"{", b"null", b"\xff\xfe\0", br#"{"sensor_id":"prove","seq":"one"}"#];
    let (server, seen) = (trial.server()?, seen());
    let mut recorder = start(trial, &server, &seen)?;
    let nats = trial.client(&server)?;
    let jetstream = jetstream::new(nats.clone());
    for (n, malformed) in (1..).zip(MALFORMED) {
        trial.block_on(async {
            jetstream.publish(SUBJECT, malformed.to_vec().into()).await?.await?;
            store(&nats, n..=n).await
        })?;
    }
    let good = MALFORMED.len() as u64;
    let (missing, _) = READINGS.handled(&server, &mut recorder, &seen, &ids(1..=good), RECORDED)?;
    let limit = Duration::from_secs(5);
    let (left, again) = READINGS.unacknowledged_and_redelivered(&server, limit)?;
    if missing > 0 || left + again > 0 {
        bail!(
            Flaw::new(format!("{missing} of {good} readings not recorded, {left} messages unacknowledged, {again} redelivered"))
                .did(format!("{good} readings were sent, and a message that is no reading before each."))
                .saw(recorder.end()?.unwrap_or_else(|| "It runs.".into()))
                .likely("An error that leaves the loop ends the program; a message that is never acknowledged comes again. Terminate what can never be recorded, and report it.")
        );
    }
    Ok(format!("{good} of {good} readings recorded, {good} messages terminated"))
}

fn killed(trial: &Trial) -> Result<String> {
    const COUNT: u64 = 3_000;
    let (server, seen) = (trial.server()?, seen());
    start(trial, &server, &seen)?.kill();
    let nats = trial.client(&server)?;
    trial.block_on(store(&nats, 1..=COUNT))?;
    for kill in 1..=3 {
        let mut recorder = start(trial, &server, &seen)?;
        recorder.wait(RECORDED_AGAIN, "it had recorded some readings", || {
            Ok((seen.count() > kill * 200).then_some(()))
        })?;
        recorder.kill();
    }
    let mut recorder = start(trial, &server, &seen)?;
    let (missing, repeated) =
        READINGS.handled(&server, &mut recorder, &seen, &ids(1..=COUNT), RECORDED_AGAIN)?;
    if missing > 0 {
        bail!(
            Flaw::new(format!("{missing} of {COUNT} readings were never recorded"))
                .did(format!("{COUNT} readings were sent. Three times it was killed with -9, and started again."))
                .saw(recorder.end()?.unwrap_or_else(|| "It runs.".into()))
                .likely("A reading that is acknowledged before it is recorded is lost if the program dies in between.")
        );
    }
    Ok(format!("0 of {COUNT} readings lost in 3 kills, {repeated} recorded again"))
}

fn nats_server_restarted(trial: &Trial) -> Result<String> {
    let back = Duration::from_secs(5);
    let (mut server, seen) = (trial.server()?, seen());
    let mut recorder = start(trial, &server, &seen)?;
    let mut longest = Duration::ZERO;
    for turn in 1..=2 {
        let begun = restarted(&mut server)?;
        let nats = trial.client(&server)?;
        trial.block_on(store(&nats, turn * 10..=turn * 10 + 9))?;
        let (missing, _) = READINGS.handled(
            &server,
            &mut recorder,
            &seen,
            &ids(turn * 10..=turn * 10 + 9),
            back,
        )?;
        if missing > 0 {
            bail!(
                Flaw::new(format!("{missing} of 10 readings not recorded {} after nats-server's return", shown(begun.elapsed())))
                    .did("nats-server was killed, started again 1 s later, and 10 readings were sent.")
                    .saw(recorder.end()?.unwrap_or_else(|| "It runs.".into()))
                    .likely("The client library has stopped reconnecting, or its request for readings was lost with nats-server and is not sent again.")
            );
        }
        longest = longest.max(begun.elapsed());
    }
    Ok(format!("10 readings recorded within {}, twice", shown(longest)))
}
