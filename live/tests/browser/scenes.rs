//! The buttons of each scene, and what the page makes of faults.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::page::{Page, command, gone};

#[test]
fn hello_strangers_reach_it_and_the_service_prints_its_own_message() -> Result<()> {
    let page = Page::open("hello")?;
    let reached = "return sections.flows['hello:in:ack'] ?? 0";
    ensure!(page.script(reached)? == json!(0));
    page.press("scene", "strangers")?;
    page.until("strangers", reached, |count| count.as_u64() > Some(100))?;
    let printed = "return sections.counters[1][1]";
    let before = page.script(printed)?;
    page.until("own message", printed, |count| *count != before)?;
    ensure!(page.script("return sections.lost")? == json!(0));
    page.press("scene", "strangers")?;
    // Once those on their way have come, no more come.
    page.until(
        "no strangers",
        "const it = sections.counters[3][1]; \
         const same = window.last === it; window.last = it; return same",
        |same| *same == json!(true),
    )?;
    page.browser.is_silent()
}

#[test]
fn queue_groups_one_more_bad_and_full_load() -> Result<()> {
    let page = Page::open("queue-groups")?;
    page.press("scene", "more")?;
    let dan = page.process("dan", None)?;
    ensure!(command(dan)?.contains("--name dan"), "{}", command(dan)?);
    page.press("scene", "bad")?;
    page.counter("bad, skipped", |count| count == "1")?;

    // A cut line: ann gets messages and prints none.
    page.press("ann", "cut")?;
    let waiting = "return sections.detail.bars.find(([id]) => id === 'ann')?.[1]";
    page.until("ann waits", waiting, |waiting| waiting.as_u64() > Some(150))?;
    page.press("ann", "cut")?;
    page.until("ann goes on", waiting, |waiting| waiting.as_u64() < Some(50))?;

    page.press("scene", "full")?;
    let rate = "return sections.rate[sections.rate.length - 1]";
    page.until("full load", rate, |rate| rate.as_u64() >= Some(3_000))?;
    page.until("sampled", "return sample.textContent", |text| {
        text.as_str().is_some_and(|text| text.contains("Too many for a dot each"))
    })?;
    page.press("scene", "full")?;
    page.until("calm", rate, |rate| rate.as_u64() < Some(1_000))?;
    page.browser.is_silent()
}

#[test]
fn rpc_a_rolling_restart_costs_no_request_its_reply() -> Result<()> {
    let page = Page::open("rpc")?;
    page.press("scene", "more")?;
    page.process("math-server-4", None)?;
    page.press("scene", "bad")?;
    page.until("error reply", "return Object.keys(sections.flows).join()", |flows| {
        flows.as_str().is_some_and(|flows| flows.contains(":out:bad"))
    })?;
    let before = page.process("math-server-1", None)?;
    page.press("scene", "rolling")?;
    gone(before)?;
    page.process("math-server-1", Some(before))?;
    page.told("rolling restart of 4 servers: 0 of")?;
    ensure!(page.script("return sections.lost")? == json!(0));

    // A slow line shows in the latency.
    page.press("math-client", "slow")?;
    let slow = "return sections.detail.histogram.slice(-3).reduce((a, b) => a + b)";
    page.until("slow", slow, |count| count.as_u64() > Some(3))?;
    page.browser.is_silent()
}

#[test]
fn jetstream_a_file_survives_and_memory_does_not() -> Result<()> {
    let page = Page::open("jetstream")?;
    page.press("scene", "more")?;
    page.process("order-consumer-3", None)?;
    page.press("scene", "bad")?;
    page.until(
        "terminated",
        "return document.querySelectorAll('#detail .cells .s4').length",
        |it| it.as_u64() == Some(1),
    )?;
    page.counter("orders in it", |count| {
        count.replace(',', "").parse::<u64>().is_ok_and(|it| it > 20)
    })?;
    page.press("server", "kill")?;
    page.press("server", "start")?;
    page.told("it is in a file")?;

    page.press("scene", "storage")?;
    page.counter("stream", |stream| stream == "in memory")?;
    page.counter("orders in it", |count| {
        count.replace(',', "").parse::<u64>().is_ok_and(|it| it > 20)
    })?;
    page.press("server", "kill")?;
    page.press("server", "start")?;
    page.told("the stream was in its memory")?;
    page.counter("stream", |stream| stream == "in memory")?;
    page.press("scene", "storage")?;
    page.counter("stream", |stream| stream == "in file")?;
    page.browser.is_silent()
}

#[test]
fn jetstream_what_a_killed_consumer_had_comes_again() -> Result<()> {
    let page = Page::open("jetstream")?;
    // The first version has up to 200 orders that it has not acknowledged: nothing else takes them.
    page.press("order-consumer-2", "stop")?;
    page.press("order-consumer-1", "cut")?;
    page.counter("delivered, not acknowledged", |count| count != "0")?;
    page.press("order-consumer-1", "kill")?;
    page.told("delivered again, 5 s after the delivery")?;
    page.press("order-consumer-2", "start")?;
    page.counter("delivered again", |count| count != "0")?;
    ensure!(page.script("return sections.lost")? == json!(0));
    page.browser.is_silent()
}

