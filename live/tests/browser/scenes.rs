//! The buttons of each scene, and what the page makes of faults.

use anyhow::{Result, ensure};
use live::cast::experiments;
use serde_json::{Value, json};
use testkit::{Port, Server};

use crate::page::{Page, command, gone};
use crate::process::Backend;

const RATE: &str = "return sections.rate[sections.rate.length - 1]";

/// Presses a button that switches something on or off, and waits until it shows that.
fn switch(page: &Page, button: &str, is_on: bool) -> Result<()> {
    page.press("scene", button)?;
    let shown = format!("return document.getElementById('scene-{button}').ariaPressed");
    page.until(button, &shown, |shown| *shown == json!(is_on.to_string())).map(|_| ())
}

/// A number with commas.
fn number(text: &str) -> u64 {
    text.replace(',', "").parse().unwrap_or_default()
}

#[test]
fn hello_among_strangers_the_service_prints_its_own_message() -> Result<()> {
    Page::open("hello")?.silently(|page| {
        let reached = "return sections.flows['hello:in:ack'] ?? 0";
        ensure!(page.script(reached)? == json!(0));
        switch(page, "strangers", true)?;
        page.until("strangers", reached, |count| count.as_u64() > Some(100))?;
        let printed = "return sections.counters[2][1]";
        let before = page.script(printed)?;
        page.until("own message", printed, |count| *count != before)?;
        ensure!(page.script("return sections.lost")? == json!(0));
        switch(page, "strangers", false)?;
        // Once those on their way have come, no more come.
        page.until(
            "no strangers",
            "const it = sections.counters[4][1]; \
             const same = window.last === it; window.last = it; return same",
            |same| *same == json!(true),
        )
        .map(|_| ())
    })
}

#[test]
fn queue_groups_a_bad_message_a_cut_line_and_full_load() -> Result<()> {
    Page::open("queue-groups")?.silently(|page| {
        page.press("scene", "bad")?;
        page.counter("bad, skipped", |count| count == "1")?;

        // A cut line: ann gets messages and prints none.
        page.press("ann", "cut")?;
        let waiting = "return sections.detail.bars.find(([id]) => id === 'ann')?.[1]";
        page.until("ann waits", waiting, |waiting| waiting.as_u64() > Some(150))?;
        page.press("ann", "cut")?;
        page.until("ann goes on", waiting, |waiting| waiting.as_u64() < Some(50))?;

        switch(page, "full", true)?;
        // Otherwise there are 300 every two seconds.
        page.until("full load", RATE, |rate| rate.as_u64() > Some(1_200))?;
        page.until("sampled", "return sample.textContent", |text| {
            text.as_str().is_some_and(|text| text.contains("Too many for a dot each"))
        })?;
        switch(page, "full", false)?;
        page.until("calm", RATE, |rate| rate.as_u64() < Some(1_200)).map(|_| ())
    })
}

#[test]
fn rpc_a_rolling_restart_costs_no_request_its_reply() -> Result<()> {
    Page::open("rpc")?.silently(|page| {
        page.press("scene", "bad")?;
        page.until("error reply", "return Object.keys(sections.flows).join()", |flows| {
            flows.as_str().is_some_and(|flows| flows.contains(":out:bad"))
        })?;
        let before = page.process("math-server-1", None)?;
        page.press("scene", "rolling")?;
        gone(before)?;
        page.process("math-server-1", Some(before))?;
        page.told("rolling restart of 3 servers: 0 of")?;
        ensure!(page.script("return sections.lost")? == json!(0));

        // A slow line shows in the latency.
        page.press("math-client", "slow")?;
        let slow = "return sections.detail.histogram.slice(-3).reduce((a, b) => a + b)";
        page.until("slow", slow, |count| count.as_u64() > Some(3))?;
        page.press("server", "kill")?;
        page.press("server", "start")?;
        page.told("nats-server was away: ").map(|_| ()) // … of … requests lost
    })
}

