// order-consumer in JavaScript: takes orders from a stream, each at least once.
//
//     npm install @nats-io/transport-node @nats-io/jetstream
//     cargo xtask prove order-consumer -- node testkit/prove/clients/order_consumer.mjs

import { parseArgs } from "node:util";
import { setTimeout as sleep } from "node:timers/promises";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

const STREAM = "playgrnd_stream";
const DURABLE = "order_processor";
const ACK_WAIT = 5_000_000_000; // nanoseconds
const EXPIRES = 1_000; // milliseconds for which a request for orders waits
const BATCH = 100; // orders that are handled at once, so all of them within ACK_WAIT

function milliseconds(text) {
  const found = text.match(/^(\d+)(ms|s|m)$/);
  if (!found) throw new Error("expected a duration: 100ms, 2s");
  return Number(found[1]) * { ms: 1, s: 1_000, m: 60_000 }[found[2]];
}

const { values } = parseArgs({ options: { work: { type: "string", default: "0s" } } });
const work = milliseconds(values.work);

let stopped = false;
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => {
    if (stopped) process.exit(130);
    stopped = true;
  });
}

const nc = await connect({
  servers: process.env.NATS_URL ?? "nats://localhost:4222",
  name: "order-consumer",
  maxReconnectAttempts: -1,
  reconnectTimeWait: 100,
  reconnectJitter: 50,
});
const ended = (async () => {
  while (!stopped) await sleep(50);
  // An answer that is awaited while nats-server is away may never come.
  await sleep(3_000);
  process.exit(0);
})();
let connected = true;
(async () => {
  for await (const status of nc.status()) {
    if (status.type === "disconnect") connected = false;
    if (status.type === "reconnect") connected = true;
  }
})();
const js = jetstream(nc, { timeout: 1_000 });

// The durable consumer. Made if the stream is there and it is not; never the stream.
async function openConsumer() {
  const manager = await jetstreamManager(nc, { timeout: 1_000, checkAPI: false });
  const isMissing = (error) => error.message.includes("consumer not found");
  await manager.consumers.info(STREAM, DURABLE).catch((error) => {
    if (!isMissing(error)) throw error;
    return manager.consumers.add(STREAM, {
      durable_name: DURABLE,
      ack_policy: AckPolicy.Explicit,
      ack_wait: ACK_WAIT,
    });
  });
  return js.consumers.get(STREAM, DURABLE);
}

function orderId(message) {
  const order = message.json();
  if (typeof order?.order_id !== "string") throw new Error("an order has an order_id");
  return order.order_id;
}

async function handle(message) {
  let id;
  try {
    id = orderId(message);
  } catch (error) {
    // It can never be handled: told to nats-server, so that it does not come again.
    console.error(`no order, terminated: ${error.message}`);
    message.term();
    return;
  }
  if (work > 0) await sleep(work);
  // console.log() returns when the line is in a buffer of this process, which a kill would empty.
  await new Promise((written) => process.stdout.write(`${id}\n`, written));
  message.ack();
}

let consumer;
while (!stopped) {
  try {
    consumer ??= await openConsumer();
    // Nothing is fetched ahead: a batch is handled before the next one is asked for. So nothing
    // is unacknowledged when the loop ends.
    const batch = await consumer.fetch({ max_messages: work > 0 ? 1 : BATCH, expires: EXPIRES });
    let count = 0;
    for await (const message of batch) {
      await handle(message);
      count += 1;
    }
    if (count === 0) await consumer.info();
  } catch {
    // No stream, no nats-server, a consumer that was deleted: none of them is for ever.
    consumer = undefined;
    await sleep(100);
  }
}
// Acknowledgements have left when nats-server answers a ping behind them.
if (connected) await Promise.race([nc.flush().catch(() => {}), sleep(1_000)]);
process.exit(0);
