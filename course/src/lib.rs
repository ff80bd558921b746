//! The course of `cargo xtask learn`: programs with one flaw each.
//!
//! `examples/01-last-words.rs` is a program as learners get it, `01-last-words-solved.rs` the same
//! program without the flaw. What it has to do is a role of `cargo xtask prove`; some checks of that
//! role judge it.

/// A program with one flaw.
#[derive(Debug)]
pub struct Exercise {
    /// Number and name: `01-last-words`.
    pub name: &'static str,
    /// Which role of `prove` it plays.
    pub role: &'static str,
    /// The checks that it has to hold. The flaw fails the last one, and no other.
    pub checks: &'static [&'static str],
    /// The program with its flaw. Its first comment tells the story.
    pub source: &'static str,
    /// The program without it.
    pub solution: &'static str,
    /// From a nudge to the call. Indented lines are code.
    pub hints: [&'static str; 3],
    /// What solving it has taught.
    pub learnt: &'static str,
    /// The file with production code for the same problem.
    pub production: &'static str,
}

impl Exercise {
    /// Its number and title: `01 Last words`.
    #[must_use]
    pub fn title(&self) -> &'static str {
        self.comment().next().unwrap_or(self.name)
    }

    /// The story, as paragraphs of short lines.
    #[must_use]
    pub fn story(&self) -> String {
        self.comment().skip(2).map(|line| format!("{line}\n")).collect()
    }

    fn comment(&self) -> impl Iterator<Item = &'static str> {
        let lines = self.source.lines().map_while(|line| line.strip_prefix("//!"));
        lines.map(str::trim_start)
    }

    /// The file in which the learner edits it: `01-last-words.rs`.
    #[must_use]
    pub fn file(&self) -> String {
        format!("{}.rs", self.name)
    }
}

/// Returns the exercise of this name; its number or its name without the number will do.
#[must_use]
pub fn find(name: &str) -> Option<&'static Exercise> {
    let is_it = |exercise: &&Exercise| {
        let (number, words) = exercise.name.split_once('-').unwrap_or_default();
        [exercise.name, words, number, number.trim_start_matches('0')].contains(&name)
    };
    EXERCISES.iter().find(is_it)
}

macro_rules! program {
    ($name:literal) => {
        include_str!(concat!("../examples/", $name, ".rs"))
    };
}

