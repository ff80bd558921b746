//! A network between a client and a server.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A TCP proxy in front of a server, which acts as a network that is slow, silent or broken.
///
/// ```no_run
/// # fn main() -> anyhow::Result<()> {
/// let server = testkit::Server::start()?;
/// let link = testkit::Link::to(server.port())?;
/// link.delay(std::time::Duration::from_millis(20)); // each way: a round trip takes 40 ms
/// link.cut(); // as a pulled cable: nothing arrives, and no connection is closed
/// link.heal();
/// link.reset(); // connections break, new ones are accepted
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Link {
    port: u16,
    state: Arc<State>,
}

/// Which way bytes go through a [`Link`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Way {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

impl Way {
    fn back(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }
}

/// Called with the number of a connection and the bytes that one of its ends has sent, as they
/// come: before they are delayed or held back. No bytes: that end sends no more.
type Tap = dyn Fn(u64, Way, &[u8]) + Send + Sync;

#[derive(Default)]
struct State {
    network: Mutex<Network>,
    changed: Condvar,
    tap: Option<Box<Tap>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("network", &self.network).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Network {
    delay: Duration,
    cut: bool,
    closed: bool,
    carried: u64,
    /// How many connections there were.
    accepted: u64,
    /// Those that are open, by number.
    connections: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    ends: [TcpStream; 2],
    /// How many of its threads have not ended.
    threads: usize,
    /// The ways on which nothing more comes: the end that sent there has closed the connection.
    closed: Vec<Way>,
}

impl Network {
    /// Whether bytes that go this way are held back. Those for an end that has closed the connection
    /// are not: they would wait, each connection with a thread, until the cut is over.
    fn holds(&self, number: u64, way: Way) -> bool {
        self.cut && !self.closed && !self.has_closed(number, way.back())
    }

    fn thread_ended(&mut self, number: u64) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.threads -= 1;
            if connection.threads == 0 {
                self.connections.remove(&number);
            }
        }
    }

    fn has_closed(&self, number: u64, way: Way) -> bool {
        self.connections.get(&number).is_some_and(|it| it.closed.contains(&way))
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Network)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

impl Link {
    /// Returns a link to `port` of this machine.
    ///
    /// # Errors
    ///
    /// If no port is free to listen on.
    pub fn to(port: u16) -> Result<Self> {
        Self::open(port, None)
    }

    /// Returns a link to `port` of this machine, and calls `tap` with the bytes that go through it:
    /// the number of the connection, which way they go, and the bytes as they come, before they are
    /// delayed or held back. No bytes: nothing more comes from there.
    ///
    /// # Errors
    ///
    /// As [`Link::to`].
    pub fn tapped(
        port: u16,
        tap: impl Fn(u64, Way, &[u8]) + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::open(port, Some(Box::new(tap)))
    }

    fn open(port: u16, tap: Option<Box<Tap>>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot open a link")?;
        let link = Self {
            port: listener.local_addr()?.port(),
            state: Arc::new(State { tap, ..State::default() }),
        };
        let state = Arc::clone(&link.state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if state.lock().closed {
                    break;
                }
                // If the server is away, the client's connection closes.
                if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                    let _ = join(&state, client, server);
                }
            }
        });
        Ok(link)
    }

    /// The link's URL for NATS clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The link's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes every byte from now on take `delay` longer, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.state.change(|network| network.delay = delay);
    }

    /// Holds back every byte from now on, in both directions. No connection is closed.
    pub fn cut(&self) {
        self.state.change(|network| network.cut = true);
    }

    /// Ends a cut: the bytes that were held back arrive, and those that follow.
    pub fn heal(&self) {
        self.state.change(|network| network.cut = false);
    }

    /// How many bytes it has carried so far, in both directions together.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.state.lock().carried
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.lock().connections.len()
    }

    /// How many connections there were so far. They are numbered from 1, in the order in which they
    /// were made.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.state.lock().accepted
    }

    /// Closes every connection; new ones are accepted.
    pub fn reset(&self) {
        self.state.change(|network| {
            for end in network.connections.values().flat_map(|it| &it.ends) {
                let _ = end.shutdown(Shutdown::Both);
            }
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.change(|network| network.closed = true);
        self.reset();
        // Wakes the thread that accepts connections, so that it ends.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn join(state: &Arc<State>, client: TcpStream, server: TcpStream) -> Result<()> {
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let ends = [client.try_clone()?, server.try_clone()?];
    let copies = [client.try_clone()?, server.try_clone()?];
    let number = {
        let mut network = state.lock();
        network.accepted += 1;
        let number = network.accepted;
        network.connections.insert(number, Connection { ends, threads: 4, closed: Vec::new() });
        number
    };
    let [to_client, to_server] = copies;
    pump(state, (number, Way::ToServer), client, to_server);
    pump(state, (number, Way::ToClient), server, to_client);
    Ok(())
}

/// Carries bytes in one direction. One thread reads and notes the time, another writes when the
/// delay is over: a delay does not limit the bytes per second.
fn pump(state: &Arc<State>, (number, way): (u64, Way), mut from: TcpStream, to: TcpStream) {
    let (sender, receiver) = sync_channel::<(Instant, Vec<u8>)>(4096);
    let reading = Arc::clone(state);
    thread::spawn(move || {
        let tap = |bytes: &[u8]| {
            if let Some(tap) = &reading.tap {
                tap(number, way, bytes);
            }
        };
        read(&reading, &mut from, &sender, tap);
        tap(&[]);
        reading.change(|network| {
            if let Some(connection) = network.connections.get_mut(&number) {
                connection.closed.push(way);
            }
            network.thread_ended(number);
        });
    });
    let writing = Arc::clone(state);
    thread::spawn(move || {
        write(&writing, (number, way), to, &receiver);
        writing.change(|network| network.thread_ended(number));
    });
}

fn read(
    state: &State,
    from: &mut TcpStream,
    to: &SyncSender<(Instant, Vec<u8>)>,
    tap: impl Fn(&[u8]),
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        tap(&buffer[..length]);
        let due = Instant::now() + state.lock().delay;
        // If the other end has closed the connection, this one is told, and closes it, too. The tap
        // sees what it has sent until then.
        let _ = to.send((due, buffer[..length].to_vec()));
    }
}

fn write(
    state: &State,
    (number, way): (u64, Way),
    mut to: TcpStream,
    from: &Receiver<(Instant, Vec<u8>)>,
) {
    for (due, bytes) in from {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let network = state.changed.wait_while(state.lock(), |network| network.holds(number, way));
        let mut network = network.unwrap_or_else(PoisonError::into_inner);
        if network.cut && network.has_closed(number, way.back()) {
            break;
        }
        network.carried += bytes.len() as u64;
        drop(network);
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    // What a server has sent before it learns that its client has left is still read.
    let _ = to.shutdown(if way == Way::ToServer { Shutdown::Write } else { Shutdown::Both });
}
