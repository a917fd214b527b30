"""The live page of a client, in headless Chromium: two gateways, a download, and a kill -9. Started by page-test.sh."""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

LANEWAY = Path("target/debug/laneway").resolve()
OUT = Path("target/page")
PATIENCE = 60
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Machine:
    """One process of the binary, its state, and what it has said."""

    def __init__(self, directory, name, *arguments):
        self.lines, self.said = [], threading.Condition()
        environment = environment_of(directory, name)
        self.process = subprocess.Popen([LANEWAY, *arguments], env=environment, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stderr:
            with self.said:
                self.lines.append(line)
                self.said.notify_all()

    def wait(self, pattern):
        found = lambda: next((match for line in self.lines if (match := re.search(pattern, line))), None)
        with self.said:
            assert self.said.wait_for(found, PATIENCE), f"no {pattern} in {''.join(self.lines)}"
            return found()

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def environment_of(directory, name):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LANEWAY_") and "proxy" not in key.lower()}
    empty = Path(directory, "empty.toml")
    empty.touch()
    return {**kept, "LANEWAY_STATE": str(Path(directory, name)), "LANEWAY_CONFIG": str(empty), "NO_COLOR": "1"}


def laneway(directory, name, *arguments):
    done = subprocess.run([LANEWAY, *arguments], env=environment_of(directory, name), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def browser():
    options = Options()
    options.binary_location = shutil.which("chromium")
    # Without these it looks for hosts elsewhere at every start.
    for argument in ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server",
                     "--disable-background-networking", "--disable-component-update", "--disable-sync"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(service=Service(shutil.which("chromedriver")), options=options)


def look(driver, width, height, scheme):
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                           {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def picture(driver, name, width, height, scheme):
    look(driver, width, height, scheme)
    driver.execute_script("dispatchEvent(new Event('resize'))")
    WebDriverWait(driver, PATIENCE).until(lambda d: d.execute_script("return innerWidth") == width)
    wide = driver.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width, f"{name}: {wide} px wide on a screen of {width}"
    driver.save_screenshot(str(OUT / name))


def download(proxy, server, result, rate):
    """Reads the generated file through the proxy at a bounded rate; leaves its hash."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": f"http://{proxy}"}))
    digest, started, count = hashlib.sha256(), time.monotonic(), 0
    with opener.open(f"http://{server}/file", timeout=PATIENCE) as response:
        while block := response.read(1 << 16):
            digest.update(block)
            count += len(block)
            time.sleep(max(0.0, count / rate - (time.monotonic() - started)))
    result.append((count, digest.hexdigest()))


def main():
    directory = tempfile.mkdtemp(prefix="laneway-page-")
    machines = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def start(name, *arguments):
        machines.append(Machine(directory, name, *arguments))
        return machines[-1]

    driver = None
    try:
        size = 120 << 20
        origin = start("server", "origin", "--listen", "127.0.0.1:0", "--size", str(size))
        server = origin.wait(r"listening: origin.*address=(\S+)")[1]
        code = re.search(r"lw1\.\S+", laneway(directory, "gateway-1", "init", "--name", "gateway-1", "--group", "office"))[0]

        def gateway(name, lan):
            node = start(name, "up", "--role", "gateway", "--server", server, "--allow", "127.0.0.0/8", "--lan", lan,
                         "--link", f"{lan}:0", "--proxy", f"{lan}:0", "--discovery-port", port)
            node.wait(" ready ")
            return node

        gateways = [gateway("gateway-1", "127.0.0.2")]
        for name, lan in [("gateway-2", "127.0.0.3"), ("workshop-12", "127.0.0.4")]:
            laneway(directory, name, "join", code, "--name", name, "--lan", lan, "--discovery-port", port)
        gateways.append(gateway("gateway-2", "127.0.0.3"))
        client = start("workshop-12", "up", "--role", "client", "--lan", "127.0.0.4", "--proxy", "127.0.0.1:0", "--server",
                       server, "--discovery-port", port)
        proxy = client.wait(r"listening: local proxy.*address=(\S+)")[1]
        client.wait("standby link up")

        driver = browser()
        wait = WebDriverWait(driver, PATIENCE)
        text = lambda name: driver.execute_script("return document.getElementById(arguments[0]).textContent", name)
        look(driver, 1280, 1100, "light")
        driver.get(f"http://{proxy}/")
        wait.until(lambda _: "linked to gateway" in text("situation"))
        assert text("name") == "workshop-12" and "office" in text("facts")
        first = text("situation").split()[-1]
        assert first in text("gateways") and first in text("map") and server in text("map")
        print(f"ok: the page shows the link to gateway {first}")

        result = []
        reader = threading.Thread(target=download, args=(proxy, server, result, 8 << 20))
        reader.start()
        wait.until(lambda _: server in text("destinations") and "MB/s" in text("down"))
        moved = text("moved")
        wait.until(lambda _: text("moved") != moved and "MB/s" in text("map"))
        assert reader.is_alive(), "the download ended too early to be seen"
        assert driver.execute_script("return document.querySelectorAll('#chart path').length") == 4
        print("ok: it changes while a download runs")
        time.sleep(3)
        picture(driver, "light.png", 1280, 1180, "light")
        picture(driver, "dark.png", 1280, 1180, "dark")
        picture(driver, "phone.png", 360, 1600, "light")
        look(driver, 1280, 1100, "light")

        # By their own pages: which of the two it is.
        address = driver.execute_script("return document.querySelector('#gateways tr.used .address').textContent")
        serving = gateways[0] if address.startswith("127.0.0.2:") else gateways[1]
        serving.process.send_signal(signal.SIGKILL)
        wait.until(lambda _: "linked to gateway" in text("situation") and first not in text("situation"))
        wait.until(lambda _: "link lost" in text("events") and "in use" in text("events") and "resumed" in text("events"))
        used = driver.execute_script("return document.querySelector('#map .used .name').textContent")
        assert used != first
        print(f"ok: it shows the failover to gateway {used}")
        reader.join(PATIENCE)
        assert [count for count, _ in result] == [size], result
        picture(driver, "failover.png", 1280, 1180, "light")

        page = DIRECT.open(f"http://{proxy}/metrics").read().decode()
        families = list(text_string_to_metric_families(page))
        assert len(families) > 20 and all(family.documentation and family.type != "unknown" for family in families)
        received = sum(sample.value for family in families for sample in family.samples
                       if sample.name == "laneway_received_bytes_total" and sample.labels["of"] == "apps")
        assert received == size, received
        print(f"ok: prometheus_client reads {len(families)} metrics")

        client.process.send_signal(signal.SIGKILL)
        wait.until(lambda _: "does not answer" in text("situation"))
        errors = [entry["message"] for entry in driver.get_log("browser") if "ERR_CONNECTION_REFUSED" not in entry["message"]
                  and "ERR_INCOMPLETE_CHUNKED_ENCODING" not in entry["message"] and "ERR_CONNECTION_RESET" not in entry["message"]]
        assert errors == [], errors
        print("ok: it says when the node is gone, and the console has no error")
    finally:
        if driver:
            driver.quit()
        for machine in machines:
            machine.stop()
        shutil.rmtree(directory, ignore_errors=True)
    if "--readme" in sys.argv:
        Path("docs").mkdir(exist_ok=True)
        shutil.copy(OUT / "light.png", "docs/page.png")
        print("wrote docs/page.png")


main()
