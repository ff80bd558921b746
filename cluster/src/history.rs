//! What clients of a cluster have seen, and whether that was right.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

/// What clients have seen while servers failed.
#[derive(Debug, Default)]
pub struct History {
    /// Messages that were published and acknowledged.
    pub acknowledged: Vec<Acknowledged>,
    /// Attempts to add 1 to a counter in a bucket.
    pub increments: Vec<Increment>,
    /// What others read of it meanwhile.
    pub reads: Vec<Read>,
}

/// A message that is stored, as nats-server said.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// The publisher's id for it.
    pub id: String,
    /// Its number in the stream.
    pub sequence: u64,
    /// When the acknowledgement came.
    pub at: Instant,
}

/// An attempt to replace the value before `value` by `value`, if no other client has done so.
#[derive(Clone, Debug)]
pub struct Increment {
    /// What was to be written.
    pub value: u64,
    /// When it began.
    pub began: Instant,
    /// When its answer came, or did not come in time.
    pub ended: Instant,
    /// The answer.
    pub outcome: Outcome,
}

/// The answer to an [`Increment`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// It was written, as this revision.
    Written(u64),
    /// Another client was faster.
    Refused,
    /// None came: it was written or not.
    Unknown,
}

/// The counter, as a client has read it.
#[derive(Clone, Debug)]
pub struct Read {
    /// When the request was sent.
    pub began: Instant,
    /// The revision in the answer.
    pub revision: u64,
    /// Who may answer.
    pub from: From,
}

/// Who answers a request for a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum From {
    /// Any server with a copy (*direct get*, which clients use for buckets).
    AnyCopy,
    /// The server that leads the stream.
    Leader,
}

/// What is there when all servers run again.
#[derive(Debug, Default)]
pub struct Found {
    /// The id of each message of the stream, by its number.
    pub stored: BTreeMap<u64, String>,
    /// The counter's last value and its revision.
    pub counter: Option<(u64, u64)>,
    /// What each copy holds, of the stream and of the bucket: how many messages, and the last
    /// number. The copies of one have to be equal.
    pub copies: [Vec<[u64; 2]>; 2],
}

impl Found {
    /// Whether all copies hold the same.
    #[must_use]
    pub fn agree(&self) -> bool {
        self.copies.iter().all(|copies| copies.windows(2).all(|pair| pair[0] == pair[1]))
    }
}

/// A comparison of what clients have seen with what is there.
#[derive(Debug, Default)]
pub struct Report {
    /// How many messages were acknowledged.
    pub acknowledged: usize,
    /// Those that are not there.
    pub lost: Vec<String>,
    /// Those that are there more than once.
    pub doubled: Vec<String>,
    /// The longest time without any acknowledgement.
    pub standstill: Duration,
    /// How many increments were written.
    pub increments: usize,
    /// How many had no answer.
    pub unknown: usize,
    /// What no correct counter does.
    pub violations: Vec<String>,
    /// How many reads there were, how many had an older value than one that was acknowledged before
    /// they began, and how old at most. By any copy, and by the leader.
    pub stale: [(usize, usize, Duration); 2],
    /// Whether all servers hold the same.
    pub agree: bool,
}

impl Report {
    /// Compares.
    #[must_use]
    pub fn new(history: &History, found: &Found) -> Self {
        let mut times: HashMap<&str, usize> = HashMap::new();
        for id in found.stored.values() {
            *times.entry(id).or_default() += 1;
        }
        let is_lost = |it: &&Acknowledged| found.stored.get(&it.sequence) != Some(&it.id);
        let lost = history.acknowledged.iter().filter(is_lost).map(|it| it.id.clone()).collect();
        let doubled = times.iter().filter(|(_, count)| **count > 1);
        let mut moments: Vec<_> = history.acknowledged.iter().map(|it| it.at).collect();
        moments.sort();
        let gaps = moments.windows(2).map(|pair| pair[1] - pair[0]);
        let written = |it: &&Increment| matches!(it.outcome, Outcome::Written(_));
        Self {
            acknowledged: history.acknowledged.len(),
            lost,
            doubled: doubled.map(|(id, _)| (*id).to_owned()).collect(),
            standstill: gaps.max().unwrap_or_default(),
            increments: history.increments.iter().filter(written).count(),
            unknown: history.increments.iter().filter(|it| it.outcome == Outcome::Unknown).count(),
            violations: violations(&history.increments, found.counter),
            stale: [From::AnyCopy, From::Leader].map(|from| stale(history, from)),
            agree: found.agree(),
        }
    }

