//! What is done to the servers of a cluster.

use std::fmt;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use testkit::Cluster;

/// How long a fault lasts, and the pause after it.
const LASTS: std::ops::Range<f64> = 0.5..6.0;
const PAUSE: std::ops::Range<f64> = 0.5..3.0;

/// Faults without an end, the same for the same seed. Of each four, one is of each kind.
#[derive(Debug)]
pub struct Faults {
    random: StdRng,
    /// The rest of the four.
    kinds: Vec<Kind>,
}

/// Something that happens to one server, or to two: the others are no majority then.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    kind: Kind,
    servers: Vec<usize>,
    lasts: Duration,
    pause: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Kill,
    Stop,
    Pause,
    Isolate,
}

impl Faults {
    /// Those of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), kinds: Vec::new() }
    }

    /// The next one, for a cluster of so many servers.
    pub fn next(&mut self, size: usize) -> Fault {
        let random = &mut self.random;
        if self.kinds.is_empty() {
            self.kinds = vec![Kind::Kill, Kind::Stop, Kind::Pause, Kind::Isolate];
            self.kinds.shuffle(random);
        }
        let kind = self.kinds.pop().unwrap_or(Kind::Kill);
        let mut servers: Vec<_> = (0..size).collect();
        servers.shuffle(random);
        servers.truncate(if random.random_bool(0.25) { 2 } else { 1 });
        let lasts = Duration::from_secs_f64(random.random_range(LASTS));
        let pause = Duration::from_secs_f64(random.random_range(PAUSE));
        Fault { kind, servers, lasts, pause }
    }
}

impl Fault {
    /// The servers that lose what they have in memory.
    #[must_use]
    pub fn ends(&self) -> &[usize] {
        if matches!(self.kind, Kind::Kill | Kind::Stop) { &self.servers } else { &[] }
    }

    /// Makes it happen, mends it, and pauses.
    ///
    /// # Errors
    ///
    /// If a server does not start again.
    pub fn happen(&self, cluster: &mut Cluster) -> Result<()> {
        for &at in &self.servers {
            match self.kind {
                Kind::Kill => cluster.servers[at].kill()?,
                Kind::Stop => cluster.servers[at].stop()?,
                Kind::Pause => cluster.servers[at].suspend()?,
                Kind::Isolate => cluster.isolate(at)?,
            }
        }
        thread::sleep(self.lasts);
        for &at in &self.servers {
            match self.kind {
                Kind::Kill | Kind::Stop => cluster.servers[at].restart()?,
                Kind::Pause => cluster.servers[at].resume()?,
                Kind::Isolate => cluster.heal(),
            }
        }
        thread::sleep(self.pause);
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::Kill => "killed",
            Kind::Stop => "stopped",
            Kind::Pause => "paused",
            Kind::Isolate => "cut off",
        };
        let names: Vec<_> = self.servers.iter().map(|at| format!("n{}", at + 1)).collect();
        write!(f, "{} {what} for {:.1} s", names.join(" and "), self.lasts.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_its_faults() {
        let list = |seed| {
            let mut faults = Faults::new(seed);
            (0..4).map(|_| faults.next(3)).collect::<Vec<_>>()
        };
        assert_eq!(list(1), list(1));
        assert_ne!(list(1), list(2));
        for kind in [Kind::Kill, Kind::Stop, Kind::Pause, Kind::Isolate] {
            assert!(list(1).iter().any(|fault| fault.kind == kind));
        }
    }
}
