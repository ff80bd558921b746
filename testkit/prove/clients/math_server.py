"""math-server in Python: answers requests on math.sum.

    pip install nats-py
    cargo xtask prove math-server -- python3 testkit/prove/clients/math_server.py
"""

import asyncio
import contextlib
import json
import os
import signal
import sys

import nats

SUBJECT, GROUP = "math.sum", "math_servers"
LIMITS = range(-(2**63), 2**63)
# nats-server takes a number that it cannot read for "now", while the library goes on reading.
# The library's `unsubscribe()` stops reading at once; `drain()` loses a reply now and then.
ALL = 2**64 - 1
LEAVING = 3.5  # seconds


def answer(payload):
    """The reply to a request: its payload, and its headers if it is an error."""
    def refuse(code, text):
        return b"", {"Nats-Service-Error-Code": code, "Nats-Service-Error": text}

    try:
        numbers = json.loads(payload)
        x, y = numbers["x"], numbers["y"]
    except (ValueError, TypeError, KeyError) as error:
        text = " ".join(repr(error).split())
        return refuse("400", f"not a JSON object with x and y: {text}"[:200])
    if type(x) is not int or type(y) is not int or x not in LIMITS or y not in LIMITS:
        return refuse("400", "x and y are whole numbers of 64 bits")
    if x + y not in LIMITS:
        return refuse("422", "the sum does not fit into 64 bits")
    return json.dumps({"result": x + y}).encode(), None


async def main():
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def report(error):
        print(f"{type(error).__name__}: {error}", flush=True)

    nc = await nats.connect(
        os.environ.get("NATS_URL", "nats://localhost:4222"),
        name="math-server",
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,
        error_cb=report,
    )

    async def handle(request):
        if request.reply:
            payload, headers = answer(request.data)
            await nc.publish(request.reply, payload, headers=headers)

    requests = await nc.subscribe(SUBJECT, GROUP, cb=handle)
    await nc.flush()
    print(f"waiting for requests on {SUBJECT}", flush=True)
    await stop.wait()

    # Leave the group, and answer what nats-server has sent until it knows that: a message to an
    # inbox of our own comes back behind all of it.
    async def leave():
        echo = asyncio.Event()

        async def came_back(_):
            echo.set()

        await requests.unsubscribe(limit=ALL)
        inbox = nc.new_inbox()
        await nc.subscribe(inbox, cb=came_back)
        await nc.publish(inbox, b"")
        await echo.wait()
        await asyncio.sleep(0.05)
        while requests.pending_msgs > 0:
            await asyncio.sleep(0.01)
        await nc.flush()

    code = 0
    try:
        if nc.is_connected:
            await asyncio.wait_for(leave(), LEAVING)
    except (nats.errors.Error, OSError, asyncio.TimeoutError):
        print("requests may be left without a reply", file=sys.stderr)
        code = 1
    # Not forever: while nats-server is away, it waits.
    with contextlib.suppress(nats.errors.Error, OSError, asyncio.TimeoutError):
        await asyncio.wait_for(nc.close(), 1)
    return code


sys.exit(asyncio.run(main()))