#[test]
fn jetstream_a_file_survives_and_memory_does_not() -> Result<()> {
    Page::open("jetstream")?.silently(|page| {
        // The row ends with it.
        page.press("order-publisher", "stop")?;
        page.told("order-publisher was stopped")?;
        page.press("scene", "bad")?;
        page.until(
            "terminated",
            "return document.querySelectorAll('#detail .cells .s4').length",
            |it| it.as_u64() == Some(1),
        )?;
        page.press("order-publisher", "start")?;
        let some_are_stored = || page.counter("orders in it", |count| number(count) > 20);
        some_are_stored()?;
        page.press("server", "kill")?;
        page.press("server", "start")?;
        page.told("it is in a file")?;

        switch(page, "storage", true)?;
        page.counter("stream", |stream| stream == "in memory")?;
        some_are_stored()?;
        page.press("server", "kill")?;
        page.press("server", "start")?;
        page.told("the stream was in its memory")?;
        page.counter("stream", |stream| stream == "in memory")?;
        switch(page, "storage", false)?;
        page.counter("stream", |stream| stream == "in file").map(|_| ())
    })
}

#[test]
fn jetstream_what_a_killed_consumer_had_comes_again() -> Result<()> {
    Page::open("jetstream")?.silently(|page| {
        // Nothing else takes what order-consumer-1 has not acknowledged.
        page.press("order-consumer-2", "stop")?;
        // The service asks for one at a time, the first version for many.
        let pid = page.process("order-consumer-1", None)?;
        page.press("order-consumer-1", "version")?;
        page.is_connected("order-consumer-1", pid)?;
        page.press("order-consumer-1", "cut")?;
        let delivered = "return sections.detail.cells.filter(([, state]) => state === 1).length";
        page.until("delivered", delivered, |count| count.as_u64() > Some(5))?;
        page.press("order-consumer-1", "kill")?;
        page.told("delivered again, 5 s after the delivery")?;
        page.press("order-consumer-2", "start")?;
        page.counter("delivered again", |count| count != "0")?;
        ensure!(page.script("return sections.lost")? == json!(0));
        Ok(())
    })
}

const CLOSED: &str = "return document.querySelectorAll('#detail .shop.closed').length";

#[test]
fn kv_shops_follow_the_switch_and_a_first_version_goes_deaf() -> Result<()> {
    Page::open("kv")?.silently(|page| {
        let pid = page.process("shop-2", None)?;
        page.press("shop-2", "version")?;
        page.is_connected("shop-2", pid)?;
        for _ in 0..2 {
            page.press("scene", "on")?;
            page.until("in maintenance", CLOSED, |count| *count == json!(3))?;
            page.press("scene", "off")?;
            page.until("open", CLOSED, |count| *count == json!(0))?;
        }
        page.press("scene", "delete")?;
        page.told("the bucket was deleted")?;
        page.press("scene", "on")?;
        page.until("two of three", CLOSED, |count| *count == json!(2))?;
        page.told("shop-2 (first version) has not heard of a change")?;
        let is_wrong = "return !!document.querySelector('#frame-shop-2.wrong')";
        page.until("out of date", is_wrong, |it| *it == json!(true)).map(|_| ())
    })
}

#[test]
fn kv_an_admin_that_is_stopped_turns_the_switch_back() -> Result<()> {
    Page::open("kv")?.silently(|page| {
        page.press("scene", "turn")?;
        page.until("in maintenance", CLOSED, |count| *count == json!(3))?;
        page.press("config-admin", "stop")?;
        page.told("config-admin was stopped: the switch is off")?;
        page.until("open", CLOSED, |count| *count == json!(0))?;

        // The first version is another program. It cannot set the switch, only turn it over.
        page.press("config-admin", "version")?;
        page.until("on is off", "return document.getElementById('scene-on').ariaDisabled", |it| {
            *it == json!("true")
        })?;
        page.press("scene", "turn")?;
        let pid = page.process("config-admin", None)?;
        ensure!(command(pid)?.contains("first-config-admin"), "{}", command(pid)?);
        page.press("config-admin", "kill")?;
        gone(pid)?;
        let told = page.told("config-admin (first version) was killed")?;
        let is_on = page.script("return sections.detail.on")?;
        let was_left_on = told.as_str().is_some_and(|told| told.contains("was left on"));
        ensure!(is_on == json!(was_left_on), "{told}");
        Ok(())
    })
}

#[test]
fn mqtt_qos_0_loses_and_qos_1_does_not() -> Result<()> {
    Page::open("mqtt-bridge")?.silently(|page| {
        page.told("sensor-1 is online")?;
        page.press("scene", "bad")?;
        page.counter("bad, ignored or terminated", |count| count == "2")?;
        page.press("scene", "fast")?;
        page.printed("device-admin", "50ms")?;
        page.until("faster", RATE, |rate| rate.as_u64() > Some(20))?;
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
        page.until("slower", RATE, |rate| rate.as_u64() < Some(10))?;
        page.press("sensor-1", "kill")?;
        page.told("sensor-1 is offline").map(|_| ())
    })
}

