// The LAN as this node sees it, in three columns: clients or this node, gateways, servers. On a phone the columns are
// stacked. All text is set as text.

import { millis, plural, rate } from "./format.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const BOX = { height: 62 };
const GAP = 18;
const RAIL = 42;
const MOST = { gateways: 6, clients: 5, servers: 4 };

function shape(kind, attributes, text) {
  const element = document.createElementNS(NAMESPACE, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

const short = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

/** The three columns as data: {title, name, detail, address, tone, used, self, gone, rank}. */
function columns(seen) {
  const { node, gateways, links, clients, apps, served } = seen;
  const self = {
    name: node.name,
    detail: node.goes_direct ? `${node.state ?? "direct"} gateway, this node` : "this node",
    tone: node.goes_direct ? "good" : "",
    address: node.proxy.join(", "),
    self: true,
    used: node.goes_direct,
    rank: node.goes_direct ? "★" : undefined,
  };
  const others = gateways.slice(0, MOST.gateways).map((gateway, index) => {
    const link = links.find((candidate) => candidate.id === gateway.id);
    const paused = gateway.paused_for !== null;
    const tone = gateway.is_suspect || paused ? "wait" : { active: "good", linked: "good", standby: "" }[gateway.state] ?? "bad";
    const condition = gateway.is_suspect ? `${gateway.state}, suspect` : paused ? `${gateway.state}, paused` : gateway.state;
    const trip = link?.round_trip ?? gateway.round_trip;
    return {
      name: gateway.name ?? gateway.id ?? "gateway",
      detail: trip === null || trip === undefined ? condition : `${condition} · ${millis(trip)}`,
      tone,
      address: gateway.address,
      used: gateway.is_used,
      warm: Boolean(link) && !gateway.is_used,
      gone: gateway.state === "silent",
      cut: gateway.reach === "unreachable",
      rank: String(index + 1),
    };
  });
  const targets = seen.servers.length > 0 ? seen.servers : [...apps.destinations, ...served.destinations]
    .slice(0, MOST.servers - 1).map((destination) => destination.target);
  const right = targets.slice(0, MOST.servers).map((target) => ({ name: target, detail: seen.servers.length > 0 ? "server" : "destination" }));
  if (right.length === 0) right.push({ name: "any server", detail: "nothing connected yet" });
  if (!node.goes_direct) return [[self], others, right];
  const left = clients.slice(0, MOST.clients).map((client) => ({
    name: client.name,
    detail: `client · ${plural(client.tunnels, "tunnel")}`,
    address: client.address,
    used: client.tunnels > 0,
    warm: client.tunnels === 0,
  }));
  if (seen.clients_in_all > left.length) left.push({ name: `${seen.clients_in_all - left.length} more`, detail: "clients" });
  if (left.length === 0) left.push({ name: "no clients", detail: "nobody is linked to this node", gone: true });
  return [left, [self, ...others], right];
}

function card(item, at) {
  const group = shape("g", {
    class: ["card", item.used && "used", item.self && "self", item.gone && "gone"].filter(Boolean).join(" "),
    transform: `translate(${at.x} ${at.y})`,
  });
  const left = item.rank === undefined ? 14 : 40;
  const room = Math.floor((at.width - left - 8) / 7.9);
  group.append(shape("rect", { class: "box", width: at.width, height: BOX.height, rx: 10 }));
  if (item.rank !== undefined) {
    group.append(shape("circle", { class: "rank", cx: 22, cy: 21, r: 10.5 }));
    group.append(shape("text", { class: "rank-text", x: 22, y: 25 }, item.rank));
  }
  const lines = item.address ? [21, 37, 53] : [28, 46];
  group.append(shape("text", { class: "name", x: left, y: lines[0] + 3 }, short(item.name, room)));
  group.append(shape("text", { class: `detail ${item.tone ?? ""}`, x: left, y: lines[1] + 2 }, short(item.detail, room + 4)));
  if (item.address) group.append(shape("text", { class: "address", x: left, y: lines[2] + 1 }, short(item.address, room + 2)));
  return group;
}

/** Places each column of boxes; returns their positions and the size of the map. */
function laidOut(groups, width) {
  const stacked = width < 700;
  if (!stacked) {
    const box = Math.min(260, Math.max(190, width * 0.23));
    const rows = Math.max(...groups.map((group) => group.length), 2);
    const height = rows * (BOX.height + GAP) - GAP + 8;
    const lefts = [1, (width - box) / 2, width - box - 1];
    const places = groups.map((group, column) => {
      const used = group.length * (BOX.height + GAP) - GAP;
      return group.map((_, row) => ({ x: lefts[column], y: (height - used) / 2 + row * (BOX.height + GAP), width: box }));
    });
    return { places, height, stacked };
  }
  // Space for the lanes on both sides of the middle column.
  const widths = [width - 2 * RAIL, width - 2 * RAIL, width - 2 * RAIL];
  const lefts = [1, RAIL, 1];
  let y = 2;
  const places = groups.map((group, column) => {
    const here = group.map((_, row) => ({ x: lefts[column], y: y + row * (BOX.height + 12), width: widths[column] }));
    y += group.length * (BOX.height + 12) + 14;
    return here;
  });
  return { places, height: y - 22, stacked };
}

/** The path of a lane, and the position of its label if there is space for one. */
function way(from, to, stacked, width) {
  const [start, end] = [from.x + from.width + 9, to.x - 9];
  const [out, into] = [from.y + BOX.height / 2, to.y + BOX.height / 2];
  if (!stacked) {
    const middle = (start + end) / 2;
    return { d: `M${start} ${out}C${middle} ${out} ${middle} ${into} ${end} ${into}`, x: middle, y: (out + into) / 2 };
  }
  if (to.x > from.x) {
    const rail = 16;
    return { d: `M${rail} ${from.y + BOX.height + 9}V${into - 14}Q${rail} ${into} ${rail + 14} ${into}H${end}` };
  }
  const rail = width - 14;
  const edge = to.x + to.width + 9;
  return { d: `M${start} ${out}Q${rail} ${out} ${rail} ${out + 14}V${into - 14}Q${rail} ${into} ${rail - 14} ${into}H${edge}` };
}

/** Draws `seen`; `now` is {down, up} in bytes per second. */
export function draw(svg, seen, now) {
  const groups = columns(seen);
  const width = svg.clientWidth;
  const { places, height, stacked } = laidOut(groups, width);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  const [lines, cards] = [[], []];
  const moving = now.down + now.up;

  const lane = (from, to, kind, label) => {
    const { d, x, y } = way(from, to, stacked, width);
    if (kind !== "road") {
      lines.unshift(shape("path", { class: kind, d }));
      return;
    }
    lines.push(shape("path", { class: "road", d }));
    const marking = shape("path", { class: moving > 0 ? "marking" : "marking rest", d });
    // The speed of the animation doubles with each power of ten.
    marking.style.setProperty("--pace", `${Math.max(0.4, 4 - 0.5 * Math.log10(1 + moving)).toFixed(2)}s`);
    lines.push(marking);
    if (label && x !== undefined) lines.push(shape("text", { class: "rate", x, y: y - 28 }, label));
  };
  const kindOf = (item) => (item.used ? "road" : item.warm ? "warm" : "heard");

  const [left, middle, right] = places;
  const total = moving > 0 ? rate(moving) : "";
  if (seen.node.goes_direct) {
    groups[0].forEach((client, row) => client.gone || lane(left[row], middle[0], kindOf(client)));
    right.forEach((place, row) => lane(middle[0], place, row === 0 ? "road" : "warm", row === 0 ? total : ""));
  } else {
    groups[1].forEach((gateway, row) => {
      lane(left[0], middle[row], kindOf(gateway), gateway.used ? total : "");
      right.forEach((place) => {
        if (gateway.gone) return;
        lane(middle[row], place, gateway.cut ? "cut" : gateway.used ? "road" : "heard");
      });
    });
  }
  groups.forEach((group, column) => group.forEach((item, row) => cards.push(card(item, places[column][row]))));
  svg.replaceChildren(...lines, ...cards);
}
