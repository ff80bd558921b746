//! What the limits of an account stop. Each test makes one of them small.

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::{self, stream::Config};
use secured::Terms;
use secured::access::{ACCOUNTS, Account};
use testkit::{Ended, Program};

use crate::support::{PATIENCE, Playground, stop};

/// A server on which a limit of an account is another one.
fn limited(account: &str, limit: &str, to: &str) -> Result<Playground> {
    Playground::changed(|accounts| {
        let begin = format!("  {account} {{\n");
        let (before, after) = accounts.split_once(&begin).context("no such account")?;
        let (skipped, rest) = after.split_once(limit).context("no such limit")?;
        let rest = rest.trim_start();
        let end = rest.find([',', ' ']).context("no end")?;
        ensure!(!skipped.contains("users"), "{account} has no {limit}");
        Ok(format!("{before}{begin}{skipped}{limit} {to}{}", &rest[end..]))
    })
}

/// Runs a program that has to fail.
fn fails(playground: &Playground, name: &str, args: &[&str]) -> Result<Ended> {
    let mut command = playground.command(name, "")?;
    let program = Program::spawn(command.args(args))?.quiet();
    let ended = program.timeout(PATIENCE).wait()?;
    ensure!(ended.code() == Some(1), "{name}: {ended:?}");
    Ok(ended)
}

/// Fails with one line on stderr that says all of `parts`.
fn says(ended: &Ended, parts: &[&str]) -> Result<()> {
    let [line] = &ended.stderr[..] else { anyhow::bail!("{ended:?}") };
    ensure!(parts.iter().all(|part| line.contains(part)), "{line}");
    Ok(())
}

/// What other accounts do goes on.
fn others_go_on(playground: &Playground) -> Result<()> {
    let math_server = playground.start_program("math-server", "", "waiting")?;
    playground.run("math-client", "17 25")?;
    stop(math_server)?;
    Ok(())
}

#[test]
fn one_connection_too_many_is_refused_and_the_others_go_on() -> Result<()> {
    let playground = limited("LOGS", "max_connections:", "2")?;
    let mut first = playground.start_program("log-worker", "", "waiting")?;
    let second = playground.start_program("log-worker", "", "waiting")?;
    let third = fails(&playground, "log-publisher", &["--count", "3"])?;
    says(&third, &["cannot connect", "account active connections exceeded", "max_connections"])?;
    others_go_on(&playground)?;
    // There is room again.
    stop(second)?;
    playground.server.monitor_until("/connz", |connz| connz["num_connections"] == 1)?;
    playground.run("log-publisher", "--count 3")?;
    first.expect("log 3")?;
    stop(first)?;
    Ok(())
}

#[test]
fn with_credentials_one_connection_too_many_is_refused_too() -> Result<()> {
    let playground = Playground::with_credentials()?;
    let limits = ACCOUNTS.iter().find(|account| account.name == "LOGS").context("no LOGS")?.limits;
    let workers =
        (0..limits.connections).map(|_| playground.start_program("log-worker", "", "waiting"));
    let workers = workers.collect::<Result<Vec<_>>>()?;
    let last = fails(&playground, "log-publisher", &[])?;
    says(&last, &["cannot connect", "account active connections exceeded", "max_connections"])?;
    others_go_on(&playground)?;
    for worker in workers {
        stop(worker)?;
    }
    Ok(())
}

