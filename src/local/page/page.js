// Draws what the node sees, every second from /events. Its text may come from other machines: it is set as text and never
// as markup.

import { age, bytes, megabits, millis, orDash, plural, rate, scaled } from "./format.js";
import { draw as drawChart } from "./chart.js";
import { draw as drawMap } from "./map.js";

// Milliseconds without an event after which the node counts as gone.
const SILENCE = 4000;
// How long what has answered proves that servers are reached, in seconds.
const PROOF_HOLDS = 60;
const TONES = {
  promoted: "good", "link-up": "good", "in-use": "good", resumed: "good", shared: "good", spread: "good",
  demoted: "wait", withdrawn: "wait", suspect: "wait", "link-lost": "bad", cut: "bad", refused: "bad", poisoned: "bad", damaged: "bad",
};
const WORDS = { "link-up": "link up", "link-lost": "link lost", "in-use": "in use" };

const at = (id) => document.getElementById(id);
let latest = null;
let before = null;
let silence = 0;

function element(kind, text, name) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

/** Sets text only where it differs, so that the user's selection stays. */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Fills a table's body: each row is {name, cells}, each cell a text or [text, class, …more parts]. */
function fill(body, rows) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach(({ name, cells }, index) => {
    const row = body.rows[index] ?? body.insertRow();
    row.className = name ?? "";
    cells.forEach((cell, column) => {
      const place = row.cells[column] ?? row.insertCell();
      const { text, parts, kind, tone } = typeof cell === "string" ? { text: cell } : cell;
      place.className = kind ?? "";
      if (tone) place.dataset.tone = tone;
      else delete place.dataset.tone;
      if (parts) {
        const wanted = parts.map(([part]) => part).join("\u0000");
        if (place.dataset.parts !== wanted) {
          place.dataset.parts = wanted;
          place.replaceChildren(...parts.map(([part, name]) => element("span", part, name)));
        }
      } else {
        say(place, text);
      }
    });
  });
}

const number = (text) => ({ text, kind: "n" });

function way({ node, servers }) {
  const last = node.proof ? `: ${node.proof.by} answered last, ${age(node.proof.ago)} ago` : "";
  if (node.reach === "unreachable") return `does not reach its servers${last}`;
  if (node.reach === "unproved" && node.proof) return `unproved${last}`;
  if (node.reach === "unproved") {
    return servers.length > 0 ? "unproved: no server has answered yet"
      : "unproved: nothing beyond its networks has answered yet";
  }
  if (node.proof?.ago >= PROOF_HOLDS) return `nothing has lately proved that it reaches servers${last}`;
  return node.reach ? `reaches servers directly${last}` : "connects to servers itself";
}

function servedClients({ clients_in_all: all, clients_silent: silent }) {
  const served = `serves ${plural(all - silent, "client")}`;
  return silent === 0 ? served : `${served}; ${silent} more ${silent === 1 ? "does" : "do"} not answer`;
}

function header(seen) {
  const { node, links, trouble } = seen;
  say(at("name"), node.name);
  document.title = `${node.name} · laneway`;
  const role = node.state ? `${node.state} gateway` : node.role === "client" ? "client only" : "client";
  say(at("facts"), `${role} in group ${node.group} · up ${age(node.uptime)} · laneway ${node.version}`);
  const none = node.state ? "no other gateway" : "no gateway";
  const [tone, text] =
    node.is_draining ? ["wait", "stopping: no new connections"]
    : node.is_removed ? ["bad", "removed from the group: no member accepts its links"]
    : node.in_maintenance ? ["wait", "in maintenance: serves no clients until laneway drain --undo"]
    : node.goes_direct ? [node.reach === "unreachable" ? "bad" : "good", `${way(seen)}, ${servedClients(seen)}`]
    : trouble ? ["bad", `${none}: ${trouble}`]
    : links.length > 0 && links[0].state === "suspect" ? ["wait", `gateway ${links[0].name} does not answer`]
    : links.length > 0 ? ["good", `linked to gateway ${links[0].name}`]
    : seen.servers.length > 0
      ? ["bad", `${none} to ${seen.servers.join(", ")} has answered yet, and this node cannot reach ${seen.servers.length === 1 ? "it" : "them"} either`]
    : ["bad", `${none} has answered yet`];
  situation(tone, text);
  const unreached = seen.unreached.map((fault) => `this node does not reach ${fault.server}: ${fault.reason}`);
  const { allows_any, allowed, denied } = seen.rules ?? { allows_any: true, allowed: [], denied: [] };
  const left = allowed.filter((rule) => !denied.includes(rule));
  const others = denied.filter((rule) => !allowed.includes(rule));
  const but = others.length > 0 ? ` and not ${others.join(", ")}` : "";
  const rules = allows_any ? (denied.length > 0 ? [`serves every destination but ${denied.join(", ")}`] : [])
    : [`as a gateway serves only ${left.join(", ") || "nothing"}${but}; --allow adds destinations`];
  const unused = (seen.unused ?? []).map(({ what, directory, reason, until_restart }) =>
    `nothing is stored in ${directory} (${what}): ${reason}; ${until_restart ? "it is not tried again before a restart" : "each new file tries again"}`);
  say(at("notes"), [...unreached, ...unused, ...rules].join(" · "));
  say(at("proxy"), node.proxy.join(", "));
  say(at("memory"), `${bytes(seen.memory.used)} of ${bytes(seen.memory.limit)} memory in use`);
}

