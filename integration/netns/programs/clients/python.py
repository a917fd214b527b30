"""requests, httpx, urllib3 and the standard library, over HTTP and HTTPS. urllib3 has to be told of the proxy."""

import os
import ssl
import urllib.request

import httpx
import requests
import urllib3

SITE, CA, PROXY = os.environ["SITE"], os.environ["CA"], os.environ["http_proxy"]
EXPECTED = f"hello from {SITE}\n"
CONTEXT = ssl.create_default_context(cafile=CA)

for scheme in ("http", "https"):
    url = f"{scheme}://{SITE}/hello"
    assert requests.get(url, verify=CA, timeout=20).text == EXPECTED, "requests"
    with requests.Session() as session:
        session.verify = CA
        assert all(session.get(url, timeout=20).ok for _ in range(20)), "requests, one connection"
    assert httpx.get(url, verify=CONTEXT, timeout=20).text == EXPECTED, "httpx"
    manager = urllib3.ProxyManager(PROXY, ca_certs=CA)
    assert manager.request("GET", url, timeout=20, retries=False).data.decode() == EXPECTED, "urllib3"
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=CONTEXT))
    assert opener.open(url, timeout=20).read().decode() == EXPECTED, "urllib"
