// math-server in JavaScript: answers requests on math.sum.
//
//     npm install @nats-io/transport-node
//     cargo xtask prove math-server -- node testkit/prove/clients/math_server.mjs

import { connect, headers } from "@nats-io/transport-node";

const SUBJECT = "math.sum";
const GROUP = "math_servers";
const LEAVING = 3_000; // milliseconds

class Refusal extends Error {
  constructor(code, text) {
    super(text);
    this.code = code;
  }
}

// JSON.parse makes doubles of all numbers. Here whole numbers become strings first, then BigInts.
function bigNumbers(text) {
  const token = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
  return text.replace(token, (found) => (/^-?\d+$/.test(found) ? `"int:${found}"` : found));
}

function whole(value) {
  const found = typeof value === "string" && value.match(/^int:(-?\d+)$/);
  if (!found) throw new Refusal("400", "x and y are whole numbers");
  return BigInt(found[1]);
}

const fits = (number) => BigInt.asIntN(64, number) === number;

function sum(payload) {
  let numbers;
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(payload);
    JSON.parse(text);
    numbers = JSON.parse(bigNumbers(text));
  } catch (error) {
    throw new Refusal("400", `not JSON: ${error.message.replace(/\s+/g, " ")}`.slice(0, 200));
  }
  if (numbers === null || typeof numbers !== "object" || Array.isArray(numbers)) {
    throw new Refusal("400", "not a JSON object");
  }
  const [x, y] = [whole(numbers.x), whole(numbers.y)];
  if (!fits(x) || !fits(y)) throw new Refusal("400", "x and y have 64 bits");
  if (!fits(x + y)) throw new Refusal("422", "the sum does not fit into 64 bits");
  return x + y;
}

function answer(request) {
  if (!request.reply) return;
  try {
    request.respond(`{"result":${sum(request.data)}}`);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const h = headers();
    h.set("Nats-Service-Error-Code", error.code);
    h.set("Nats-Service-Error", error.message);
    request.respond("", { headers: h });
  }
}

// Before anything else: a signal that comes while it starts must not end it halfway.
const stop = new Promise((resolve) => {
  let told = 0;
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.on(signal, () => (++told > 1 ? process.exit(130) : resolve()));
  }
});

const nc = await connect({
  servers: process.env.NATS_URL ?? "nats://localhost:4222",
  name: "math-server",
  maxReconnectAttempts: -1,
  reconnectTimeWait: 100,
  reconnectJitter: 50,
});
let connected = true;
(async () => {
  for await (const status of nc.status()) {
    if (status.type === "disconnect") connected = false;
    if (status.type === "reconnect") connected = true;
  }
})();

const requests = nc.subscribe(SUBJECT, {
  queue: GROUP,
  callback: (error, request) => (error ? console.error(error.message) : answer(request)),
});
await nc.flush();
console.log(`waiting for requests on ${SUBJECT}`);

await stop;

async function leave() {
  // This library forgets the subscription only when nats-server has answered a ping behind the
  // UNSUB: everything that was on its way has arrived by then. Others forget it at once.
  await requests.drain();
  await nc.flush();
}

const late = new Promise((resolve) => setTimeout(resolve, LEAVING));
if (connected) await Promise.race([leave().catch(() => {}), late]);
process.exit(0);