function situation(tone, text) {
  at("situation").dataset.tone = tone;
  say(at("situation"), text);
}

const sample = (rates) => ({
  down: rates.apps_received + rates.served_received,
  up: rates.apps_sent + rates.served_sent,
});

function value(id, count, unit) {
  const [figure, scale] = scaled(count, unit);
  const place = at(id);
  if (place.dataset.shown === figure + scale) return;
  place.dataset.shown = figure + scale;
  place.replaceChildren(figure, element("span", scale, "unit"));
}

function flow(seen, samples) {
  const now = samples.at(-1) ?? { down: 0, up: 0 };
  value("down", now.down, "B/s");
  value("up", now.up, "B/s");
  say(at("open"), String(seen.apps.open + seen.served.open));
  value("moved", seen.apps.sent + seen.apps.received + seen.served.sent + seen.served.received, "B");
  drawChart(at("chart"), samples);
  return now;
}

/** How a gateway is known that this node has not heard itself. */
const UNHEARD = { named: "no: another gateway tells of it", static: "no: --gateway names it", remembered: "no: used before" };

function gateways(seen) {
  at("no-gateways").hidden = seen.gateways.length > 0;
  at("gateways").closest(".scroll").hidden = seen.gateways.length === 0;
  fill(at("gateways"), seen.gateways.map((gateway, index) => {
    const link = seen.links.find((candidate) => candidate.id === gateway.id);
    const condition = gateway.is_suspect ? `${gateway.state}, suspect`
      : gateway.paused_for !== null ? `${gateway.state}, paused ${age(gateway.paused_for)}` : gateway.state;
    const tone = gateway.is_suspect || gateway.paused_for !== null ? "wait"
      : { active: "good", linked: "good", withdrawn: "bad" }[gateway.state];
    return {
      name: gateway.is_used ? "used" : gateway.state === "silent" ? "quiet" : "",
      cells: [
        gateway.is_used ? `${index + 1} ▸` : String(index + 1),
        { parts: [[gateway.name ?? gateway.id ?? "?", "id"], [gateway.address, "address"]] },
        { text: condition, tone },
        link ? `${gateway.is_used ? "in use" : link.state}, ${age(link.age)}` : "–",
        number(orDash(gateway.round_trip, millis)),
        number(orDash(gateway.tunnels, String)),
        number(orDash(gateway.load, (load) => `${Math.round(load * 100)} %`)),
        number(orDash(gateway.capacity, megabits)),
        { text: gateway.reach ?? "–", tone: gateway.reach === "unreachable" ? "bad" : undefined },
        number(gateway.heard_ago === null ? UNHEARD[gateway.source] ?? "no" : `${age(gateway.heard_ago)} ago`),
      ],
    };
  }));
}

function clients(seen) {
  at("clients-section").hidden = seen.clients.length === 0;
  fill(at("clients"), seen.clients.map((link) => ({
    cells: [
      { parts: [[link.name, "id"]] }, { parts: [[link.address, "address"]] }, number(age(link.age)), number(String(link.tunnels)),
      number(bytes(link.sent)), number(bytes(link.received)), number(orDash(link.round_trip, millis)),
    ],
  })));
}

function peers(seen) {
  const { received, served } = seen.peers;
  const node = at("peers-text");
  node.hidden = received + served === 0;
  say(node, `${bytes(received)} of large downloads came from members of the LAN, ${bytes(served)} went to them.`);
}

