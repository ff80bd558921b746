"""order-consumer in Python: takes orders from a stream, each at least once.

    pip install nats-py
    cargo xtask prove order-consumer -- python3 testkit/prove/clients/order_consumer.py
"""

import argparse
import asyncio
import json
import os
import signal
import sys

import nats
from nats.errors import Error, TimeoutError
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

STREAM, DURABLE = "playgrnd_stream", "order_processor"
ACK_WAIT = 5  # seconds
EXPIRES = 1  # seconds for which a request for orders waits
BATCH = 100  # orders that are handled at once, so all of them within ACK_WAIT


def seconds(text):
    """A duration as people write it: 500ms, 2s, 1m."""
    for unit, factor in (("ms", 0.001), ("s", 1), ("m", 60)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    raise argparse.ArgumentTypeError("expected a duration: 100ms, 2s")


def order_id(payload):
    """The id of an order; ValueError if it is none."""
    order = json.loads(payload)
    if not isinstance(order, dict) or not isinstance(order.get("order_id"), str):
        raise ValueError("an order has an order_id")
    return order["order_id"]


async def open_consumer(js):
    """The durable consumer. Made if the stream is there and it is not; never the stream."""
    config = ConsumerConfig(
        durable_name=DURABLE, ack_policy=AckPolicy.EXPLICIT, ack_wait=ACK_WAIT
    )
    try:
        await js.consumer_info(STREAM, DURABLE)
    except NotFoundError:
        await js.add_consumer(STREAM, config)
    return await js.pull_subscribe_bind(DURABLE, STREAM)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=seconds, default=0)
    work = parser.parse_args().work

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def report(error):
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)

    nc = await nats.connect(
        os.environ.get("NATS_URL", "nats://localhost:4222"),
        name="order-consumer",
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,
        error_cb=report,
    )
    js = nc.jetstream(timeout=1)

    async def handle(message):
        try:
            name = order_id(message.data)
        except ValueError as error:
            # It can never be handled: told to nats-server, so that it does not come again.
            print(f"no order, terminated: {error}", file=sys.stderr, flush=True)
            await message.term()
            return
        await asyncio.sleep(work)
        print(name, flush=True)
        await message.ack()

    orders = None
    while not stop.is_set():
        try:
            if orders is None:
                orders = await open_consumer(js)
            # Nothing is fetched ahead: a batch is handled before the next one is asked for. So
            # nothing is unacknowledged when the loop ends.
            batch = await orders.fetch(1 if work else BATCH, timeout=EXPIRES)
        except TimeoutError:
            # No orders; or a request that was lost with nats-server, or a consumer that is gone.
            try:
                await js.consumer_info(STREAM, DURABLE)
            except (Error, OSError):
                orders = None
            continue
        except (Error, OSError):
            # No stream, no nats-server, a consumer that was deleted: none of them is for ever.
            orders = None
            await asyncio.sleep(0.1)
            continue
        for message in batch:
            await handle(message)

    try:
        if nc.is_connected:
            # Acknowledgements have left when nats-server answers a ping behind them.
            await nc.flush(1)
        await asyncio.wait_for(nc.close(), 1)
    except (Error, OSError, asyncio.TimeoutError):
        pass


asyncio.run(main())
