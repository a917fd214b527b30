"""Carries the bytes of plain connections over TLS to a gateway, as a member: for programs that have no client certificates."""

import asyncio
import ssl
import sys

_, gateway, state = sys.argv
host, port = gateway.rsplit(":", 1)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.load_verify_locations(f"{state}/ca.pem")
context.load_cert_chain(f"{state}/node.pem", f"{state}/node.key")
context.set_alpn_protocols(["h2"])


async def pump(reader, writer):
    try:
        while received := await reader.read(65536):
            writer.write(received)
            await writer.drain()
    except OSError:
        pass
    writer.close()


async def bridge(reader, writer):
    to_gateway = await asyncio.open_connection(host, int(port), ssl=context)
    await asyncio.gather(pump(reader, to_gateway[1]), pump(to_gateway[0], writer))


async def main():
    server = await asyncio.start_server(bridge, "127.0.0.1", 0)
    print("listening:", server.sockets[0].getsockname()[1], file=sys.stderr, flush=True)
    await server.serve_forever()


asyncio.run(main())
