"""Asks a name server for an address over SOCKS5 UDP: PySocks carries what dnspython sends.

dns_query.py PROXY_PORT SERVER NAME
"""

import socket
import sys

import dns.message
import dns.query
import socks

port, server, name = sys.argv[1:]
carrier = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)
carrier.set_proxy(socks.SOCKS5, "127.0.0.1", int(port))
# PySocks associates when it is bound.
carrier.bind(("", 0))
answer = dns.query.udp(dns.message.make_query(name, "A"), server, timeout=20, sock=carrier)
for record in answer.answer:
    print(record)
