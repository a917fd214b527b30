"""A QUIC client of aioquic whose datagrams go through a SOCKS5 UDP association (RFC 1928 section 7): one connection,
on which it says a number ten times a second and prints what comes back.

quic_client.py PROXY_PORT SERVER PORT
"""

import asyncio
import ipaddress
import ssl
import struct
import sys

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, StreamDataReceived

HEADER = 10


class Client(QuicConnectionProtocol):
    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived):
            sys.stdout.write(event.data.decode())
            sys.stdout.flush()
        elif isinstance(event, ConnectionTerminated):
            print("the connection ended:", event.reason_phrase, flush=True)
            sys.exit(1)


class Association(asyncio.DatagramProtocol):
    """The transport of a QUIC connection, and the protocol of the UDP socket below it."""

    def connection_made(self, transport):
        self.socket = transport

    def datagram_received(self, data, addr):
        _, fragment, kind = struct.unpack("!HBB", data[:4])
        assert (fragment, kind) == (0, 1), data[:4]
        (port,) = struct.unpack("!H", data[8:HEADER])
        self.client.datagram_received(data[HEADER:], (str(ipaddress.IPv4Address(data[4:8])), port))

    def sendto(self, data, addr):
        host = ipaddress.ip_address(addr[0])
        host = getattr(host, "ipv4_mapped", None) or host
        self.socket.sendto(struct.pack("!HBB", 0, 0, 1) + host.packed + struct.pack("!H", addr[1]) + data)

    def close(self):
        self.socket.close()


async def main(proxy, server, port):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy))
    writer.write(bytes([5, 1, 0]) + bytes([5, 3, 0, 1, 0, 0, 0, 0, 0, 0]))
    assert await reader.readexactly(2) == bytes([5, 0])
    reply = await reader.readexactly(10)
    assert reply[:4] == bytes([5, 0, 0, 1]), reply
    relay = (str(ipaddress.IPv4Address(reply[4:8])), struct.unpack("!H", reply[8:])[0])

    loop = asyncio.get_running_loop()
    _, association = await loop.create_datagram_endpoint(Association, remote_addr=relay)
    # A connection that idles for longer than the other end waits would end by itself.
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["echo"], verify_mode=ssl.CERT_NONE)
    configuration.server_name = "server.test"
    client = Client(QuicConnection(configuration=configuration))
    association.client = client
    client.connection_made(association)
    client.connect((server, int(port)))
    await client.wait_connected()
    print("connected", flush=True)
    stream = client._quic.get_next_available_stream_id()
    number = 0
    while True:
        client._quic.send_stream_data(stream, f"{number}\n".encode())
        client.transmit()
        number += 1
        await asyncio.sleep(0.1)


asyncio.run(main(*sys.argv[1:]))
