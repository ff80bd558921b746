//! A switch, and the shops that follow it: what each shows, compared with what the bucket holds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Cause, Counter, End, Play, any, own};
use crate::desk::Desk;
use crate::wire::Message;

const ADMIN: &str = "config-admin";
const KEY: &str = "$KV.configs_playgrnd.site_maintenance";
const BUCKET: &str = "$JS.API.STREAM.INFO.KV_configs_playgrnd";
/// By then this page has received what a program had written before its end.
const SETTLED: Duration = Duration::from_millis(500);
/// A shop that shows something else for this long is told of.
const LATE: Duration = Duration::from_secs(3);

/// What a shop has printed last.
#[derive(Debug, Default)]
struct Shop {
    is_maintenance: Option<bool>,
    line: String,
    /// How long it took to print the last value, after this page had seen that value.
    took: Option<Duration>,
    /// Since when it shows something else than the bucket holds.
    differs: Option<Instant>,
    told: bool,
}

/// The counts of the scene.
#[derive(Debug, Default)]
pub struct Kv {
    shops: BTreeMap<&'static str, Shop>,
    /// The last value, and when this page's own subscription has received it.
    switch: Option<(bool, Instant)>,
    values: u64,
    created: Option<String>,
    revision: u64,
    was_deleted: bool,
    /// How config-admin was ended, and when.
    ended: Option<(String, Instant)>,
}

impl Kv {
    fn is_on(&self) -> bool {
        self.switch.is_some_and(|(on, _)| on)
    }
}

impl Play for Kv {
    fn message(&mut self, desk: &mut Desk, who: &'static str, message: &Message) {
        if message.subject == KEY && !message.payload.is_empty() {
            desk.flow(who, message, "message");
            desk.beat();
        }
    }

    fn line(&mut self, _desk: &mut Desk, who: &'static str, is_stderr: bool, line: &str) {
        if !who.starts_with("shop") || is_stderr {
            return;
        }
        let switch = self.switch;
        let shop = self.shops.entry(who).or_default();
        line.clone_into(&mut shop.line);
        if line.ends_with(" is on") || line.ends_with(" is off") {
            let on = line.ends_with(" is on");
            shop.is_maintenance = Some(on);
            let seen = switch.filter(|(value, at)| *value == on && at.elapsed() < LATE);
            shop.took = seen.map(|(_, at)| at.elapsed());
        }
    }

    fn started(&mut self, _desk: &mut Desk, who: &'static str) {
        if who.starts_with("shop") {
            self.shops.insert(who, Shop::default());
        }
    }

    fn ended(&mut self, desk: &mut Desk, who: &'static str, end: &End) {
        if who == ADMIN && end.cause != Cause::Itself {
            self.ended = Some((end.sentence(who), Instant::now()));
        } else if who.starts_with("shop") || !end.success {
            desk.say(&end.sentence(who));
        }
    }

    fn seen(&mut self, desk: &mut Desk, subject: &str, payload: &[u8]) {
        if subject == KEY && !payload.is_empty() {
            self.switch = Some((payload == b"true", Instant::now()));
            self.values += 1;
            desk.elsewhere("message");
        }
    }

    fn questions(&self) -> Vec<(&'static str, &'static str)> {
        vec![(BUCKET, "")]
    }

    fn answered(&mut self, desk: &mut Desk, _subject: &str, answer: &Value) {
        if answer["error"].is_object() {
            if self.created.take().is_some() {
                desk.say("the bucket was deleted: no value is left, and that means off");
                (self.switch, self.was_deleted, self.revision) = (None, true, 0);
            }
            return;
        }
        let created = answer["created"].as_str().map(ToOwned::to_owned);
        self.revision = answer["state"]["last_seq"].as_u64().unwrap_or_default();
        if created != self.created && std::mem::take(&mut self.was_deleted) {
            desk.say("there is a new bucket of the same name: it counts its values from 1 again");
        }
        self.created = created;
    }

    fn tick(&mut self, desk: &mut Desk, now: Instant) {
        let on = self.is_on();
        if let Some((how, _)) = self.ended.take_if(|(_, at)| now.duration_since(*at) > SETTLED) {
            if on {
                desk.lose(1, &format!("{how}: the switch was left on, and the shops closed"));
            } else {
                desk.kept(&format!("{how}: the switch is off"));
            }
        }
        for (id, shop) in &mut self.shops {
            if !desk.runs(id) || shop.is_maintenance.unwrap_or(false) == on {
                if std::mem::take(&mut shop.told) && desk.runs(id) {
                    desk.say(&format!("{id} shows what the bucket holds again"));
                }
                shop.differs = None;
                continue;
            }
            let since = *shop.differs.get_or_insert(now);
            if now.duration_since(since) > LATE && !shop.told {
                shop.told = true;
                let (holds, shows) =
                    if on { ("on", "is open") } else { ("off", "is in maintenance") };
                let which = if desk.is_first(id) { " (first version)" } else { "" };
                let what = format!("the switch is {holds}, and the shop {shows}");
                // What a cut line holds back may come yet.
                if desk.view(id).cut {
                    desk.say(&format!("the line of {id} is cut: {what}"));
                } else {
                    desk.lose(
                        1,
                        &format!(
                            "{id}{which} has not heard of a change, and its line works: {what}"
                        ),
                    );
                }
            }
        }
    }

    fn counters(&self, desk: &Desk) -> Vec<Counter> {
        let deaf = self.shops.iter().filter(|(id, shop)| desk.runs(id) && shop.told).count();
        let switch = match (self.created.is_some(), self.switch) {
            (false, _) => "there is no bucket",
            (true, None) => "no value seen yet",
            (true, Some((true, _))) => "on",
            (true, Some((false, _))) => "off",
        };
        let took = self.shops.values().filter_map(|shop| shop.took).max();
        let took = took.map_or("–".into(), |took| format!("{} ms", took.as_millis()));
        vec![
            Counter { name: "the switch", value: switch.into(), is_own: false },
            any("last revision", self.revision),
            any("changes", self.values),
            Counter { name: "slowest shop that heard", value: took, is_own: true },
            own("shops out of date", deaf as u64),
        ]
    }

    fn detail(&self, desk: &Desk) -> Value {
        let shops: Vec<_> = self
            .shops
            .iter()
            .map(|(id, shop)| {
                json!({
                    "id": id, "runs": desk.runs(id), "line": shop.line,
                    "maintenance": shop.is_maintenance.unwrap_or(false),
                    "wrong": shop.told,
                })
            })
            .collect();
        json!({ "on": self.is_on(), "shops": shops })
    }
}