#[test]
fn jobs_of_each_kind() -> Result<()> {
    Page::open("jobs")?.silently(|page| {
        for (button, done) in [("email", "20"), ("invoice", "25")] {
            page.press("scene", button)?;
            page.counter("done", |count| count == done)?;
        }
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
        page.told("SIGABRT").map(|_| ())
    })
}

#[test]
fn jobs_a_first_version_leaves_a_job_that_no_worker_gets() -> Result<()> {
    Page::open("jobs")?.silently(|page| {
        // All of them: the consumers of both versions cannot be in one work queue.
        page.press("job-worker-1", "version")?;
        for worker in ["job-worker-1", "job-worker-2"] {
            page.until(
                worker,
                &format!("return sections['program:{worker}'].first"),
                |is_first| *is_first == json!(true),
            )?;
        }
        page.press("job-submit", "version")?;
        page.press("scene", "email")?;
        page.counter("done", |count| count == "20")?;
        page.press("scene", "bad")?;
        page.told("offers it to no worker any more")?;
        page.counter("in the queue", |count| count == "1")?;
        // The service finds it, and makes it a dead letter.
        page.press("job-worker-1", "version")?;
        page.counter("dead letters", |count| count == "1")?;
        page.counter("in the queue", |count| count == "0")?;

        let admin = "return sections['program:job-admin']";
        page.press("job-admin", "version")?;
        page.press("scene", "retry")?;
        let is_retried = |it: &Value| it["lines"].to_string().contains("is in the queue again");
        page.until("retried", admin, is_retried).map(|_| ())
    })
}

#[test]
fn each_scene_is_a_link_and_has_its_lesson() -> Result<()> {
    Page::open("hello")?.silently(|page| {
        for (at, scene) in experiments().iter().enumerate() {
            let link = format!("return document.querySelectorAll('#nav a')[{at}].id = 'link-{at}'");
            page.script(&link)?;
            page.browser.click(&format!("link-{at}"))?;
            page.until(scene, "return [document.title, lesson.href]", |seen| {
                let has =
                    |seen: &Value, text: &str| seen.as_str().is_some_and(|it| it.contains(text));
                has(&seen[0], scene) && has(&seen[1], &format!("/lesson/{scene}"))
            })?;
            page.browser.click("lesson")?;
            page.until("the lesson", "return document.body.innerText", |text| {
                text.as_str().is_some_and(|text| text.starts_with("# A lesson"))
            })?;
            page.show(scene)?;
        }
        Ok(())
    })
}

#[test]
fn a_server_of_ones_own_has_no_buttons() -> Result<()> {
    let server = Server::start()?;
    Page::of(Backend::spawn(&server.url(), 18_300)?, "hello")?.silently(|page| {
        for scene in experiments() {
            page.show(&scene)?;
            page.until("counters", "return counters.children.length > 0", |it| *it == json!(true))?;
            let buttons = page.script("return document.querySelectorAll('button').length")?;
            ensure!(buttons == json!(0), "{scene}: {buttons}");
        }
        Ok(())
    })
}

#[test]
fn the_page_finds_a_backend_that_was_started_again() -> Result<()> {
    // Other tests take the ports from 18300 on as they become free.
    let port = Port::claim()?;
    let mut page = Page::of(Backend::start_on(port.number())?, "kv")?;
    let before = page.backend.token.clone();
    page.backend.kill()?;
    page.until("away", "return document.getElementById('status').textContent", |text| {
        text.as_str().is_some_and(|text| text.contains("trying again"))
    })?;
    page.backend = Backend::start_on(port.number())?;
    ensure!(page.backend.port == port.number());
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
    Page::open("queue-groups")?.silently(|page| {
        for landmark in
            ["header", "nav[aria-label]", "main", "footer", "[role=log][aria-live=polite]"]
        {
            let is_there =
                page.script(&format!("return !!document.querySelector('{landmark}')"))?;
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
        Ok(())
    })
}

#[test]
fn nothing_is_wider_than_a_phone() -> Result<()> {
    Page::open("hello")?.silently(|page| {
        let phone = json!({ "width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        page.browser.tune("Emulation.setDeviceMetricsOverride", &phone)?;
        for scene in experiments() {
            page.show(&scene)?;
            let wide = page.script("return document.documentElement.scrollWidth")?;
            ensure!(wide.as_u64() <= Some(400), "{scene}: {wide}");
        }
        Ok(())
    })
}
