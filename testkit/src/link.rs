//! A network between a client and a server.

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

#[derive(Debug, Default)]
struct State {
    network: Mutex<Network>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Network {
    delay: Duration,
    cut: bool,
    closed: bool,
    carried: u64,
    connections: Vec<TcpStream>,
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
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot open a link")?;
        let link = Self { port: listener.local_addr()?.port(), state: Arc::default() };
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

    /// Closes every connection; new ones are accepted.
    pub fn reset(&self) {
        self.state.change(|network| {
            for connection in network.connections.drain(..) {
                let _ = connection.shutdown(Shutdown::Both);
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
    state.lock().connections.extend([client.try_clone()?, server.try_clone()?]);
    pump(state, client.try_clone()?, server.try_clone()?);
    pump(state, server, client);
    Ok(())
}

/// Carries bytes in one direction. One thread reads and notes the time, another writes when the
/// delay is over: a delay does not limit the bytes per second.
fn pump(state: &Arc<State>, mut from: TcpStream, to: TcpStream) {
    let (sender, receiver) = sync_channel::<(Instant, Vec<u8>)>(4096);
    let reading = Arc::clone(state);
    thread::spawn(move || read(&reading, &mut from, &sender));
    let writing = Arc::clone(state);
    thread::spawn(move || write(&writing, to, &receiver));
}

fn read(state: &State, from: &mut TcpStream, to: &SyncSender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let due = Instant::now() + state.lock().delay;
        if to.send((due, buffer[..length].to_vec())).is_err() {
            break;
        }
    }
}

fn write(state: &State, mut to: TcpStream, from: &Receiver<(Instant, Vec<u8>)>) {
    for (due, bytes) in from {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let network =
            state.changed.wait_while(state.lock(), |network| network.cut && !network.closed);
        network.unwrap_or_else(PoisonError::into_inner).carried += bytes.len() as u64;
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