#[test]
fn a_message_that_is_too_long_ends_its_publisher_and_the_others_go_on() -> Result<()> {
    let playground = limited("JOBS", "max_payload:", "4KB")?;
    playground.run("job-submit", "email --id short")?;
    let mut worker = playground.start_program("job-worker", "", "short done")?;
    let long = format!(r#"{{"to":"{}"}}"#, "x".repeat(5_000));
    let submit = fails(&playground, "job-submit", &["email", &long])?;
    says(&submit, &["Maximum Payload Violation", "max_payload of the account"])?;
    playground.run("job-submit", "email --id next")?;
    worker.expect("next done")?;
    stop(worker)?;
    others_go_on(&playground)
}

/// A user of an account can have less than its account, if it has a JWT.
#[test]
fn with_credentials_a_user_can_have_a_limit_of_its_own() -> Result<()> {
    let playground = Playground::with_credentials()?;
    let payload = Some(4 << 10);
    playground.vouch("job-submit", Terms { payload, ..Default::default() })?;
    let long = format!(r#"{{"to":"{}"}}"#, "x".repeat(5_000));
    let submit = fails(&playground, "job-submit", &["email", &long])?;
    says(&submit, &["Maximum Payload Violation"])?;
    playground.vouch("job-submit", Terms::default())?;
    let mut command = playground.command("job-submit", "")?;
    let ended = Program::spawn(command.args(["email", &long]))?.quiet().wait()?;
    ensure!(ended.success(), "{ended:?}");
    Ok(())
}

#[test]
fn one_subscription_too_many_ends_its_program() -> Result<()> {
    let playground = limited("MATH", "max_subscriptions:", "2")?;
    let service = fails(&playground, "math-service", &[])?;
    says(&service, &["maximum subscriptions exceeded", "max_subscriptions of the account"])?;
    // It counts the subscriptions of each connection, so another one has as many.
    others_go_on(&playground)
}

#[test]
fn an_order_that_does_not_fit_into_the_accounts_storage_is_refused_and_others_go_on() -> Result<()>
{
    let playground = limited("ORDERS", "max_mem:", "64KB")?;
    let publisher = fails(&playground, "order-publisher", &["--count", "10000", "--quiet"])?;
    says(&publisher, &["orders are stored", "resource limits exceeded", "raise the limits"])?;
    // What is stored can be taken.
    playground.run("order-consumer", "--limit 10")?;
    // In the same account, in files; and in another one.
    playground.run("job-submit", "email")?;
    others_go_on(&playground)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_too_many_is_refused() -> Result<()> {
    let playground = Playground::changed(Ok)?;
    let limit = ACCOUNTS.iter().find_map(|it| it.storage.filter(|_| it.name == "ORDERS"));
    let limit = limit.context("no storage")?.streams;
    let jetstream = jetstream::new(playground.bystander("ORDERS").await?);
    for number in 0..=limit {
        let name = format!("s{number}");
        let created = jetstream.create_stream(Config { name, ..Default::default() }).await;
        let error = created.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!((number == limit) == error.contains("maximum number of streams"), "{error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_are_counted_for_each_stream() -> Result<()> {
    let playground = limited("ORDERS", "max_consumers:", "1")?;
    let jetstream = jetstream::new(playground.bystander("ORDERS").await?);
    for name in ["one", "two"] {
        let config = Config { name: name.into(), ..Default::default() };
        let stream = jetstream.create_stream(config).await?;
        for consumer in ["first", "second"] {
            let durable_name = Some(consumer.to_owned());
            let config = pull::Config { durable_name, ..Default::default() };
            let created = stream.create_consumer(config).await;
            ensure!(created.is_ok() == (consumer == "first"), "{name} {consumer}");
        }
    }
    Ok(())
}

/// The rows of the README's table.
#[test]
fn the_limits_of_the_readme_are_those_of_the_configuration() {
    let size = |bytes: u64| match bytes >> 20 {
        0 => format!("{} KB", bytes >> 10),
        megabytes => format!("{megabytes} MB"),
    };
    let row = |account: &Account| {
        let limits = account.limits;
        let storage = account.storage.map(|it| {
            let [memory, file] = [it.memory, it.file].map(size);
            format!("{memory} | {file} | {} | {}", it.streams, it.consumers)
        });
        format!(
            "| `{}` | {} | {} | {} | {} |\n",
            account.name,
            limits.connections,
            limits.subscriptions,
            size(limits.payload.into()),
            storage.unwrap_or_else(|| "nothing | nothing | none | none".into())
        )
    };
    let rows: String = ACCOUNTS.iter().map(row).collect();
    assert!(include_str!("../README.md").contains(&rows), "the rows are:\n{rows}");
}
