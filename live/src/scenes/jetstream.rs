//! A stream as a row of cells: stored, delivered, delivered again, acknowledged.

use std::collections::{BTreeMap, HashSet, VecDeque};

use serde_json::{Value, json};

use super::{Counter, End, Play, any, delivery, own};
use crate::desk::{Desk, grouped, several};
use crate::wire::Message;

const PUBLISHER: &str = "order-publisher";
const SUBJECT: &str = "orders.created";
const STREAM: &str = "$JS.API.STREAM.INFO.playgrnd_stream";
const CONSUMER: &str = "$JS.API.CONSUMER.INFO.playgrnd_stream.order_processor";
/// How many cells are kept, and how many ids of printed orders.
const CELLS: usize = 4_000;
/// How many cells are shown: acknowledged ones before the consumer's position, those from there on,
/// and the newest.
const SHOWN: (u64, usize, usize) = (32, 72, 24);
const IDS: usize = 20_000;

/// An order in the stream, as the lines of the programs have shown it.
#[derive(Debug, Default)]
struct Cell {
    deliveries: u64,
    by: &'static str,
    acknowledged: bool,
    terminated: bool,
}

/// What nats-server says about the stream.
#[derive(Debug, Default, PartialEq)]
struct Stream {
    created: String,
    storage: String,
    messages: u64,
    last: u64,
}

/// The counts of the scene.
#[derive(Debug, Default)]
pub struct JetStream {
    cells: BTreeMap<u64, Cell>,
    stream: Option<Stream>,
    was_down: bool,
    deleted: bool,
    floor: u64,
    pending: u64,
    unacknowledged: u64,
    stored: u64,
    printed: u64,
    again: u64,
    twice: u64,
    ids: (HashSet<String>, VecDeque<String>),
}

impl JetStream {
    fn cell(&mut self, number: u64) -> Option<&mut Cell> {
        if self.cells.len() >= CELLS && !self.cells.contains_key(&number) {
            let (first, _) = self.cells.first_key_value()?;
            if number < *first {
                return None;
            }
            self.cells.pop_first();
        }
        Some(self.cells.entry(number).or_default())
    }

    fn printed(&mut self, id: &str) {
        self.printed += 1;
        if !self.ids.0.insert(id.to_owned()) {
            self.twice += 1;
            return;
        }
        self.ids.1.push_back(id.to_owned());
        if self.ids.1.len() > IDS
            && let Some(oldest) = self.ids.1.pop_front()
        {
            self.ids.0.remove(&oldest);
        }
    }

    /// Compares the stream with what it was half a second ago.
    fn is_now(&mut self, desk: &mut Desk, now: Option<Stream>) {
        let before = std::mem::replace(&mut self.stream, now);
        let now = self.stream.as_ref();
        if let Some(before) = before
            && now.is_none_or(|now| now.created != before.created)
        {
            let orders = several(before.messages, "order");
            let open = grouped(self.pending + self.unacknowledged);
            let deleted = std::mem::take(&mut self.deleted);
            let down = std::mem::take(&mut self.was_down);
            match (deleted, down, before.storage.as_str()) {
                (true, ..) => desk.say(&format!(
                    "this page has deleted the stream, with {orders}: {open} of them not \
                     acknowledged by a consumer, and not counted as lost"
                )),
                (_, true, "memory") => desk.lose(
                    before.messages,
                    &format!(
                        "nats-server ended, and the stream was in its memory: {orders} are gone, \
                         {open} of them not acknowledged by a consumer"
                    ),
                ),
                _ => desk.lose(before.messages, &format!("the stream is gone, with {orders}")),
            }
            self.cells.clear();
            self.floor = 0;
        } else if let Some(now) = now
            && std::mem::take(&mut self.was_down)
        {
            let text = several(now.messages, "order");
            desk.kept(&format!("nats-server is back, and the stream with {text}: it is in a file"));
        }
    }
}

impl Play for JetStream {
    fn message(&mut self, desk: &mut Desk, who: &'static str, message: &Message) {
        if who == PUBLISHER {
            if message.subject == SUBJECT {
                desk.flow(who, message, "message");
            } else if let Some(number) = message.json()["seq"].as_u64()
                && !message.is_sent()
            {
                desk.flow(who, message, "ack");
                desk.beat();
                self.stored += 1;
                self.cell(number);
            }
        } else if message.is_sent()
            && let Some((number, _)) = delivery(&message.subject)
        {
            let terminates = message.payload.starts_with(b"+TERM");
            if message.payload.is_empty() || message.payload.starts_with(b"+ACK") || terminates {
                desk.flow(who, message, "ack");
                // On a line that is cut it has not arrived.
                if !desk.view(who).cut
                    && let Some(cell) = self.cell(number)
                {
                    (cell.acknowledged, cell.terminated) = (true, terminates);
                }
            }
        } else if let Some((number, deliveries)) = delivery(&message.reply) {
            let is_order = message.payload.first() == Some(&b'{');
            desk.flow(
                who,
                message,
                match deliveries {
                    _ if !is_order => "bad",
                    1 => "message",
                    _ => "again",
                },
            );
            self.again += u64::from(deliveries > 1);
            if let Some(cell) = self.cell(number) {
                (cell.deliveries, cell.by) = (deliveries, who);
            }
        }
    }