    /// Whether the cluster has kept what it acknowledged. Old values that were read are no fault:
    /// nats-server does not promise that reads are fresh.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.lost.is_empty()
            && self.doubled.is_empty()
            && self.violations.is_empty()
            && self.agree
            && self.acknowledged > 0
            && self.increments > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = |list: &[String]| match list {
            [] => String::new(),
            list => format!(": {}", list[..list.len().min(5)].join(", ")),
        };
        writeln!(f, "messages    {} acknowledged", self.acknowledged)?;
        writeln!(f, "  lost      {}{}", self.lost.len(), some(&self.lost))?;
        writeln!(f, "  doubled   {}{}", self.doubled.len(), some(&self.doubled))?;
        writeln!(f, "  longest standstill {:.1} s", self.standstill.as_secs_f64())?;
        writeln!(
            f,
            "counter     {} increments, {} more without an answer",
            self.increments, self.unknown
        )?;
        writeln!(f, "  violations {}{}", self.violations.len(), some(&self.violations))?;
        for (who, (reads, stale, age)) in ["any copy", "the leader"].into_iter().zip(self.stale) {
            let age = age.as_secs_f64();
            writeln!(f, "  read from {who}: {stale} of {reads} old values, up to {age:.1} s old")?;
        }
        write!(f, "copies      {}", if self.agree { "all alike" } else { "not alike" })
    }
}

/// What the increments show that no correct counter does. A correct one behaves as if each increment
/// happened at one moment between its begin and its end.
fn violations(increments: &[Increment], last: Option<(u64, u64)>) -> Vec<String> {
    let mut violations = Vec::new();
    let mut written: Vec<(u64, &Increment)> = Vec::new();
    let mut unknown: HashMap<u64, usize> = HashMap::new();
    for it in increments {
        match it.outcome {
            Outcome::Written(revision) => written.push((revision, it)),
            Outcome::Unknown => *unknown.entry(it.value).or_default() += 1,
            Outcome::Refused => {}
        }
    }
    written.sort_by_key(|(revision, _)| *revision);
    // Values between two that were written must be from increments without an answer.
    let skipped = |from: u64, to: u64, violations: &mut Vec<String>| {
        for value in from..to {
            if !unknown.contains_key(&value) {
                violations.push(format!("{value} was written by no client"));
            }
        }
    };
    let mut next = 1;
    for (at, (revision, it)) in written.iter().enumerate() {
        if it.value < next {
            violations.push(format!("{} was written again, as revision {revision}", it.value));
        }
        skipped(next, it.value, &mut violations);
        next = next.max(it.value + 1);
        // A later revision must not have ended before this one began.
        if let Some((later, _)) = written[at + 1..].iter().find(|(_, other)| other.ended < it.began)
        {
            violations.push(format!("revision {later} ended before revision {revision} began"));
        }
    }
    match last {
        Some((value, _)) if value + 1 < next => {
            violations.push(format!("the counter is {value}, and {} was written", next - 1));
        }
        Some((value, _)) => skipped(next, value + 1, &mut violations),
        None if next > 1 => violations.push("the counter is gone".into()),
        None => {}
    }
    violations
}

