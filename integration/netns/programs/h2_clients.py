"""Links to a gateway by HTTP/2 of other people: Python's h2 and libcurl, each with the certificate of a member."""

import io
import socket
import ssl
import sys
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.settings
import pycurl

PROXYTYPE_HTTPS2 = 3  # CURLPROXY_HTTPS2, since libcurl 8.1.0


def link(gateway, state):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(f"{state}/ca.pem")
    context.load_cert_chain(f"{state}/node.pem", f"{state}/node.key")
    context.set_alpn_protocols(["h2"])
    host, port = gateway.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=20)
    # An end without close_notify is an error.
    return context.wrap_socket(connection, suppress_ragged_eofs=False)


def tunnel(gateway, state, url):
    """A download through CONNECT, by a peer that keeps no HPACK table."""
    wire = link(gateway, state)
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    connection.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 0})
    server = urlsplit(url)
    authority = f"{server.hostname}:{server.port or 80}"
    stream = connection.get_next_available_stream_id()
    connection.send_headers(stream, [(":method", "CONNECT"), (":authority", authority)])
    wire.sendall(connection.data_to_send())
    request = f"GET {server.path} HTTP/1.1\r\nHost: {server.hostname}\r\nConnection: close\r\n\r\n"
    answer, has_ended = bytearray(), False
    while not has_ended:
        received = wire.recv(65536)
        if not received:
            raise SystemExit("the link ended")
        for event in connection.receive_data(received):
            if isinstance(event, h2.events.ResponseReceived):
                status = dict(event.headers)[b":status"]
                assert status == b"200", status
                connection.send_data(stream, request.encode())
            elif isinstance(event, h2.events.DataReceived):
                answer += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.StreamEnded):
                has_ended = True
            elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                raise SystemExit(f"{event}")
        wire.sendall(connection.data_to_send())
    connection.end_stream(stream)
    connection.close_connection()
    wire.sendall(connection.data_to_send())
    while wire.recv(65536):
        pass
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 200"), head
    return bytes(body)


def curl(gateway, state, url):
    """What `curl --proxytunnel --proxy-http2` does."""
    body = io.BytesIO()
    handle = pycurl.Curl()
    handle.setopt(handle.URL, url)
    handle.setopt(handle.PROXY, f"https://{gateway}")
    handle.setopt(handle.PROXYTYPE, PROXYTYPE_HTTPS2)
    handle.setopt(handle.HTTPPROXYTUNNEL, 1)
    handle.setopt(handle.PROXY_SSLCERT, f"{state}/node.pem")
    handle.setopt(handle.PROXY_SSLKEY, f"{state}/node.key")
    handle.setopt(handle.PROXY_CAINFO, f"{state}/ca.pem")
    handle.setopt(handle.PROXY_SSL_VERIFYHOST, 0)
    handle.setopt(handle.WRITEDATA, body)
    handle.setopt(handle.TIMEOUT, 60)
    handle.perform()
    assert handle.getinfo(handle.RESPONSE_CODE) == 200
    return body.getvalue()


if __name__ == "__main__":
    _, what, gateway, state, url = sys.argv
    sys.stdout.buffer.write({"tunnel": tunnel, "curl": curl}[what](gateway, state, url))
