//! What lists stop, what they do not, and what accounts stop.

use anyhow::{Context, Result, ensure};
use async_nats::Subscriber;
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, ErrorCode};
use futures::StreamExt;
use secured::Stage;
use tokio::time::timeout;

use crate::support::{PATIENCE, Playground, handled, stop};

const DELETE: &str = "$JS.API.STREAM.DELETE.readings";
const PURGE: &str = "$JS.API.STREAM.PURGE.readings";

/// Stores three readings.
async fn store(playground: &Playground) -> Result<()> {
    let jetstream = jetstream::new(playground.bystander("PLANT").await?);
    let (name, subjects) = ("readings".into(), vec!["device.temp".into()]);
    jetstream.create_stream(Config { name, subjects, ..Default::default() }).await?;
    for _ in 0..3 {
        jetstream.publish("device.temp", "21.5".into()).await?.await?;
    }
    Ok(())
}

/// How many readings there are; none if their stream is gone.
async fn readings(playground: &Playground) -> Result<Option<u64>> {
    let jetstream = jetstream::new(playground.bystander("PLANT").await?);
    match jetstream.get_stream("readings").await {
        Ok(stream) => Ok(Some(stream.cached_info().state.messages)),
        Err(error)
            if format!("{error:?}").contains(&format!("{:?}", ErrorCode::STREAM_NOT_FOUND)) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// A consumer that has no orders, so that a request for orders gets a status without a body.
fn take_all_orders(playground: &Playground) -> Result<()> {
    playground.run("order-publisher", "--count 1")?;
    playground.run("order-consumer", "--limit 1")?;
    Ok(())
}

#[test]
fn in_one_account_without_lists_a_program_hears_the_replies_of_others() -> Result<()> {
    let playground = Playground::start(Stage::Open)?;
    let mut attack = playground.example("attack-eavesdrop", "order-consumer", "")?;
    attack.expect("listening")?;
    let server = playground.start_program("math-server", "", "waiting")?;
    playground.run("math-client", "17 25")?;
    attack.expect("42")?;
    stop(server)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_stop_it_and_so_do_accounts_without_lists() -> Result<()> {
    let playground = Playground::start(Stage::Accounts)?;
    let mut attack = playground.example("attack-eavesdrop", "order-consumer", "")?;
    attack.expect_stderr("Permissions Violation")?;
    // A user with all rights in another account hears nothing.
    let bystander = playground.bystander("ORDERS").await?;
    let mut replies = bystander.subscribe("_INBOX.>").await?;
    handled(&bystander).await?;
    let server = playground.start_program("math-server", "", "waiting")?;
    playground.run("math-client", "17 25")?;
    // In its own account, and after the reply in order of time.
    bystander.publish("_INBOX.end", "end".into()).await?;
    let first = timeout(PATIENCE, replies.next()).await?;
    ensure!(first.is_some_and(|it| it.payload == "end"), "it heard a reply");
    stop(server)?;
    Ok(())
}

/// What a user of an account sees on a subject.
async fn watch(
    playground: &Playground,
    account: &str,
    subject: &'static str,
) -> Result<Subscriber> {
    let client = playground.bystander(account).await?;
    let watched = client.subscribe(subject).await?;
    handled(&client).await?;
    Ok(watched)
}

async fn seen(mut watched: Subscriber) -> Result<()> {
    timeout(PATIENCE, watched.next()).await?.context("the connection was closed")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_do_not_stop_a_reply_subject_and_accounts_do() -> Result<()> {
    for stage in [Stage::Lists, Stage::Accounts] {
        let playground = Playground::start(stage)?;
        take_all_orders(&playground)?;
        store(&playground).await?;
        let watched = watch(&playground, "ORDERS", DELETE).await?;
        let ended = playground.example("attack-reply-subject", "order-consumer", DELETE)?.wait()?;
        ensure!(ended.success(), "{ended:?}");
        // nats-server has sent its answer there.
        seen(watched).await?;
        if stage == Stage::Lists {
            playground
                .server
                .monitor_until("/jsz?streams=1", |jsz| !jsz.to_string().contains("\"readings\""))?;
        }
        let left = (stage == Stage::Accounts).then_some(3);
        assert_eq!(readings(&playground).await?, left, "{stage:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_may_answer_anything_purges_a_stream_for_others() -> Result<()> {
    for (stage, account) in [
        (Stage::Lists, "PLANT"),
        // nats-server passes the reply on to the account that has asked.
        (Stage::Accounts, "OFFICE"),
    ] {
        let playground = Playground::with_responses(stage)?;
        store(&playground).await?;
        let mut naive = playground.example("naive-math-server", "math-server", "")?;
        naive.expect("waiting")?;
        let watched = watch(&playground, account, PURGE).await?;
        let ended = playground.example("attack-deputy", "math-client", PURGE)?.wait()?;
        ensure!(ended.success(), "{ended:?}");
        seen(watched).await?;
        if stage == Stage::Lists {
            playground.server.monitor_until("/jsz?streams=1", |jsz| jsz["messages"] == 0)?;
        }
        let left = if stage == Stage::Lists { 0 } else { 3 };
        assert_eq!(readings(&playground).await?, Some(left), "{stage:?}");
    }
    Ok(())
}

/// math-server refuses reply subjects that begin with `$`, whatever it may do.
#[tokio::test(flavor = "multi_thread")]
async fn math_server_purges_nothing_although_it_may_answer_anything() -> Result<()> {
    let playground = Playground::with_responses(Stage::Lists)?;
    store(&playground).await?;
    let mut server = playground.start_program("math-server", "", "waiting")?;
    playground.example("attack-deputy", "math-client", PURGE)?.wait()?;
    server.expect_stderr("no reply goes to $JS.API.STREAM.PURGE.readings")?;
    assert_eq!(readings(&playground).await?, Some(3));
    Ok(())
}

/// In place of `allow_responses`: a list of inboxes.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_may_only_answer_to_inboxes_purges_nothing() -> Result<()> {
    let playground = Playground::start(Stage::Lists)?;
    store(&playground).await?;
    let mut naive = playground.example("naive-math-server", "math-server", "")?;
    naive.expect("waiting")?;
    playground.example("attack-deputy", "math-client", PURGE)?.wait()?;
    naive.expect_stderr("Permissions Violation for Publish")?;
    assert_eq!(readings(&playground).await?, Some(3));
    Ok(())
}
