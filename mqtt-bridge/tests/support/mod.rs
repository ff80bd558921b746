//! What the tests of this experiment share: an MQTT client of their own.

pub mod retained;
pub mod stored;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rumqttc::{Client, Connection, Event, MqttOptions, Packet, Publish, QoS};
use testkit::{Program, Server};

pub const SENSOR: &str = env!("CARGO_BIN_EXE_sensor");
pub const BACKEND: &str = env!("CARGO_BIN_EXE_backend");
pub const RECORDER: &str = env!("CARGO_BIN_EXE_recorder");

/// Time for what does not take long: a machine under load is slow.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a program with arguments as they are typed.
pub fn spawn(server: &Server, program: impl AsRef<Path>, args: &str) -> Result<Program> {
    let mut command = server.command(program.as_ref());
    Ok(Program::spawn(command.args(args.split_whitespace()))?.timeout(PATIENCE))
}

/// Starts a program and waits until it says that it is ready.
pub fn ready(server: &Server, program: impl AsRef<Path>, args: &str) -> Result<Program> {
    let mut program = spawn(server, program, args)?;
    program.expect("device")?;
    Ok(program)
}

/// An MQTT client.
pub struct Mqtt {
    pub client: Client,
    connection: Connection,
}

impl Mqtt {
    /// Connects under an id; a clean session, as options say nothing else.
    pub fn connect(server: &Server, id: &str) -> Result<Self> {
        let mut options = MqttOptions::new(id, "127.0.0.1", server.mqtt_port());
        options.set_max_packet_size(1 << 20, 1 << 20);
        Self::with(options)
    }

    pub fn with(options: MqttOptions) -> Result<Self> {
        let (client, connection) = Client::new(options, 1_000);
        let mut mqtt = Self { client, connection };
        mqtt.until(|packet| matches!(packet, Packet::ConnAck(_)).then_some(()))?;
        Ok(mqtt)
    }

    /// Subscribes, and waits until the broker has answered.
    pub fn subscribe(&mut self, topic: &str) -> Result<()> {
        self.client.subscribe(topic, QoS::AtLeastOnce)?;
        self.until(|packet| matches!(packet, Packet::SubAck(_)).then_some(()))
    }

    /// The next message that comes.
    pub fn next(&mut self) -> Result<Publish> {
        self.until(|packet| match packet {
            Packet::Publish(publish) => Some(publish.clone()),
            _ => None,
        })
    }

    /// Waits for a packet.
    pub fn until<T>(&mut self, find: impl Fn(&Packet) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.connection.recv_timeout(left) {
                Ok(Ok(Event::Incoming(packet))) => {
                    if let Some(found) = find(&packet) {
                        return Ok(found);
                    }
                }
                Ok(Ok(Event::Outgoing(_))) => {}
                Ok(Err(error)) => return Err(error).context("the broker ended the connection"),
                Err(error) => bail!("nothing came: {error:?}"),
            }
        }
    }
}

/// A valid reading.
pub fn reading(sensor_id: &str, seq: u64, timestamp_ms: u64) -> String {
    format!(
        r#"{{"sensor_id":"{sensor_id}","seq":{seq},"celsius":21.5,"timestamp_ms":{timestamp_ms}}}"#
    )
}

/// The sequence numbers in the lines of a backend or recorder.
pub fn seqs(lines: &[String]) -> Vec<u64> {
    let seq = |line: &String| line.split_once('#')?.1.split_once(':')?.0.parse().ok();
    lines.iter().filter_map(seq).collect()
}
