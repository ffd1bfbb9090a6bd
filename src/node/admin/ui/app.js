"use strict";
// The dashboard of one node. It looks and never touches: everything here is GET, but for the exchange of the link.

const REFRESH_MS = 2000;
const MAX_EVENTS = 500;
const MAX_ROWS = 500;
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

// ---- building and updating elements. What nodes say is put in as text, never as markup. ----

function make(tag, attributes, ...children) {
  const element = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function mark(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Makes the children of a parent those of the items, keeping the elements (and the focus) of those that stay. */
function reconcile(parent, items, key, create, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const id = String(key(item));
    let element = known.get(id);
    if (element) known.delete(id);
    else {
      element = create(item);
      element.dataset.key = id;
    }
    update(element, item);
    if (element === at) at = at.nextElementSibling;
    else parent.insertBefore(element, at);
  }
  for (const gone of known.values()) gone.remove();
}

// ---- words ----

const short = (id) => (id || "").slice(0, 8);
const plural = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many || one + "s"}`;

function milliseconds(ms) {
  if (ms < 1) return `${(ms * 1000).toFixed(0)} µs`;
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return duration(ms);
}

function duration(ms) {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} days`;
}

function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? count : count.toFixed(1)} ${units[unit]}`;
}

const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
const ago = (ms) => (Date.now() - ms < 1000 ? "just now" : `${duration(Date.now() - ms)} ago`);

function shown(value) {
  if (!value) return "";
  if (value.text !== undefined) return value.text;
  return plural(Math.floor((value.base64.replace(/=+$/, "").length * 3) / 4), "byte");
}

/** Words that must be there, words after ! that must not; a word like env=prod must be a field. */
function matcher(text) {
  const words = text.toLowerCase().split(/[\s,]+/).filter(Boolean);
  // An id is random: two of its letters are anywhere in every tenth.
  return (fields, id = "") => {
    const all = fields.map((field) => String(field).toLowerCase());
    return words.every((word) => {
      const not = word.startsWith("!");
      const sought = not ? word.slice(1) : word;
      if (!sought) return true;
      const found = sought.includes("=") ? all.some((field) => field === sought) : all.some((field) => field.includes(sought));
      return (found || (sought.length >= 4 && id.startsWith(sought))) !== not;
    });
  };
}

// ---- the API ----

let token = null;

class Refused extends Error {}

async function get(path, options) {
  const headers = { Authorization: `Bearer ${token}`, ...(options && options.headers) };
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  if (answer.status === 401 || answer.status === 403) throw new Refused();
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer;
}

const json = async (path) => (await get(path)).json();

/** Exchanges the code behind # for a token, which lives as long as this tab does. */
async function enter() {
  const code = location.hash.slice(1);
  if (/^[0-9a-f]{64}$/.test(code)) {
    history.replaceState(null, "", location.pathname);
    const answer = await fetch("/v1/ui/sessions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ code }),
    });
    if (answer.ok) sessionStorage.setItem("token", (await answer.json()).token);
    else write($("gate-text"), "This link was used already, or is too old. Make another one on the machine of the node:");
  }
  token = sessionStorage.getItem("token");
  return token !== null;
}

function lock() {
  sessionStorage.removeItem("token");
  $("page").hidden = true;
  $("gate").hidden = false;
  connection("lost", "locked");
}

function connection(state, text) {
  $("connection").dataset.state = state;
  write($("connection").lastElementChild, text);
}

// ---- what is known ----

const known = { status: null, nodes: [], tunnels: [], attributes: [], more: false, convergence: null, selected: null };
const nameOf = (id) => (known.nodes.find((node) => node.node === id) || {}).name || short(id);
const announced = new Map();

// ---- summary ----

function drawSummary() {
  const { status, nodes, convergence } = known;
  if (!status) return;
  write($("where"), `${status.name} in mesh ${short(status.mesh)}`);
  document.title = `${status.name} – snomesh`;
  write($("version"), `snomesh ${status.version}, up ${duration(status.uptimeMs)}`);
  const alive = nodes.filter((node) => node.state === "alive").length;
  const troubled = nodes.filter((node) => node.state === "suspect" || node.state === "down");
  write($("tile-nodes"), troubled.length ? `${alive} of ${alive + troubled.length}` : String(alive));
  write($("tile-nodes-label"), troubled.length ? "nodes alive" : alive === 1 ? "node alive" : "nodes alive");
  mark($("tile-nodes").parentElement, "data-state", troubled.some((node) => node.state === "down") ? "bad" : troubled.length ? "warn" : null);
  write($("tile-tunnels"), status.tunnels.toLocaleString("en"));
  write($("tile-attributes"), status.attributes.toLocaleString("en"));
  if (convergence) {
    const equal = convergence.peers.filter((peer) => peer.inSync && peer.behind === 0).length;
    write($("tile-sync"), convergence.peers.length ? `${equal} of ${convergence.peers.length}` : "alone");
    write($("tile-sync-label"), convergence.peers.length ? "linked peers in sync" : "no peer is linked");
    mark($("tile-sync").parentElement, "data-state", equal < convergence.peers.length ? "warn" : null);
  }
  $("reasons").hidden = status.ready;
  if (!status.ready) write($("reasons"), `Not ready: ${status.reasons.join("; ")}`);
  for (const node of nodes) {
    const before = announced.get(node.node);
    if (before !== undefined && before !== node.state) write($("announcer"), `Node ${node.name} is ${node.state}.`);
    announced.set(node.node, node.state);
  }
}

// ---- map ----

const MARKS = { alive: "", suspect: "?", down: "×", left: "–" };

function places(nodes) {
  const [width, height] = [640, 440];
  const others = nodes.filter((node) => !node.local);
  const found = new Map();
  const own = nodes.find((node) => node.local);
  if (own) found.set(own.node, others.length === 0 ? [width / 2, height / 2] : others.length === 1 ? [width * 0.27, height / 2] : [width / 2, height / 2]);
  // By id, so that everybody's place stays when names or states change.
  const order = [...others].sort((a, b) => (a.node < b.node ? -1 : 1));
  order.forEach((node, at) => {
    if (order.length === 1) return found.set(node.node, [width * 0.73, height / 2]);
    const angle = -Math.PI / 2 + ((order.length === 2 ? at * Math.PI + Math.PI / 2 : (at * 2 * Math.PI) / order.length));
    found.set(node.node, [width / 2 + Math.cos(angle) * 235, height / 2 + Math.sin(angle) * 150]);
  });
  if (order.length === 2 && own) found.set(own.node, [width / 2, height * 0.17]), order.forEach((node, at) => found.set(node.node, [width * (at ? 0.18 : 0.82), height * 0.78]));
  return found;
}

function edges(nodes) {
  const links = new Map(nodes.map((node) => [node.node, new Set(node.links)]));
  const lives = (node) => node.state === "alive" || node.state === "suspect";
  const found = [];
  nodes.forEach((a, at) => {
    for (const b of nodes.slice(at + 1)) {
      if (!lives(a) || !lives(b)) continue;
      const own = a.local || b.local;
      const other = a.local ? b : a;
      const [there, back] = [links.get(a.node).has(b.node), links.get(b.node).has(a.node)];
      if (own ? other.linked : there || back) found.push({ a, b, own, half: !(there && back), rtt: own ? other.rttMicros : undefined });
    }
  });
  return found;
}

function drawMap() {
  const { nodes } = known;
  const at = places(nodes);
  const map = $("map");
  if (!map.firstChild) map.append(make("svg:g", { id: "map-edges", "aria-hidden": "true" }), make("svg:g", { id: "map-nodes" }));
  reconcile($("map-edges"), edges(nodes), ({ a, b }) => `${a.node} ${b.node}`,
    () => make("svg:g", {}, make("svg:line", { class: "edge" }), make("svg:rect", { class: "plate", height: 18, rx: 4 }), make("svg:text", { class: "rtt" })),
    (group, { a, b, own, half, rtt }) => {
      const [line, plate, label] = group.children;
      const [[x1, y1], [x2, y2]] = [at.get(a.node), at.get(b.node)];
      for (const [name, value] of Object.entries({ x1, y1, x2, y2 })) mark(line, name, value.toFixed(1));
      const active = known.selected === a.node || known.selected === b.node;
      mark(line, "class", `edge${own ? " own" : ""}${half ? " half" : ""}${active ? " active" : ""}`);
      const text = rtt === undefined ? "" : milliseconds(rtt / 1000);
      const [x, y, width] = [(x1 + x2) / 2, (y1 + y2) / 2, text ? text.length * 6.4 + 8 : 0];
      mark(label, "x", x.toFixed(1));
      mark(label, "y", y.toFixed(1));
      mark(plate, "x", (x - width / 2).toFixed(1));
      mark(plate, "y", (y - 9).toFixed(1));
      mark(plate, "width", width.toFixed(1));
      write(label, text);
    });
  reconcile($("map-nodes"), nodes, (node) => node.node,
    (node) => {
      const group = make("svg:g", { class: "node", role: "button", tabindex: "0" },
        make("svg:circle", { class: "ring", r: 26 }), make("svg:circle", { class: "dot", r: 20 }),
        make("svg:text", { class: "mark" }), make("svg:text", { class: "name", y: 40 }), make("svg:text", { class: "sub", y: 55 }));
      const choose = () => { known.selected = node.node; drawMap(); drawNode(); };
      group.addEventListener("click", choose);
      group.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); }
      });
      return group;
    },
    (group, node) => {
      const [x, y] = at.get(node.node);
      mark(group, "transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
      mark(group, "data-state", node.state);
      mark(group, "aria-pressed", String(known.selected === node.node));
      const rtt = node.rttMicros === undefined ? "" : `, round trip ${milliseconds(node.rttMicros / 1000)}`;
      mark(group, "aria-label", `${node.name}, ${node.local ? "this node" : node.state}${rtt}`);
      write(group.children[2], node.local ? "●" : MARKS[node.state] || "");
      const under = node.local ? "this node" : node.state === "alive" ? "" : node.state;
      write(group.children[3], node.name || short(node.node));
      write(group.children[4], under);
      // In the upper half the links go down: what is written stands above them.
      const above = y < 200;
      mark(group.children[3], "y", above ? (under ? -46 : -31) : 40);
      mark(group.children[4], "y", above ? -31 : 55);
    });
}

function drawNode() {
  const node = known.nodes.find((candidate) => candidate.node === known.selected) || known.nodes[0];
  if (!node) return;
  known.selected = node.node;
  write($("node-title"), node.name || short(node.node));
  write($("node-state"), node.local ? "this node" : node.state);
  mark($("node-state"), "data-state", node.state);
  const held = known.tunnels.filter((tunnel) => tunnel.holder === node.node).map((tunnel) => tunnel.name);
  const peers = node.links.map(nameOf).sort();
  const rows = [
    ["Id", node.node],
    ["Version", `${node.version}, generation ${node.generation}`],
    ["Address", node.addresses.join(", ") || "advertises none"],
    ["Links", peers.length ? peers.join(", ") : "none"],
    ["Tunnels", held.length ? held.join(", ") : "none"],
  ];
  if (node.linked) {
    rows.push(["Round trip", node.rttMicros === undefined ? "unknown" : milliseconds(node.rttMicros / 1000)]);
    rows.push(["State", node.inSync && node.behind === 0 ? "the same as here" : node.behind ? `${plural(node.behind, "write")} behind` : "differs, and is being compared"]);
  } else if (!node.local) {
    rows.push(["Link", "this node has none to it"]);
  } else if (known.status) {
    const { uptimeMs, listen, binds, seeds } = known.status;
    rows.push(["Uptime", duration(uptimeMs)], ["Listens on", `udp/${listen}`]);
    if (binds.length) rows.push(["Binds", binds.map((bind) => `${bind.listen} → ${bind.tunnel}`).join(", ")]);
    if (seeds.length) rows.push(["Joins", seeds.map((seed) => `${seed.address}${seed.reached ? "" : " (not reached)"}`).join(", ")]);
  }
  reconcile($("node-detail"), rows.flatMap(([name, value]) => [[name, "dt", name], [name, "dd", value]]), ([name, tag]) => `${tag} ${name}`,
    ([, tag]) => make(tag), (element, [, , text]) => write(element, text));
}

// ---- convergence ----

function drawConvergence() {
  const { convergence, nodes } = known;
  if (!convergence) return;
  write($("digest"), convergence.digest);
  const byId = new Map(nodes.map((node) => [node.node, node]));
  reconcile($("peers"), convergence.peers, (peer) => peer.node,
    () => make("tr", {}, make("td", { class: "key" }), make("td", {}, make("span", { class: "badge" })), make("td", { class: "num" }), make("td", { class: "num" }), make("td", { class: "num" }), make("td", { class: "num" })),
    (row, peer) => {
      const node = byId.get(peer.node) || {};
      const equal = peer.inSync && peer.behind === 0;
      write(row.children[0], peer.name || short(peer.node));
      write(row.children[1].firstChild, equal ? "same digest" : "differs");
      mark(row.children[1].firstChild, "data-state", equal ? "alive" : "suspect");
      write(row.children[2], peer.behind === 0 ? "0" : plural(peer.behind, "write"));
      write(row.children[3], node.rttMicros === undefined ? "–" : milliseconds(node.rttMicros / 1000));
      write(row.children[4], bytes(node.sentBytes || 0));
      write(row.children[5], bytes(node.receivedBytes || 0));
    });
  $("peers-empty").hidden = convergence.peers.length > 0;
  const { localChanges, remoteChanges, removals, siblings, tombstones } = convergence;
  write($("counts"), `${plural(localChanges, "change")} from here, ${plural(remoteChanges, "change")} from others, ${plural(removals, "removal")}; ${plural(siblings, "sibling")}, ${plural(tombstones, "tombstone")}.`);
  drawHistogram(convergence.propagation);
}

function median({ boundsMs, counts }) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return null;
  let seen = 0;
  const at = counts.findIndex((count) => (seen += count) * 2 >= total);
  return at < boundsMs.length ? `≤ ${milliseconds(boundsMs[at]).replace(".0", "")}` : `> ${milliseconds(boundsMs.at(-1)).replace(".0", "")}`;
}

function drawHistogram(propagation) {
  const { boundsMs, counts, sumMs } = propagation;
  const total = counts.reduce((sum, count) => sum + count, 0);
  const middle = median(propagation);
  write($("tile-lag"), middle || "–");
  write($("histogram-sum"), total ? `${plural(total, "value")}, ${milliseconds(sumMs / total)} on average` : "nothing has come from others yet");
  const most = Math.max(1, ...counts);
  const width = 480 / counts.length;
  const rows = counts.map((count, at) => ({ count, at }));
  const svg = $("histogram");
  reconcile(svg, rows, ({ at }) => at,
    () => make("svg:g", {}, make("svg:rect", { class: "bar-back", rx: 2 }), make("svg:rect", { class: "bar", rx: 2 }), make("svg:title")),
    (group, { count, at }) => {
      const height = count === 0 ? 0 : Math.max(4, (count / most) * 192);
      const [back, bar, title] = group.children;
      for (const [rect, tall] of [[back, 196], [bar, height]]) {
        mark(rect, "x", (at * width + 3).toFixed(1));
        mark(rect, "width", (width - 6).toFixed(1));
        mark(rect, "y", (198 - tall).toFixed(1));
        mark(rect, "height", tall.toFixed(1));
      }
      const bound = at < boundsMs.length ? `at most ${boundsMs[at]} ms` : `more than ${boundsMs.at(-1)} ms`;
      write(title, `${bound}: ${plural(count, "value")}`);
    });
  mark(svg, "aria-label", total ? `Histogram: ${plural(total, "value")}, half of them within ${middle}` : "Histogram, empty");
  const label = (ms) => (ms >= 1000 ? `${ms / 1000} s` : `${ms}`);
  reconcile($("histogram-axis"), [...boundsMs.map(label), "more"].map((text, at) => ({ text, at })), ({ at }) => at, () => make("span"), (span, { text }) => write(span, text));
}

// ---- tables ----

function chips(cell, texts, kind) {
  reconcile(cell, texts.map((text, at) => ({ text, at })), ({ at }) => at, () => make("span", { class: `chip${kind ? ` ${kind}` : ""}` }), (chip, { text }) => write(chip, text));
}

function count(element, shownCount, all, more) {
  const of = more ? `the first ${all.toLocaleString("en")}` : all.toLocaleString("en");
  write(element, shownCount === all && !more ? `${all.toLocaleString("en")}` : `${shownCount.toLocaleString("en")} of ${of}`);
}

function drawTunnels() {
  const wanted = matcher($("tunnel-filter").value);
  const fields = (tunnel) => [tunnel.name, tunnel.holderName, tunnel.holderState, tunnel.healthy ? "" : tunnel.health, ...Object.entries(tunnel.attributes).map(([name, value]) => `${name}=${shown(value)}`)];
  const rows = known.tunnels.filter((tunnel) => wanted(fields(tunnel), tunnel.tunnel));
  count($("tunnels-count"), rows.length, known.tunnels.length, known.moreTunnels);
  $("tunnels-empty").hidden = known.tunnels.length > 0;
  reconcile($("tunnels"), rows.slice(0, MAX_ROWS), (tunnel) => `${tunnel.name} ${tunnel.tunnel}`,
    (tunnel) => {
      const copy = make("button", { type: "button", "aria-label": `Copy the command that binds ${tunnel.name}` }, "Copy bind");
      copy.addEventListener("click", async () => {
        const command = `snomesh bind 0 ${tunnel.name}`;
        try { await navigator.clipboard.writeText(command); write($("announcer"), `Copied: ${command}`); write(copy, "Copied"); } catch { write(copy, command); }
      });
      return make("tr", {}, make("td", { class: "key" }), make("td"), make("td", {}, make("span", { class: "badge" })), make("td"), make("td", { class: "num" }), make("td"), make("td"), make("td", { class: "num" }, copy));
    },
    (row, tunnel) => {
      const [name, holder, state, chosen, weight, attributes, when] = row.children;
      write(name, tunnel.name);
      write(holder, tunnel.holderName || short(tunnel.holder));
      mark(holder, "title", tunnel.holder);
      // Of what does not serve it says so, unless nobody can reach its holder anyway.
      const unhealthy = !tunnel.healthy && tunnel.holderState === "alive";
      write(state.firstChild, unhealthy ? tunnel.health : tunnel.holderState);
      mark(state.firstChild, "data-state", !unhealthy ? tunnel.holderState : tunnel.health === "draining" ? "suspect" : "down");
      const own = known.status && known.status.exposed.find((exposed) => exposed.tunnel === tunnel.tunnel);
      mark(state.firstChild, "title", own && own.health && own.health.failure);
      write(chosen, tunnel.chosen ? "yes" : "");
      write(weight, `${tunnel.weight}`);
      chips(attributes, Object.entries(tunnel.attributes).map(([key, value]) => `${key}=${shown(value)}`));
      write(when, ago(tunnel.registeredAt));
    });
}

function drawAttributes() {
  const wanted = matcher($("attribute-filter").value);
  const rows = known.attributes.filter((attribute) => wanted([attribute.key, shown(attribute.value), `${attribute.key}=${shown(attribute.value)}`, ...attribute.siblings.map(shown), nameOf(attribute.author)]));
  count($("attributes-count"), rows.length, known.attributes.length, known.more);
  $("attributes-empty").hidden = known.attributes.length > 0;
  reconcile($("attributes"), rows.slice(0, MAX_ROWS), (attribute) => attribute.key,
    () => make("tr", {}, make("td", { class: "key mono" }), make("td"), make("td"), make("td"), make("td")),
    (row, attribute) => {
      const [key, value, siblings, author, when] = row.children;
      write(key, attribute.key);
      chips(value, [excerpt(shown(attribute.value))]);
      chips(siblings, attribute.siblings.map((sibling) => excerpt(shown(sibling))), "lost");
      write(author, nameOf(attribute.author));
      write(when, ago(attribute.writtenAt));
    });
}

const excerpt = (text) => (text.length > 120 ? `${text.slice(0, 119)}…` : text);

// ---- events ----

const feed = { events: [], paused: false, missed: 0, next: 0 };

function describe(event) {
  switch (event.type) {
    case "attribute": return event.value ? `${event.key} = ${excerpt(shown(event.value))}${event.siblings ? `, ${plural(event.siblings, "sibling")}` : ""}, by ${nameOf(event.author)}` : `${event.key} was removed`;
    case "registered": return `${event.name} is held by ${nameOf(event.holder)}${event.healthy === false ? ", and is not to be picked" : ""}`;
    case "deregistered": return `${event.name} went`;
    case "member": return `${nameOf(event.node)} is ${event.state}`;
    case "link_up": return `link to ${nameOf(event.peer)}`;
    case "link_down": return `no link to ${nameOf(event.peer)} any more`;
    case "alarm": return event.message;
    case "lagged": return `${plural(event.missed, "event")} were missed: this page was too slow, or was away`;
    default: return "";
  }
}

function take(event) {
  const own = known.nodes.find((node) => node.local);
  const author = event.author || event.holder;
  const remote = author && own && author !== own.node;
  const lag = event.writtenAt ? Math.max(0, event.at - event.writtenAt) : null;
  feed.events.unshift({ id: feed.next++, at: event.at || Date.now(), kind: event.type, text: describe(event), lag: lag === null || !remote ? "" : `${milliseconds(lag)} after its origin` });
  feed.events.length = Math.min(feed.events.length, MAX_EVENTS);
  if (!feed.paused) soonFeed();
  else write($("events-count"), `paused, ${plural(++feed.missed, "event")} waiting`);
  if (event.type === "attribute" || event.type === "lagged") soonAttributes();
  if (event.type === "registered" || event.type === "deregistered" || event.type === "lagged") soonTunnels();
  if (event.type === "member" || event.type.startsWith("link")) soonOverview();
}

function drawFeed() {
  const wanted = matcher($("event-filter").value);
  const rows = feed.events.filter((event) => wanted([event.kind, event.text]));
  count($("events-count"), rows.length, feed.events.length);
  $("events-empty").hidden = feed.events.length > 0;
  reconcile($("events"), rows, (event) => event.id,
    (event) => make("li", { class: "new", "data-kind": event.kind }, make("time", { class: "muted" }, clock(event.at)), make("span", {}, make("span", { class: "badge" }, event.kind.replace("_", " "))), make("span", { class: "what" }, event.text), make("span", { class: "lag" }, event.lag)),
    () => {});
}

/** Reads server-sent events for ever, and goes on where it was when the connection was lost. */
async function follow() {
  let last = null;
  for (;;) {
    try {
      const answer = await get("/v1/events", { headers: last ? { "Last-Event-ID": last } : {} });
      connection("live", "live");
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        rest += value;
        let end;
        while ((end = rest.indexOf("\n\n")) >= 0) {
          const lines = rest.slice(0, end).split("\n");
          rest = rest.slice(end + 2);
          const field = (name) => lines.filter((line) => line.startsWith(name)).map((line) => line.slice(name.length)).join("\n");
          last = field("id: ") || last;
          const data = field("data: ");
          if (data) take(JSON.parse(data));
        }
      }
    } catch (error) {
      if (error instanceof Refused) return lock();
    }
    connection("lost", "reconnecting");
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

// ---- refreshing ----

/** Runs at most once at a time and soon, however often it is asked for. */
function soon(work, after) {
  let timer = null;
  let running = false;
  let again = false;
  const run = async () => {
    timer = null;
    if (running) { again = true; return; }
    running = true;
    try { await work(); } catch (error) { if (error instanceof Refused) lock(); }
    running = false;
    if (again) { again = false; ask(); }
  };
  const ask = () => { if (timer === null) timer = setTimeout(run, after); };
  return ask;
}

const soonFeed = soon(async () => drawFeed(), 50);

const soonOverview = soon(async () => {
  [known.status, known.nodes, known.convergence] = await Promise.all([json("/v1/status"), json("/v1/nodes").then((list) => list.nodes), json("/v1/convergence")]);
  drawSummary();
  drawMap();
  drawNode();
  drawConvergence();
}, 100);

const soonTunnels = soon(async () => {
  const list = await json("/v1/tunnels");
  known.tunnels = list.tunnels;
  known.moreTunnels = Boolean(list.next);
  drawTunnels();
  drawNode();
}, 250);

const soonAttributes = soon(async () => {
  const list = await json(`/v1/attributes?limit=${MAX_ROWS}`);
  known.attributes = list.attributes;
  known.more = Boolean(list.next);
  drawAttributes();
}, 250);

function theme() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  return dark ? "dark" : "light";
}

async function start() {
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
  $("theme").addEventListener("click", () => {
    const other = theme() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = other;
    localStorage.setItem("theme", other);
  });
  $("tunnel-filter").addEventListener("input", drawTunnels);
  $("attribute-filter").addEventListener("input", drawAttributes);
  $("event-filter").addEventListener("input", drawFeed);
  $("pause").addEventListener("click", () => {
    feed.paused = !feed.paused;
    feed.missed = 0;
    mark($("pause"), "aria-pressed", String(feed.paused));
    write($("pause"), feed.paused ? "Go on" : "Pause");
    if (!feed.paused) drawFeed();
  });
  if (!(await enter())) return lock();
  $("page").hidden = false;
  soonOverview();
  soonTunnels();
  soonAttributes();
  setInterval(soonOverview, REFRESH_MS);
  setInterval(() => { soonTunnels(); soonAttributes(); }, 5 * REFRESH_MS);
  follow();
}

start();
