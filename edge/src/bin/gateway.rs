//! An MQTT broker for readings only: it acknowledges a reading when the stream has stored it.
//!
//! ```sh
//! cargo xtask up --edge                                                    # terminal 1
//! NATS_URL=nats://localhost:4223 cargo run -p edge --bin gateway           # terminal 2
//! cargo run -p mqtt-bridge --bin sensor -- --broker mqtt://localhost:1885  # terminal 3
//! ```

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use async_nats::Client;
use async_nats::jetstream::ContextBuilder;
use clap::Parser;
use common::{CancellationToken, Output};
use edged::device::{self, Device};
use futures::{SinkExt, StreamExt};
use rumqttc::SubscribeReasonCode::Success;
use rumqttc::{Packet, PubAck, Publish, QoS, SubAck};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Time for a stream to store a reading. After it the device is disconnected, and sends again.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// Takes readings of MQTT devices, and acknowledges those that the stream has stored.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    nats: common::NatsArgs,
    /// The address for devices. Keep it off open networks: it asks for no password
    #[arg(long, default_value = "127.0.0.1:1885")]
    listen: SocketAddr,
}

fn main() -> ExitCode {
    common::run(serve)
}

async fn serve(args: Args, stop: CancellationToken) -> Result<()> {
    let nats = args.nats.connect("gateway", &stop).await?;
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", args.listen))?;
    let mut out = Output::new();
    out.line(format!("waiting for devices on {}", listener.local_addr()?)).await?;
    out.flush().await?;
    let mut devices = JoinSet::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let (socket, address) = accepted?;
        let (nats, stop) = (Client::clone(&nats), stop.clone());
        devices.spawn(async move {
            if let Err(error) = handle(socket, nats, stop).await {
                tracing::warn!("{address}: {error:#}");
            }
        });
        while devices.try_join_next().is_some() {}
    }
    // Each device gets the acknowledgements that are due.
    devices.join_all().await;
    nats.close().await
}

/// Serves a device until it says goodbye, or is gone: then its last will is published.
async fn handle(socket: TcpStream, nats: Client, stop: CancellationToken) -> Result<()> {
    let mut device = Device::greet(socket).await?;
    let said_goodbye = converse(&mut device, &nats, &stop).await;
    if let (Ok(false) | Err(_), Some(will)) = (&said_goodbye, device.will) {
        nats.publish(format!("device.status.{}", device.id), will.message).await?;
    }
    said_goodbye.map(drop)
}

/// Returns whether the device has said goodbye.
async fn converse(device: &mut Device, nats: &Client, stop: &CancellationToken) -> Result<bool> {
    let Device { packets, id, patience, .. } = device;
    let (status, command) = (format!("device/status/{id}"), format!("device/cmd/{id}"));
    let jetstream = ContextBuilder::new().ack_timeout(ACK_TIMEOUT).build(nats.clone());
    let mut commands = nats.subscribe(command.replace('/', ".")).await?;
    loop {
        tokio::select! {
            Some(message) = commands.next() => {
                let publish = Publish::new(&command, QoS::AtMostOnce, message.payload);
                packets.send(Packet::Publish(publish)).await?;
            }
            packet = timeout(*patience, packets.next()) => match packet?.transpose()? {
                Some(Packet::Publish(reading))
                    if reading.topic == "device/temp" && reading.qos == QoS::AtLeastOnce =>
                {
                    // What is not a reading ends the connection: MQTT 3.1.1 has no other answer.
                    let message = device::message(&reading)?;
                    // One at a time. If the leaf node dies, a second one could be stored before the
                    // first, which the device has to send again.
                    jetstream.send_publish("device.temp", message).await?.await?;
                    packets.send(Packet::PubAck(PubAck::new(reading.pkid))).await?;
                }
                Some(Packet::Publish(it)) if it.topic == status => {
                    nats.publish(status.replace('/', "."), it.payload).await?;
                }
                Some(Packet::Subscribe(it)) if it.filters.iter().all(|it| it.path == command) => {
                    let codes = it.filters.iter().map(|_| Success(QoS::AtMostOnce)).collect();
                    packets.send(Packet::SubAck(SubAck::new(it.pkid, codes))).await?;
                }
                Some(Packet::PingReq) => packets.send(Packet::PingResp).await?,
                Some(Packet::Disconnect) => return Ok(true),
                Some(_) => bail!("{id} sent what is not for devices"),
                None => return Ok(false),
            },
            () = stop.cancelled() => return Ok(false),
        }
    }
}
