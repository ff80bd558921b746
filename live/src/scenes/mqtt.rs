//! Two sensors, one for each quality of service, and who has got their readings.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Counter, End, Play, any, own};
use crate::desk::{Desk, grouped, several};
use crate::wire::{Message, PUBACK};

const SUBJECT: &str = "device.temp";
const STATUS: &str = "device.status.";
/// Readings in the curve.
const CURVE: usize = 120;
/// How long after the line and the server are whole again a reading counts as missing.
const LATE: Duration = Duration::from_secs(4);

/// What is known of the readings of a sensor, since its process was started.
#[derive(Debug, Default)]
struct Sensor {
    presence: String,
    /// The highest number that has left it, and when it grew.
    taken: u64,
    acknowledged: u64,
    /// Numbers below `complete` are all recorded or told of as missing.
    complete: u64,
    recorded: BTreeSet<u64>,
    count: u64,
    printed: u64,
    missing: u64,
    curve: VecDeque<f64>,
    /// How many had left it some time ago.
    past: VecDeque<(Instant, u64)>,
}

impl Sensor {
    /// Notes a reading that has left it.
    fn has_sent(&mut self, reading: &Value) {
        self.taken = self.taken.max(reading["seq"].as_u64().unwrap_or_default());
        self.curve.extend(reading["celsius"].as_f64());
        if self.curve.len() > CURVE {
            self.curve.pop_front();
        }
    }

    /// Counts the readings that should be recorded by now and are not.
    fn missing(&mut self, now: Instant) -> u64 {
        self.past.push_back((now, self.taken));
        let mut due = self.complete;
        while let Some((_, taken)) = self.past.front().filter(|(at, _)| now - *at > LATE) {
            due = due.max(*taken);
            self.past.pop_front();
        }
        let between = (self.complete + 1)..=due;
        let missing = between.filter(|number| !self.recorded.contains(number)).count() as u64;
        self.complete = due;
        self.recorded = self.recorded.split_off(&(due + 1));
        missing
    }
}

/// The counts of the scene.
#[derive(Debug, Default)]
pub struct Mqtt {
    sensors: BTreeMap<String, Sensor>,
    broken: Option<Instant>,
    is_down: bool,
    readings: u64,
    bad: u64,
}

const SENSORS: [&str; 2] = ["sensor-0", "sensor-1"];
/// Sensors of others, whose number is not known.
const MOST_SENSORS: usize = 16;

impl Mqtt {
    /// The sensor of that id, in place of another one if there are too many.
    fn sensor(&mut self, id: &str) -> &mut Sensor {
        if self.sensors.len() >= MOST_SENSORS && !self.sensors.contains_key(id) {
            self.sensors.pop_last();
        }
        self.sensors.entry(id.chars().take(64).collect()).or_default()
    }
}

impl Play for Mqtt {
    fn message(&mut self, desk: &mut Desk, who: &'static str, message: &Message) {
        if message.subject == PUBACK {
            // Only those of readings: the sensor acknowledges nothing.
            if !message.is_sent() && SENSORS.contains(&who) {
                desk.flow(who, message, "ack");
                self.sensors.entry(who.into()).or_default().acknowledged += 1;
            }
            return;
        }
        if message.subject != SUBJECT {
            return;
        }
        let reading = message.json();
        desk.flow(who, message, if reading.is_object() { "message" } else { "bad" });
        if message.is_sent() && SENSORS.contains(&who) {
            desk.beat();
            self.readings += 1;
            self.sensors.entry(who.into()).or_default().has_sent(&reading);
        }
    }

    fn line(&mut self, _desk: &mut Desk, who: &'static str, is_stderr: bool, line: &str) {
        self.bad += u64::from(is_stderr && line.contains("not a reading"));
        if SENSORS.contains(&who) || is_stderr {
            return;
        }
        // `sensor-1 #5: 21.5 °C`
        let Some((id, rest)) = line.split_once(" #") else { return };
        let number = rest.split(':').next().and_then(|number| number.parse().ok());
        let (Some(sensor), Some(number)) = (self.sensors.get_mut(id), number) else { return };
        if who == "backend" {
            sensor.printed += 1;
        } else {
            sensor.count += 1;
            if number > sensor.complete {
                sensor.recorded.insert(number);
            }
        }
    }

