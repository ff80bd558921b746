//! Breaks a NATS program, in any language, and says what was lost.
//!
//! A [`Role`] is what one program of the contract does: `math-server` answers requests. Its
//! [`Check`]s run a [`Candidate`], any command that plays this role, against a private nats-server,
//! break things, and compare what comes out with what has to. They look from outside only: at the
//! wire, at nats-server's monitoring, at lines of stdout, at the exit code.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let role = prove::role("math-server").unwrap();
//! let candidate = prove::Candidate::new(["python3", "server.py"])?;
//! let plan = prove::Plan::new(role, "target/prove");
//! for verdict in prove::run(&plan, &candidate, |_| ())? {
//!     println!("{} {}: {}", verdict.holds(), verdict.check.name, verdict.figure());
//! }
//! # Ok(())
//! # }
//! ```

mod instance;
mod leftovers;
mod roles;
mod run;
mod seen;
mod trial;
mod verdict;

pub use instance::{Candidate, End, Instance, Launch};
pub use leftovers::Orphans;
pub use roles::{math_server, role, roles};
pub use run::{Event, Plan, Verdict, failing, run};
pub use seen::{Held, Seen};
pub use trial::Trial;
pub use verdict::Flaw;

use anyhow::Result;

/// What a program of the contract does, and the checks that it has to pass.
#[derive(Debug)]
pub struct Role {
    /// The program's name.
    pub name: &'static str,
    /// What a program in this role does, on one screen, with a short version in Python.
    pub contract: &'static str,
    /// The checks. One that is called `starts` is made first; if it fails, the others are not.
    pub checks: &'static [Check],
}

/// One thing that a program must do, and how it is broken.
pub struct Check {
    /// Its name, for the command line.
    pub name: &'static str,
    /// What has to hold, as a sentence.
    pub claim: &'static str,
    /// Link to the explanation, a README and a heading in it: `rpc/README.md#what-the-service-adds`.
    pub lesson: &'static str,
    /// Makes the check. Returns what it has measured, or a [`Flaw`]; another error means that the
    /// check could not be made.
    pub run: fn(&Trial) -> Result<String>,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check")
            .field("name", &self.name)
            .field("claim", &self.claim)
            .finish_non_exhaustive()
    }
}
