//! What the lesson of each program needs, as its user.

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream;
use tokio::runtime::Runtime;

use crate::support::{Playground, stop};

/// Plays the lesson of a user's program; the other programs of the lesson run as their own users.
pub fn play(playground: &mut Playground, user: &str) -> Result<()> {
    match user {
        "hello" => hello(playground),
        "log-publisher" | "log-worker" => logs(playground),
        "math-server" | "math-client" => math(playground, "math-server"),
        "math-service" => math(playground, "math-service"),
        "order-publisher" | "order-consumer" => orders(playground),
        "config-admin" | "config-app" => config(playground),
        "sensor-1" | "backend" | "device-admin" | "recorder" => plant(playground),
        "job-submit" | "job-worker" | "job-admin" => jobs(playground),
        _ => bail!("{user} has no lesson"),
    }
}

fn hello(playground: &Playground) -> Result<()> {
    let ended = playground.run("hello", "")?;
    ensure!(ended.stdout == ["Hello World!"], "{ended:?}");
    Ok(())
}

fn logs(playground: &Playground) -> Result<()> {
    let mut worker = playground.start_program("log-worker", "", "waiting")?;
    playground.run("log-publisher", "--count 3")?;
    worker.expect("log 3")?;
    stop(worker)?;
    Ok(())
}

fn math(playground: &Playground, server: &str) -> Result<()> {
    let running = playground.start_program(server, "", "waiting")?;
    let ended = playground.run("math-client", "17 25")?;
    ensure!(ended.stdout == ["17 + 25 = 42"], "{ended:?}");
    if server == "math-service" {
        Runtime::new()?.block_on(async {
            let client = playground.bystander("MATH").await?;
            for subject in ["$SRV.PING", "$SRV.INFO.math", "$SRV.STATS"] {
                client.request(subject, "".into()).await.context(subject)?;
            }
            let info = client.request("$SRV.INFO.math", "".into()).await?;
            let info = String::from_utf8_lossy(&info.payload);
            let id = info.split("\"id\":\"").nth(1).and_then(|rest| rest.split('"').next());
            let subject = format!("$SRV.PING.math.{}", id.context("no id")?);
            client.request(subject, "".into()).await?;
            anyhow::Ok(())
        })?;
    }
    stop(running)?;
    Ok(())
}

fn orders(playground: &Playground) -> Result<()> {
    playground.run("order-publisher", "--count 3")?;
    // The stream is there already.
    playground.run("order-publisher", "--count 2")?;
    playground.run("order-consumer", "--limit 2")?;
    // So is the consumer.
    let ended = playground.run("order-consumer", "--limit 3")?;
    ensure!(ended.stdout.len() >= 3, "{ended:?}");
    Runtime::new()?.block_on(async {
        let client = playground.bystander("ORDERS").await?;
        let stream = jetstream::new(client).get_stream("playgrnd_stream").await?;
        let info = stream.consumer_info("order_processor").await?;
        ensure!((info.num_pending, info.num_ack_pending) == (0, 0), "{info:?}");
        anyhow::Ok(())
    })
}

fn config(playground: &mut Playground) -> Result<()> {
    let mut app = playground.start_program("config-app", "", "waiting for the bucket")?;
    playground.run("config-admin", "set true")?;
    app.expect("on")?;
    playground.run("config-admin", "--cycles 1 --interval 10ms")?;
    app.expect("off")?;
    app.expect("on")?;
    let ended = playground.run("config-admin", "history")?;
    ensure!(ended.stdout.len() == 3, "{ended:?}");
    // It watches anew after an outage, and values of a megabyte need flow control.
    playground.server.kill()?;
    playground.server.restart()?;
    app.expect_stderr("connected to")?;
    playground.run("config-admin", "set false")?;
    app.expect("off")?;
    Runtime::new()?.block_on(async {
        let client = playground.bystander("CONFIG").await?;
        let bucket = jetstream::new(client).get_key_value("configs_playgrnd").await?;
        for _ in 0..32 {
            bucket.put("site_maintenance", "x".repeat(900_000).into()).await?;
        }
        bucket.put("site_maintenance", "true".into()).await?;
        anyhow::Ok(())
    })?;
    app.expect("on")?;
    stop(app)?;
    Ok(())
}

fn plant(playground: &Playground) -> Result<()> {
    let mut recorder = playground.start_program("recorder", "", "recording")?;
    let mut backend = playground.start_program("backend", "", "waiting")?;
    let mut sensor = playground.start_program("sensor", "--interval 100ms", "#1")?;
    recorder.expect("#1")?;
    backend.expect("#1")?;
    playground.run("device-admin", "interval sensor-1 50ms")?;
    sensor.expect("interval set to 50ms")?;
    stop(sensor)?;
    stop(recorder)?;
    stop(backend)?;
    // It recalls what was recorded before.
    let mut recorder = playground.start_program("recorder", "", "recording")?;
    playground.run("sensor", "--count 2 --interval 10ms")?;
    recorder.expect("#2")?;
    stop(recorder)?;
    Runtime::new()?.block_on(async {
        let client = playground.bystander("PLANT").await?;
        // What the sensor says of itself comes to other devices, and is kept.
        let status = jetstream::new(client.clone()).get_stream("$MQTT_rmsgs").await?;
        let kept = status.cached_info().state.messages;
        ensure!(kept == 1, "{kept} retained messages");
        let stream = jetstream::new(client).get_stream("readings").await?;
        let info = stream.consumer_info("recorder").await?;
        ensure!((info.num_pending, info.num_ack_pending) == (0, 0), "{info:?}");
        anyhow::Ok(())
    })
}

fn jobs(playground: &Playground) -> Result<()> {
    playground.run("job-submit", "email --id mail")?;
    playground.run("job-submit", "email --id later --delay 1s")?;
    playground.run("job-submit", "bad --id wrong")?;
    let mut worker = playground.start_program("job-worker", "--strict", "waiting")?;
    let lines = ["mail done", "wrong dead", "later done"];
    let all =
        |printed: &[String]| lines.iter().all(|it| printed.iter().any(|line| line.starts_with(it)));
    ensure!(worker.wait_for(all), "{:?} {:?}", worker.stdout(), worker.stderr());
    playground.run("job-submit", r#"invoice {"cents":0} --key ann --id first"#)?;
    worker.expect("first dead")?;
    playground.run("job-submit", "invoice --key ann --id second")?;
    worker.expect("second again")?;
    for args in ["list", "show wrong", "stats", "sweep", "retry wrong"] {
        playground.run("job-admin", args)?;
    }
    worker.expect("wrong dead")?;
    playground.run("job-admin", "drop first")?;
    worker.expect("second done")?;
    // A job that was dead, and comes again.
    Runtime::new()?.block_on(async {
        let client = jetstream::new(playground.bystander("JOBS").await?);
        for to in ["nowhere", "ann@example.com"] {
            let job = format!(r#"{{"job_id":"j","kind":"email","args":{{"to":"{to}"}}}}"#);
            client.publish("jobs.new.email.j", job.into()).await?.await?;
            let line = if to == "nowhere" { "j dead" } else { "j done" };
            worker.expect(line)?;
        }
        anyhow::Ok(())
    })?;
    playground.run("job-submit", "email --id never --delay 1h")?;
    playground.run("job-admin", "show never")?;
    playground.run("job-admin", "drop never")?;
    stop(worker)?;
    Ok(())
}