/// All exercises, in their order.
pub const EXERCISES: &[Exercise] = &[
    Exercise {
        name: "01-last-words",
        role: "log-publisher",
        checks: &["arrives"],
        source: program!("01-last-words"),
        solution: program!("01-last-words-solved"),
        hints: [
            "Where is a message when `publish` has returned? The checker says where it is not.",
            "`publish` puts a message into a buffer of the client library. A task in the background \
             writes the buffer to the network, and ends with the program.",
            "Before the program ends, wait until the buffer is written:\n\n    client.flush().await?;",
        ],
        learnt: "`publish` fills a buffer, and `flush` waits until it is written to the network. \
                 Whether nats-server has taken the messages is another question: exercise 16.",
        production: "queue-groups/src/bin/log-publisher.rs",
    },
    Exercise {
        name: "02-too-late",
        role: "hello",
        checks: &["starts"],
        source: program!("02-too-late"),
        solution: program!("02-too-late-solved"),
        hints: [
            "Which subscriptions does nats-server know when the greeting comes?",
            "nats-server passes a message on to those that have subscribed at that moment. It keeps \
             none for later.",
            "Swap two lines, so that this one comes first:\n\n    \
             let mut messages = client.subscribe(\"hello\").await?;",
        ],
        learnt: "Core NATS keeps no message: subscribe first, then publish. A stream keeps them; \
                 exercises 8 to 11 use one.",
        production: "hello/src/main.rs",
    },
    Exercise {
        name: "03-three-copies",
        role: "log-worker",
        checks: &["starts", "takes-its-share"],
        source: program!("03-three-copies"),
        solution: program!("03-three-copies-solved"),
        hints: [
            "nats-server gives a message to each subscription. There is a kind of subscription that \
             shares.",
            "Subscriptions that name the same queue group share the messages: each message goes to \
             one of them. The name of the group is in the story.",
            "Subscribe as a member of the group:\n\n    \
             client.queue_subscribe(\"logs.process\", \"log_workers\".into())",
        ],
        learnt: "Members of a queue group share the messages. nats-server chooses the member; no \
                 setting anywhere says how many there are.",
        production: "queue-groups/src/bin/log-worker.rs",
    },
    Exercise {
        name: "04-the-obvious-way-out",
        role: "log-worker",
        checks: &["starts", "takes-its-share", "stopped-in-full-flow"],
        source: program!("04-the-obvious-way-out"),
        solution: program!("04-the-obvious-way-out-solved"),
        hints: [
            "Both sides know the subscription: nats-server, and the client library. At `unsubscribe` \
             the library forgets it at once. Where are the entries then that nats-server has sent \
             and the program has not read?",
            "The library has to read on until nothing is on its way any more. What nats-server sends \
             over one connection keeps its order: tell it to send no more entries, then let it send \
             you a message of your own. That one comes last. (`drain` will not do, not even with such \
             a message: the library then forgets the subscription before the last entries are here.)",
            "Ask for an end after so many entries that nats-server cannot read the number, and takes \
             it for \"now\", while the library reads on. Then send yourself a message. When it is here, \
             `unsubscribe` loses nothing any more:\n\n    \
             logs.unsubscribe_after(u64::MAX).await?;\n    \
             let inbox = client.new_inbox();\n    \
             let mut echo = client.subscribe(inbox.clone()).await?;\n    \
             client.publish(inbox, \"\".into()).await?;\n    \
             echo.next().await;\n    \
             logs.unsubscribe().await?;\n\n\
             After that `logs.next()` yields what has arrived, and then `None`. Do not leave the loop \
             before.",
        ],
        learnt: "A worker that leaves a queue group still owns the messages that it was given. `unsubscribe` \
                 loses them; an echo of your own says when the last one is here.",
        production: "common/src/drain.rs",
    },
    Exercise {
        name: "05-slow-and-silent",
        role: "log-worker",
        checks: &["starts", "burst"],
        source: program!("05-slow-and-silent"),
        solution: program!("05-slow-and-silent-solved"),
        hints: [
            "An entry waits in the client library until `next` takes it. How many may wait there?",
            "The library keeps 65,536 messages for each subscription, and drops those that come when \
             it is full. The only sign is an event of the connection. Both the number and the \
             handling of events are chosen when the client connects.",
            "Connect with options:\n\n    \
             async_nats::ConnectOptions::new()\n        \
             .subscription_capacity(1 << 20)\n        \
             .event_callback(async |event| …)\n        \
             .connect(url)\n\nThe event is `async_nats::Event::SlowConsumer`; report it on stderr.",
        ],
        learnt: "A client library drops messages for a subscriber that is too slow, and only an \
                 event says so. Choose the limit, and report the event.",
        production: "queue-groups/src/bin/log-worker.rs",
    },
    Exercise {
        name: "06-one-bad-request",
        role: "math-server",
        checks: &["starts", "right-answers", "bad-requests"],
        source: program!("06-one-bad-request"),
        solution: program!("06-one-bad-request-solved"),
        hints: [
            "Look at each `?` in the loop: where does the program go on after an error?",
            "`?` leaves `main`, and the program ends. A payload that is not JSON can be treated as \
             JSON without x and y: there is a refusal for that already.",
            "Null takes the place of what does not parse:\n\n    \
             serde_json::from_slice(&request.payload).unwrap_or_default()",
        ],
        learnt: "Any program can send anything. In the loop of a server, `?` is for errors after which \
                 it cannot go on; a bad request gets an error reply.",
        production: "rpc/src/bin/math-server.rs",
    },
    Exercise {
        name: "07-no-answer",
        role: "math-client",
        checks: &["starts", "tells-apart"],
        source: program!("07-no-answer"),
        solution: program!("07-no-answer-solved"),
        hints: [
            "Two `else` say \"no sum\" and throw away what the library knows. And what is a refusal to \
             the library: an error, or a reply?",
            "The error says whether no server has subscribed, which nats-server answers at once, or \
             the time has run out. A refusal is a reply with an empty body; its headers say why.",
            "Two kinds, and one header:\n\n    \
             match error.kind() {\n        \
             RequestErrorKind::NoResponders => …\n        \
             RequestErrorKind::TimedOut => …\n    \
             }\n\n    \
             reply.headers.as_ref().and_then(|it| it.get(\"Nats-Service-Error\"))",
        ],
        learnt: "No server: the request was not handled, send it again. No reply in time: it may \
                 have been handled. Refused: it is wrong. Three cases, three reactions.",
        production: "rpc/src/bin/math-client.rs",
    },
    Exercise {
        name: "08-counted-too-early",
        role: "order-publisher",
        checks: &["starts", "disk-full"],
        source: program!("08-counted-too-early"),
        solution: program!("08-counted-too-early-solved"),
        hints: [
            "What does the `publish` of a stream return? Let the compiler tell you, or the \
             documentation.",
            "To send an order and to get nats-server's answer are two steps. What `publish` returns \
             is a future for the second one: the acknowledgement, or a refusal. The program drops \
             it.",
            "One `await` for each step:\n\n    \
             let sent = jetstream.publish(\"orders.created\", order.into()).await?;\n    \
             sent.await?;",
        ],
        learnt: "A message is stored when its acknowledgement is here, and not before. The first \
                 `await` sends, the second one knows.",
        production: "jetstream/src/bin/order-publisher.rs",
    },
    Exercise {
        name: "09-sent-twice",
        role: "order-publisher",
        checks: &["starts", "three-kills"],
        source: program!("09-sent-twice"),
        solution: program!("09-sent-twice-solved"),
        hints: [
            "An order comes a second time. By what could nats-server know it?",
            "A stream remembers for two minutes which message ids it has stored, and drops a message \
             whose id is among them. The id of a message is a header; an order has an id already.",
            "Build the message with its id:\n\n    \
             let message = PublishMessage::build()\n        \
             .payload(order.clone().into())\n        \
             .message_id(&id);\n    \
             jetstream.send_publish(\"orders.created\", message)\n\n\
             It is `async_nats::jetstream::message::PublishMessage`.",
        ],
        learnt: "If an acknowledgement does not come, the message may be stored or not. Sent again \
                 with the same message id, it is stored once.",
        production: "jetstream/src/bin/order-publisher.rs",
    },
    Exercise {
        name: "10-acknowledged-too-early",
        role: "order-consumer",
        checks: &["starts", "killed"],
        source: program!("10-acknowledged-too-early"),
        solution: program!("10-acknowledged-too-early-solved"),
        hints: [
            "Between any two lines the program may be killed. What is lost between which of them?",
            "An order that is acknowledged is done with for nats-server. A kill after that, and \
             before the order is shipped, loses it.",
            "Ship first. After `println!`, and not before:\n\n    message.ack().await?;",
        ],
        learnt: "Acknowledge when the work is done. A kill in between then makes an order come \
                 twice: that is what \"at least once\" means.",
        production: "jetstream/src/bin/order-consumer.rs",
    },
    Exercise {
        name: "11-the-poison-order",
        role: "order-consumer",
        checks: &["starts", "poison-order"],
        source: program!("11-the-poison-order"),
        solution: program!("11-the-poison-order-solved"),
        hints: [
            "What does nats-server do with a message that it is given back? The checker has counted.",
            "`Nak` asks for the message once more, at once. Among the kinds of acknowledgement is \
             one for a message that can never be handled.",
            "Terminate it:\n\n    message.ack_with(AckKind::Term).await?;",
        ],
        learnt: "What can never be handled is terminated and reported, or it comes again for ever. \
                 Nak is for what may succeed later, and with a delay.",
        production: "jetstream/src/bin/order-consumer.rs",
    },
    Exercise {
        name: "12-the-deaf-watch",
        role: "config-app",
        checks: &["starts", "every-change", "bucket-made-anew"],
        source: program!("12-the-deaf-watch"),
        solution: program!("12-the-deaf-watch-solved"),
        hints: [
            "Revisions cannot tell the two buckets apart: the new one may have as many as the old one. \
             What can? And does your handle describe the bucket that is there, or the one that was?",
            "Open the bucket again now and then, and compare: behind a bucket is a stream, and a stream \
             has a time of creation. If it is another one, begin a new watch. For a moment there may \
             be no bucket at all.",
            "What to compare, and a place for it in the loop:\n\n    \
             bucket.stream.cached_info().created\n\n    \
             let mut every_second = interval(Duration::from_secs(1));\n    \
             tokio::select! {\n        \
             change = changes.next() => change,\n        \
             _ = every_second.tick() => …\n    \
             }\n\nIn the second case open the bucket with `get_key_value`, compare, and `continue`; \
             if it cannot be opened, too.",
        ],
        learnt: "A watch belongs to one bucket. Deleted and made anew, the bucket is another one \
                 under the same name, and no error says so: compare the time of creation.",
        production: "kv/src/follow.rs",
    },
    Exercise {
        name: "13-two-admins",
        role: "config-admin",
        checks: &["starts", "two-at-once"],
        source: program!("13-two-admins"),
        solution: program!("13-two-admins-solved"),
        hints: [
            "Between the read and the write lie 20 ms. What may the other admin do in that time?",
            "Each value has a revision; 0 means that there is no value yet. A bucket can refuse a \
             write unless the last revision is still the one that you have read. If it refuses for \
             that reason, read again, and decide again.",
            "Write for the revision that you have read:\n\n    \
             bucket.update(KEY, value.into(), revision).await\n\n\
             The error's kind is `kv::UpdateErrorKind::WrongLastRevision` if the other admin was \
             faster. Then go round the loop once more, without counting that turn.",
        ],
        learnt: "Read, decide, write loses writes as soon as there are two writers. With the \
                 revision that was read (compare and set) one of them is refused, and reads again.",
        production: "kv/src/bin/config-admin.rs",
    },
    Exercise {
        name: "14-before-the-puback",
        role: "sensor",
        checks: &["slow-broker"],
        source: program!("14-before-the-puback"),
        solution: program!("14-before-the-puback-solved"),
        hints: [
            "`publish` puts a reading into a queue of the client. Who sends it, and what becomes of \
             that task when `main` returns?",
            "The task that polls counts the PUBACKs, and ends when it has one for each reading. \
             `main` could wait for it.",
            "Keep the task's handle, and wait for it at the end:\n\n    \
             let broker_has_all = tokio::spawn(async move {\n        …\n    });\n    …\n    \
             broker_has_all.await?;",
        ],
        learnt: "QoS 1 protects a reading only if the sensor waits for its PUBACK. A reading in the client's queue is \
                 lost with the client.",
        production: "mqtt-bridge/src/bin/sensor.rs",
    },
    Exercise {
        name: "15-a-presence-that-lies",
        role: "sensor",
        checks: &["last-will"],
        source: program!("15-a-presence-that-lies"),
        solution: program!("15-a-presence-that-lies-solved"),
        hints: [
            "What is to be said after a sensor's end has to be arranged before: when it connects.",
            "MQTT calls it the last will: a message that the broker keeps with the connection, and \
             publishes if the connection ends without a goodbye. It is an option of the connection.",
            "The will is a topic, a payload, a QoS, and whether it is retained:\n\n    \
             let will = LastWill::new(STATUS, \"offline\", QoS::AtLeastOnce, true);\n    \
             options.set_last_will(will);",
        ],
        learnt: "The broker says offline for a sensor that is gone, if the sensor has left a last \
                 will. Retained, as `online` is, it reaches subscribers that come later, too.",
        production: "mqtt-bridge/src/bin/sensor.rs",
    },
    Exercise {
        name: "16-denied",
        role: "log-publisher",
        checks: &["arrives", "denied"],
        source: program!("16-denied"),
        solution: program!("16-denied-solved"),
        hints: [
            "`publish` and `flush` return before nats-server has looked at the messages. What has to \
             happen before you can be sure that there is no refusal? (Not a sleep: it only guesses.)",
            "An option of `connect` takes the events of the connection; collect them in a channel. \
             Before you look into it, nats-server has to have answered something that was sent after \
             the entries. It answers by itself when you ask something on a subject to which no program \
             has subscribed. The event follows a moment later: the library reports events in a task \
             of its own.",
            "Collect the events:\n\n    \
             let options = ConnectOptions::new().event_callback(move |event| {\n        \
             if let Event::ServerError(error) = event { … }\n        \
             async {}\n    });\n\n\
             Ask, and then look:\n\n    \
             let _ = client.request(\"no.such.subject\", \"\".into()).await;\n    \
             timeout(Duration::from_millis(100), refusals.recv()).await",
        ],
        learnt: "A denial is no error of the call that is denied. Only the connection's events tell, \
                 and only after a round trip can you be sure that there is none.",
        production: "common/src/connection.rs",
    },
    Exercise {
        name: "17-five-attempts",
        role: "job-worker",
        checks: &["starts", "does-jobs", "pauses"],
        source: program!("17-five-attempts"),
        solution: program!("17-five-attempts-solved"),
        hints: [
            "How long do five attempts take? The checker has measured the time between two.",
            "`Nak(None)` means: deliver it again now. A nak can say how long to wait first, and the \
             number of the attempt is there to make it longer each time.",
            "1 s, then 2 s, 4 s, 8 s:\n\n    \
             let pause = Duration::from_secs(1 << (attempt - 1));\n    \
             message.ack_with(AckKind::Nak(Some(pause))).await?;",
        ],
        learnt: "A nak without a delay burns all attempts in milliseconds. What has reached \
                 `max_deliver` stays in the stream, and no program is offered it: the service counts \
                 attempts itself, and stores a dead letter.",
        production: "jobs/src/bin/job-worker.rs",
    },
    Exercise {
        name: "18-the-empty-letter",
        role: "job-worker",
        checks: &["starts", "does-jobs", "bad-job"],
        source: program!("18-the-empty-letter"),
        solution: program!("18-the-empty-letter-solved"),
        hints: [
            "What does a work queue do with a message that is terminated?",
            "`Term` deletes the message, and its payload with it. The worker has the payload in its \
             hands: it need not ask for it. And if it is killed between two steps, which order of \
             the steps loses nothing?",
            "Publish first, from what was delivered, and terminate when that is stored:\n\n    \
             let (headers, payload) = (headers(&message)?, message.payload.clone());\n    \
             jetstream.publish_with_headers(subject, headers, payload).await?.await?;\n    \
             message.double_ack_with(AckKind::Term).await?;",
        ],
        learnt: "NATS has no dead-letter queue. The worker publishes the dead letter, waits until it \
                 is stored, and only then terminates the job. Killed in between, it stores the letter \
                 a second time, which a stream with one message for each subject does not mind.",
        production: "jobs/src/dead.rs",
    },
];