    fn line(&mut self, _desk: &mut Desk, who: &'static str, is_stderr: bool, line: &str) {
        if who != PUBLISHER
            && !is_stderr
            && let Some((id, rest)) = line.split_once(": ")
            && rest.contains(" x ")
        {
            self.printed(id);
        }
    }

    fn ended(&mut self, desk: &mut Desk, who: &'static str, end: &End) {
        let how = end.sentence(who);
        if who == PUBLISHER {
            desk.say(&how);
            return;
        }
        let open = |cell: &&Cell| cell.by == who && cell.deliveries > 0 && !cell.acknowledged;
        match self.cells.values().filter(open).count() as u64 {
            0 => desk.kept(&format!("{how}: it had acknowledged all that it had received")),
            open => desk.kept(&format!(
                "{how}: {} that it had not acknowledged will be delivered again, 5 s after the delivery",
                several(open, "order")
            )),
        }
    }

    fn server(&mut self, _desk: &mut Desk, is_up: bool) {
        self.was_down |= !is_up;
    }

    fn questions(&self) -> Vec<(&'static str, &'static str)> {
        vec![(STREAM, ""), (CONSUMER, "")]
    }

    fn answered(&mut self, desk: &mut Desk, subject: &str, answer: &Value) {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        match subject {
            "deleted" => self.deleted = true,
            STREAM => {
                let state = &answer["state"];
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let now = state.is_object().then(|| Stream {
                    created: text(&answer["created"]),
                    storage: text(&answer["config"]["storage"]),
                    messages: number(&state["messages"]),
                    last: number(&state["last_seq"]),
                });
                self.is_now(desk, now);
            }
            _ => {
                self.floor = number(&answer["ack_floor"]["stream_seq"]);
                for (_, cell) in self.cells.range_mut(..=self.floor) {
                    cell.acknowledged = true;
                }
                self.pending = number(&answer["num_pending"]);
                self.unacknowledged = number(&answer["num_ack_pending"]);
            }
        }
    }

    fn seen(&mut self, desk: &mut Desk, _subject: &str, _payload: &[u8]) {
        desk.elsewhere("message");
    }

    fn counters(&self, _desk: &Desk) -> Vec<Counter> {
        let stream = self.stream.as_ref();
        let storage = stream.map(|stream| format!("in {}", stream.storage));
        let storage = storage.unwrap_or_else(|| "there is none".into());
        vec![
            Counter { name: "stream", value: storage, is_own: false },
            any("orders in it", stream.map_or(0, |stream| stream.messages)),
            any("not delivered yet", self.pending),
            any("delivered, not acknowledged", self.unacknowledged),
            own("printed", self.printed),
            own("delivered again", self.again),
            own("printed twice", self.twice),
        ]
    }

    fn detail(&self, desk: &Desk) -> Value {
        if desk.is_alone {
            return Value::Null;
        }
        let (before, around, newest) = SHOWN;
        let from = self.floor.saturating_sub(before);
        let mut shown: Vec<_> = self.cells.range(from..).take(around).collect();
        let last = shown.last().map_or(from, |(number, _)| **number);
        let mut tail: Vec<_> = self.cells.range(last + 1..).rev().take(newest).collect();
        tail.reverse();
        let left_out = self.cells.range(last + 1..).count() - tail.len();
        let gap = shown.len();
        shown.append(&mut tail);
        let mut cells: Vec<_> = shown
            .into_iter()
            .map(|(number, cell)| {
                let state = match cell {
                    Cell { terminated: true, .. } => 4,
                    Cell { acknowledged: true, .. } => 3,
                    Cell { deliveries: 0, .. } => 0,
                    Cell { deliveries: 1, .. } => 1,
                    Cell { .. } => 2,
                };
                json!([number, state, cell.deliveries > 1])
            })
            .collect();
        if left_out > 0 {
            cells.insert(gap, json!([null, left_out]));
        }
        json!({ "cells": cells, "floor": self.floor })
    }
}
