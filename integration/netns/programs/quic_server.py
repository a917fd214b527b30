"""A QUIC server of aioquic that echoes lines, each with the address that its datagram came from.

quic_server.py ADDRESS PORT
"""

import asyncio
import datetime
import sys
import tempfile

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamDataReceived
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Echo(QuicConnectionProtocol):
    peer = None

    def datagram_received(self, data, addr):
        self.peer = addr
        super().datagram_received(data, addr)

    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived):
            for line in event.data.split():
                answer = f"{self.peer[0]} {line.decode()}\n".encode()
                self._quic.send_stream_data(event.stream_id, answer)
            self.transmit()


def certificate(configuration):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server.test")])
    now = datetime.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now.replace(year=2100))
    signed = builder.sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    with tempfile.NamedTemporaryFile() as chain, tempfile.NamedTemporaryFile() as private:
        chain.write(signed.public_bytes(pem))
        form = serialization.PrivateFormat.PKCS8
        private.write(key.private_bytes(pem, form, serialization.NoEncryption()))
        chain.flush()
        private.flush()
        configuration.load_cert_chain(chain.name, private.name)


async def main(address, port):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["echo"])
    certificate(configuration)
    await serve(address, int(port), configuration=configuration, create_protocol=Echo)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