function cache(seen) {
  const store = seen.cache_store;
  at("cache-section").hidden = !store;
  if (!store) return;
  const files = seen.cache_top;
  const most = files.reduce((found, file) => (file.machines > (found?.machines ?? 1) ? file : found), null);
  const shared = most ? ` The file ${most.url} was downloaded once for ${most.machines} machines.` : "";
  say(at("cache-text"), `${plural(store.entries, "response")}, ${bytes(store.bytes)} of ${bytes(store.limit)}; ${bytes(seen.cache_saved)} saved.${shared}`);
  at("cache-files").closest(".scroll").hidden = files.length === 0;
  fill(at("cache-files"), files.map((file) => ({
    cells: [
      { parts: [[file.url, "address"]] }, number(String(file.machines)), number(String(file.hits)), number(bytes(file.saved)),
    ],
  })));
}

function destinations(seen) {
  const passed = before ? (seen.at - before.at) / 1000 : 0;
  const known = (list) => new Map(list.map((entry) => [entry.target, entry.sent + entry.received]));
  const rows = [["apps", ""], ["served", "for clients"]].flatMap(([side, note]) => {
    const old = before ? known(before[side].destinations) : new Map();
    return seen[side].destinations.map((entry) => {
      const moved = entry.sent + entry.received;
      const speed = passed > 0 && old.has(entry.target) ? Math.max(0, moved - old.get(entry.target)) / passed : 0;
      return { entry, note, speed };
    });
  });
  at("no-destinations").hidden = rows.length > 0;
  at("destinations").closest(".scroll").hidden = rows.length === 0;
  fill(at("destinations"), rows.map(({ entry, note, speed }) => ({
    name: entry.open === 0 ? "quiet" : "",
    cells: [
      { parts: note ? [[entry.target, ""], [note, "address"]] : [[entry.target, ""]] },
      number(String(entry.open)),
      number(entry.failed > 0 ? `${entry.opened}, ${entry.failed} failed` : String(entry.opened)),
      number(speed > 0 ? rate(speed) : "–"),
      number(bytes(entry.received)),
      number(bytes(entry.sent)),
    ],
  })));
}

function events(seen) {
  const list = at("events");
  at("no-events").hidden = seen.events.length > 0;
  list.hidden = seen.events.length === 0;
  const shown = Number(list.dataset.last ?? 0);
  const last = seen.events.at(-1)?.number ?? 0;
  if (last < shown) list.replaceChildren();
  const fresh = seen.events.filter((event) => last < shown || event.number > shown);
  for (const event of fresh) {
    const item = element("li");
    const when = element("time", new Date(event.at).toLocaleTimeString([], { hour12: false }));
    when.dateTime = new Date(event.at).toISOString();
    const what = element("b", WORDS[event.what] ?? event.what);
    if (TONES[event.what]) what.dataset.tone = TONES[event.what];
    const text = element("span");
    if (event.who) text.append(element("span", event.who, "id"));
    text.append(event.text);
    item.append(when, what, text);
    list.prepend(item);
  }
  while (list.children.length > 200) list.lastChild.remove();
  list.dataset.last = String(last);
}

/** Describes the map for screen readers. */
function mapText(seen) {
  const used = seen.gateways.find((gateway) => gateway.is_used);
  const route = seen.node.goes_direct ? "directly to the servers"
    : used ? `over gateway ${used.name ?? used.id} at ${used.address}` : "to no server: there is no gateway";
  say(at("map-text"), `This node, ${seen.node.name}, connects ${route}. ${plural(seen.gateways.length, "gateway")} known; the table below lists them.`);
}

function show(seen) {
  before = latest && latest.at < seen.at ? latest : before;
  latest = seen;
  document.body.classList.remove("stale");
  header(seen);
  const now = flow(seen, seen.history.map(sample));
  drawMap(at("map"), seen, now);
  mapText(seen);
  gateways(seen);
  clients(seen);
  peers(seen);
  cache(seen);
  destinations(seen);
  events(seen);
}

function lost() {
  document.body.classList.add("stale");
  situation("bad", "the node does not answer; retrying");
}

function follow() {
  const stream = new EventSource("/events");
  stream.onmessage = (message) => {
    clearTimeout(silence);
    silence = setTimeout(lost, SILENCE);
    show(JSON.parse(message.data));
  };
  stream.onerror = () => {
    lost();
    // A browser reconnects by itself unless it was refused.
    if (stream.readyState === EventSource.CLOSED) setTimeout(follow, 3000);
  };
}

addEventListener("resize", () => {
  if (!latest) return;
  const samples = latest.history.map(sample);
  drawMap(at("map"), latest, samples.at(-1) ?? { down: 0, up: 0 });
  drawChart(at("chart"), samples);
});
follow();
