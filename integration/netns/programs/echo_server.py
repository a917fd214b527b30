"""Sends back what each connection sends: in a process of its own, so that the apps have all descriptors of theirs.

python3 echo_server.py ADDRESS PORT
"""

import asyncio
import sys


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def main(address, port):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, address, int(port), backlog=4096)
    print("listening", file=sys.stderr, flush=True)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
