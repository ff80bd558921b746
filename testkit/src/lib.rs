//! A real nats-server, and real programs run against it, for tests and demonstrations.
//!
//! - [`Server`] and [`Cluster`]: private servers on free ports, killed and restarted at will;
//! - [`Program`]: a running program: its lines as they come, signals, its end;
//! - [`Link`]: a network between a client and a server that can be slow or cut;
//! - [`Lesson`]: the terminal sessions of a README, played against a server;
//! - [`Certificates`]: a certificate authority, and certificates that it signed, for TLS;
//! - [`write_secret`]: a file that only this user may read;
//! - [`example`]: the path of an example of the package under test;
//! - [`nats_server`]: the path of the server's binary, which is fetched if need be.
//!
//! Every call blocks, until a time-out. A test waits for an event, never for some time. If the
//! event does not come, the error says what the program or the server has printed until then.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let mut server = testkit::Server::start()?;
//! let mut hello = testkit::Program::spawn(&mut server.command("target/debug/hello"))?;
//! hello.expect("Hello World!")?;
//! assert!(hello.wait()?.success());
//!
//! server.kill()?;
//! server.restart()?; // the same ports, the same data
//! # Ok(())
//! # }
//! ```

mod action;
mod certificates;
mod cluster;
mod guard;
mod lesson;
mod link;
mod port;
mod program;
mod provision;
mod scene;
mod server;
mod topology;

pub use action::{Action, Run};
pub use certificates::{Certificates, write_secret};
pub use cluster::Cluster;
pub use lesson::{Lesson, example, program};
pub use link::{Link, Way};
pub use port::Port;
pub use program::{Ended, Program, Signal};
pub use provision::{OLDEST, VERSION, nats_server};
pub use scene::{Host, Printed, Scene, Step, Terminal, is_match};
pub use server::{Options, Ports, Server, isolated};
pub use topology::Topology;