fn stale(history: &History, from: From) -> (usize, usize, Duration) {
    // For each moment the newest revision that was acknowledged by then.
    let mut written: Vec<(Instant, u64)> = history
        .increments
        .iter()
        .filter_map(|it| match it.outcome {
            Outcome::Written(revision) => Some((it.ended, revision)),
            _ => None,
        })
        .collect();
    written.sort();
    let (mut reads, mut stale, mut oldest) = (0, 0, Duration::ZERO);
    for read in history.reads.iter().filter(|read| read.from == from) {
        reads += 1;
        let newer = written.iter().take_while(|(at, _)| *at < read.began);
        let replaced =
            newer.filter(|(_, revision)| *revision > read.revision).map(|(at, _)| *at).min();
        if let Some(at) = replaced {
            stale += 1;
            oldest = oldest.max(read.began - at);
        }
    }
    (reads, stale, oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn increment(value: u64, outcome: Outcome, at: Instant) -> Increment {
        Increment { value, began: at, ended: at, outcome }
    }

    fn counted(values: &[(u64, Outcome)], last: u64) -> Vec<String> {
        let begin = Instant::now();
        let at = |n: usize| begin + Duration::from_secs(1) * u32::try_from(n).unwrap_or(0);
        let increments = values.iter().enumerate();
        let increments = increments.map(|(n, (value, outcome))| increment(*value, *outcome, at(n)));
        violations(&increments.collect::<Vec<_>>(), Some((last, 0)))
    }

    #[test]
    fn a_counter_that_only_counts_is_right() {
        use Outcome::{Refused, Unknown, Written};
        assert!(counted(&[(1, Written(1)), (2, Written(2)), (2, Refused)], 2).is_empty());
        // Written, although no answer came; and not.
        assert!(counted(&[(1, Written(1)), (2, Unknown), (3, Written(3))], 3).is_empty());
        assert!(counted(&[(1, Written(1)), (2, Unknown), (2, Written(2))], 2).is_empty());
        assert!(counted(&[(1, Written(1)), (2, Unknown)], 2).is_empty());
    }

    #[test]
    fn what_no_counter_does_is_found() {
        use Outcome::Written;
        for (case, values, last) in [
            ("a lost update", vec![(1, Written(1)), (2, Written(2)), (2, Written(3))], 2),
            ("a lost acknowledgement", vec![(1, Written(1)), (2, Written(2))], 1),
            ("a value from nowhere", vec![(1, Written(1)), (3, Written(3))], 3),
            ("a last value from nowhere", vec![(1, Written(1))], 2),
            ("an order that time contradicts", vec![(2, Written(2)), (1, Written(1))], 2),
        ] {
            assert_eq!(counted(&values, last).len(), 1, "{case}");
        }
    }

    #[test]
    fn messages_that_are_lost_or_doubled_and_copies_that_differ_are_found() {
        let at = Instant::now();
        let acknowledged = |id: &str, sequence| Acknowledged { id: id.into(), sequence, at };
        let mut history = History {
            acknowledged: vec![acknowledged("a", 1), acknowledged("b", 2)],
            increments: vec![increment(1, Outcome::Written(1), at)],
            reads: Vec::new(),
        };
        let mut found = Found {
            stored: BTreeMap::from([(1, "a".to_owned()), (2, "b".to_owned())]),
            counter: Some((1, 1)),
            copies: [vec![[2, 2]; 3], vec![[1, 1]; 3]],
        };
        assert!(Report::new(&history, &found).holds());
        found.copies[0][1] = [1, 2];
        assert!(!Report::new(&history, &found).holds());
        found.copies[0][1] = [2, 2];
        found.stored.insert(3, "a".into());
        assert_eq!(Report::new(&history, &found).doubled, ["a"]);
        found.stored.remove(&3);
        history.acknowledged.push(acknowledged("c", 3));
        let report = Report::new(&history, &found);
        assert_eq!(report.lost, ["c"]);
        assert!(!report.holds());
        // Another message under the number that was acknowledged.
        found.stored.insert(3, "d".into());
        assert_eq!(Report::new(&history, &found).lost, ["c"]);
    }

    #[test]
    fn an_old_value_counts_only_if_a_newer_one_was_acknowledged_before() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let read = |began, revision| Read { began, revision, from: From::AnyCopy };
        let history = History {
            increments: vec![
                increment(1, Outcome::Written(1), begin),
                increment(2, Outcome::Written(2), begin + 2 * second),
            ],
            reads: vec![
                read(begin + second, 1),
                read(begin + 2 * second, 1),
                read(begin + 3 * second, 1),
                read(begin + 5 * second, 1),
            ],
            ..History::default()
        };
        assert_eq!(stale(&history, From::AnyCopy), (4, 2, 3 * second));
        assert_eq!(stale(&history, From::Leader), (0, 0, Duration::ZERO));
    }
}