#[test]
fn kv_shops_follow_the_switch_and_a_first_version_goes_deaf() -> Result<()> {
    let page = Page::open("kv")?;
    let closed = "return document.querySelectorAll('#detail .shop.closed').length";
    page.press("shop-2", "version")?;
    page.printed("shop-2", "site_maintenance")?;
    for _ in 0..2 {
        page.press("scene", "on")?;
        page.until("in maintenance", closed, |count| *count == json!(3))?;
        page.press("scene", "off")?;
        page.until("open", closed, |count| *count == json!(0))?;
    }
    page.press("scene", "delete")?;
    page.told("the bucket was deleted")?;
    page.press("scene", "on")?;
    page.until("two of three", closed, |count| *count == json!(2))?;
    page.told("shop-2 (the first version) has not heard of a change")?;
    page.until("out of date", "return !!document.querySelector('#frame-shop-2.wrong')", |it| {
        *it == json!(true)
    })?;
    page.browser.is_silent()
}

#[test]
fn mqtt_qos_0_loses_and_qos_1_does_not() -> Result<()> {
    let page = Page::open("mqtt-bridge")?;
    page.told("sensor-1 is online")?;
    page.press("scene", "bad")?;
    page.counter("bad, ignored or terminated", |count| count == "2")?;
    page.press("scene", "fast")?;
    page.printed("device-admin", "50ms")?;
    let rate = "return sections.rate[sections.rate.length - 1]";
    page.until("faster", rate, |rate| rate.as_u64() > Some(20))?;
    for sensor in ["sensor-0", "sensor-1"] {
        page.press(sensor, "cut")?;
    }
    for sensor in ["sensor-0", "sensor-1"] {
        page.printed(sensor, "lost the connection")?;
    }
    for sensor in ["sensor-0", "sensor-1"] {
        page.press(sensor, "cut")?;
    }
    page.told("sensor-0 (QoS 0)")?;
    let missing = page.script("return sections.detail.sensors.map((it) => it.missing)")?;
    ensure!(missing[0].as_u64() > Some(0) && missing[1] == json!(0), "{missing}");
    page.press("scene", "calm")?;
    page.until("slower", rate, |rate| rate.as_u64() < Some(10))?;
    page.press("sensor-1", "kill")?;
    page.told("sensor-1 is offline")?;
    page.browser.is_silent()
}

#[test]
fn jobs_each_button() -> Result<()> {
    let page = Page::open("jobs")?;
    page.press("scene", "more")?;
    page.process("job-worker-3", None)?;
    page.press("scene", "email")?;
    page.counter("done", |count| count == "20")?;
    page.press("scene", "invoice")?;
    page.counter("done", |count| count == "25")?;
    page.press("scene", "report")?;
    page.press("scene", "flaky")?;
    page.press("scene", "later")?;
    page.counter("of them delayed", |count| count != "0")?;
    page.counter("done", |count| count == "28")?;
    page.press("scene", "bad")?;
    page.counter("dead letters", |count| count == "1")?;
    page.press("scene", "retry")?;
    page.printed("job-admin", "1")?;
    page.press("scene", "poison")?;
    page.told("SIGABRT")?;
    page.browser.is_silent()
}

#[test]
fn the_page_finds_a_backend_that_was_started_again() -> Result<()> {
    let mut page = Page::open("kv")?;
    let (port, before) = (page.backend.port, page.backend.token.clone());
    page.backend.kill()?;
    page.until("away", "return document.getElementById('status').textContent", |text| {
        text.as_str().is_some_and(|text| text.contains("trying again"))
    })?;
    page.backend = crate::process::Backend::start_on(port)?;
    ensure!(page.backend.token != before);
    page.until("back", "return token", |token| *token == json!(page.backend.token))?;
    // With the token of the new one.
    let pid = page.process("shop-1", None)?;
    page.press("shop-1", "kill")?;
    gone(pid)?;
    // While the backend was away the browser has written that to the console.
    Ok(())
}

#[test]
fn it_is_usable_by_keyboard_and_says_what_things_are() -> Result<()> {
    let page = Page::open("queue-groups")?;
    for landmark in ["header", "nav[aria-label]", "main", "footer", "[role=log][aria-live=polite]"]
    {
        let is_there = page.script(&format!("return !!document.querySelector('{landmark}')"))?;
        ensure!(is_there == json!(true), "no {landmark}");
    }
    let nameless = page.script(
        "return [...document.querySelectorAll('button, a')].filter((it) => \
         !(it.getAttribute('aria-label') || it.textContent).trim()).length",
    );
    ensure!(nameless? == json!(0));
    // Tab leads to the button, Enter presses it, and it keeps the focus.
    page.script("document.getElementById('ann-stop').focus()")?;
    let pid = page.process("ann", None)?;
    page.browser.keys("ann-stop", "\u{e007}")?; // Enter
    gone(pid)?;
    ensure!(page.script("return document.activeElement.id")? == json!("ann-stop"));
    page.browser.is_silent()
}

#[test]
fn nothing_is_wider_than_a_phone() -> Result<()> {
    let page = Page::open("hello")?;
    let phone = json!({ "width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": false });
    page.browser.tune("Emulation.setDeviceMetricsOverride", &phone)?;
    for scene in live::cast::experiments() {
        page.show(&scene)?;
        let wide = page.script("return document.documentElement.scrollWidth")?;
        ensure!(wide.as_u64() <= Some(400), "{scene}: {wide}");
    }
    page.browser.is_silent()
}