    fn started(&mut self, _desk: &mut Desk, who: &'static str) {
        if SENSORS.contains(&who) {
            let sensor = self.sensors.entry(who.into()).or_default();
            // Numbers count from 1 again; the totals go on.
            (sensor.taken, sensor.complete) = (0, 0);
            sensor.recorded.clear();
            sensor.past.clear();
        }
    }

    fn ended(&mut self, desk: &mut Desk, who: &'static str, end: &End) {
        if who != "device-admin" || !end.success {
            desk.say(&end.sentence(who));
        }
    }

    fn server(&mut self, _desk: &mut Desk, is_up: bool) {
        self.is_down = !is_up;
    }

    fn tick(&mut self, desk: &mut Desk, now: Instant) {
        if self.is_down || desk.is_cut() || !desk.runs("recorder") {
            self.broken = Some(now);
        }
        // What is held back may come yet.
        if self.broken.is_some_and(|at| now - at < LATE) {
            return;
        }
        for (id, sensor) in &mut self.sensors {
            let missing = sensor.missing(now);
            if missing > 0 {
                sensor.missing += missing;
                let text = several(missing, "reading");
                let qos = if id == "sensor-0" { "QoS 0" } else { "QoS 1" };
                desk.lose(missing, &format!("{id} ({qos}): {text} never reached the recorder"));
            }
        }
    }

    fn seen(&mut self, desk: &mut Desk, subject: &str, payload: &[u8]) {
        if let Some(id) = subject.strip_prefix(STATUS) {
            let presence = String::from_utf8_lossy(payload).into_owned();
            let sensor = self.sensor(id);
            if sensor.presence != presence {
                desk.say(&format!("{id} is {presence}"));
                sensor.presence = presence;
            }
        } else if desk.is_alone {
            let reading: Value = serde_json::from_slice(payload).unwrap_or_default();
            desk.elsewhere(if reading.is_object() { "message" } else { "bad" });
            if let Some(id) = reading["sensor_id"].as_str() {
                self.readings += 1;
                let sensor = self.sensor(id);
                sensor.count += 1;
                sensor.has_sent(&reading);
            }
        }
    }

    fn note(&self, who: &str) -> String {
        let Some(sensor) = self.sensors.get(who) else { return String::new() };
        match who {
            "sensor-0" => "QoS 0: nothing is acknowledged".into(),
            _ => format!("QoS 1: {} acknowledged", grouped(sensor.acknowledged)),
        }
    }

    fn counters(&self, _desk: &Desk) -> Vec<Counter> {
        let of = |name, value: fn(&Sensor) -> u64| {
            let values = SENSORS.map(|id| self.sensors.get(id).map_or(0, value));
            let value = format!("{} / {}", grouped(values[0]), grouped(values[1]));
            Counter { name, value, is_own: true }
        };
        vec![
            any("readings", self.readings),
            of("QoS 0 / QoS 1: recorded", |sensor| sensor.count),
            of("printed by the backend", |sensor| sensor.printed),
            of("missing", |sensor| sensor.missing),
            own("bad, ignored or terminated", self.bad),
        ]
    }

    fn detail(&self, desk: &Desk) -> Value {
        let sensors: Vec<_> = self
            .sensors
            .iter()
            .filter(|(id, _)| desk.is_alone || SENSORS.contains(&id.as_str()))
            .map(|(id, sensor)| {
                json!({
                    "id": id, "presence": sensor.presence, "curve": sensor.curve,
                    "recorded": sensor.count, "printed": sensor.printed,
                    "missing": sensor.missing,
                })
            })
            .collect();
        json!({ "sensors": sensors })
    }
}
