//! The dashboard in a real browser: three nodes, one is cut off and comes back.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use snomesh::node::api::{Status, UiLink};
use snomesh::node::{CaSource, Client, Node, NodeConfig};
use snomesh::tunnel::quic::Gate;
use tokio::runtime::Runtime;

use crate::browser::Browser;
use crate::program::until;

/// A node in this process, with a cable that can be pulled.
struct Cabled {
    node: Node,
    client: Client,
    gate: Gate,
}

impl Cabled {
    async fn start(directory: &Path, name: &str, first: Option<&Self>) -> Self {
        let gate = Gate::new();
        let mut config = NodeConfig::new(name, directory.join(name));
        config.listen.set_port(0);
        config.gate = Some(gate.clone());
        config.drain_timeout = Duration::from_secs(1);
        if let Some(first) = first {
            let file = |file: &str| first.node.data_dir().join(file);
            config.ca = CaSource::Files { certificate: file("ca.crt"), key: Some(file("ca.key")) };
            config.join = vec![first.node.listen_addr().to_string().parse().unwrap()];
        }
        let node = Node::start(config).await.unwrap();
        let client = Client::new(node.admin_path(), Duration::from_secs(10));
        Self { node, client, gate }
    }

    async fn linked(&self) -> usize {
        self.client.get::<Status>("/v1/status").await.unwrap().nodes.linked
    }

    async fn set(&self, key: &str, value: &str) {
        let path = format!("/v1/attributes/mesh/{key}");
        self.client.put::<Value>(&path, value.to_owned().into()).await.unwrap();
    }

    async fn expose(&self, name: &str, weight: u16, attributes: Value) {
        let body = serde_json::json!({ "target": "127.0.0.1:9", "attributes": attributes, "weight": weight });
        self.client.put_json::<Value>(&format!("/v1/tunnels/{name}"), &body).await.unwrap();
    }

    async fn link(&self) -> String {
        let link: UiLink = self.client.post_json("/v1/ui/links", &serde_json::json!({})).await.unwrap();
        link.url
    }
}

/// Three nodes that know each other, with something to look at.
fn mesh(runtime: &Runtime, directory: &Path) -> [Cabled; 3] {
    let nodes = runtime.block_on(async {
        let a = Cabled::start(directory, "amsterdam", None).await;
        let b = Cabled::start(directory, "berlin", Some(&a)).await;
        let c = Cabled::start(directory, "chicago", Some(&a)).await;
        [a, b, c]
    });
    until("three nodes are linked", || {
        runtime.block_on(async {
            let mut all = true;
            for node in &nodes {
                all &= node.linked().await == 2;
            }
            all
        })
    });
    runtime.block_on(async {
        let [a, b, c] = &nodes;
        a.expose("web", 1, serde_json::json!({ "env": "prod", "version": "1.4" })).await;
        b.expose("web", 3, serde_json::json!({ "env": "prod", "version": "1.5" })).await;
        b.expose("db", 1, serde_json::json!({ "env": "prod", "engine": "postgres" })).await;
        c.expose("grafana", 1, serde_json::json!({ "env": "staging" })).await;
        for (number, node) in nodes.iter().cycle().take(36).enumerate() {
            node.set(&format!("sensor/{:02}", number % 12), &format!("{}", 20 + number)).await;
        }
        a.set("owner", "platform team").await;
    });
    nodes
}

/// What a reader of the page cannot do without: names for what can be operated, one main heading, and text that
/// stands out from its ground (WCAG 2.1, 1.4.3: 4.5 to 1).
const FLAWS: &str = r#"
  const flaws = [];
  const name = (e) => (e.getAttribute("aria-label") || e.textContent || (e.labels && e.labels[0] && e.labels[0].textContent) || "").trim();
  for (const e of document.querySelectorAll("button, a, input, [role=button]")) if (!name(e)) flaws.push("no name: " + e.outerHTML);
  if (document.querySelectorAll("h1").length !== 1) flaws.push("not one main heading");
  for (const e of document.querySelectorAll("th")) if (!e.scope) flaws.push("a heading of no column: " + e.textContent);
  const numbers = (c) => c.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = numbers(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0.9) return c; } return [255, 255, 255]; };
  for (const e of document.querySelectorAll("h1, h2, p, td, th, dt, dd, a, button, span, li, time, code, label")) {
    if (!e.offsetParent || !e.textContent.trim() || e.closest(".unseen, .skip, .top")) continue;
    const [a, b] = [light(numbers(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) flaws.push(ratio.toFixed(2) + " to 1: " + e.outerHTML.slice(0, 120));
  }
  return [...new Set(flaws)];
"#;

/// How many nodes of the map are in that state.
fn nodes_in(state: &str) -> String {
    format!("document.querySelectorAll('#map-nodes [data-state={state}]').length")
}

/// Pulls the cable of chicago, looks, and puts it back.
fn cut_and_heal(browser: &Browser, runtime: &Runtime, nodes: &[Cabled; 3]) {
    let [a, _, c] = nodes;
    // Both sides go on.
    c.gate.shut();
    runtime.block_on(async {
        a.set("color", "blue").await;
        c.set("color", "green").await;
    });
    browser.until(&format!("{} + {} === 1", nodes_in("suspect"), nodes_in("down")));
    browser.until("document.getElementById('announcer').textContent.startsWith('Node chicago is')");
    browser.until(&format!("{} === 1", nodes_in("down")));
    browser.until("document.querySelectorAll('#map-edges line').length === 1");
    browser.until("document.getElementById('tile-nodes').textContent === '2 of 3'");
    browser.until("document.querySelector('#tunnels').textContent.includes('down')");
    browser.until("document.getElementById('events').textContent.includes('chicago is down')");
    assert_eq!(browser.run(FLAWS), serde_json::json!([]), "while chicago is cut off");
    browser.picture("dashboard-cut");

    // And put back.
    c.gate.open();
    browser.until(&format!("{} === 3", nodes_in("alive")));
    browser.until("document.querySelectorAll('#map-edges line').length === 3");
    browser.until("document.getElementById('tile-sync').textContent === '2 of 2'");
    browser.until("document.getElementById('tile-nodes').textContent === '3'");
    browser.until("document.querySelectorAll('#attributes .chip.lost').length === 1");
    browser.until("document.getElementById('events').textContent.includes('chicago is alive')");
    browser.until("document.querySelector('#events .lag:not(:empty)')");
    browser.picture("dashboard-healed");
    browser.run("document.documentElement.dataset.theme = 'light'; document.getElementById('attributes-card').scrollIntoView({ behavior: 'instant' })");
    browser.picture("dashboard-tables");
}

/// FEATURES P8. Needs Chromium, and skips where there is none.
#[test]
fn one_of_three_nodes_is_cut_off_and_comes_back_before_ones_eyes() {
    let Some(browser) = Browser::open() else { return };
    let directory = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let nodes = mesh(&runtime, directory.path());
    let [a, ..] = &nodes;
    browser.resize(1360, 1000);
    let link = runtime.block_on(a.link());
    browser.visit(&link);
    let nodes_in =
        |state: &str| format!("document.querySelectorAll('#map-nodes [data-state={state}]').length");
    browser.until(&format!("{} === 3", nodes_in("alive")));
    browser.until("document.querySelectorAll('#map-edges line').length === 3");
    browser.until("document.getElementById('tile-sync').textContent === '2 of 2'");
    browser.until("document.querySelectorAll('#tunnels tr').length === 4");
    browser.until("[...document.querySelectorAll('#tunnels tr')].map((row) => row.children[4].textContent).sort().join() === '1,1,1,3'");
    browser.until("document.querySelectorAll('#attributes tr').length === 13");
    browser.until("document.getElementById('connection').dataset.state === 'live'");
    browser.until(
        "document.getElementById('histogram').getAttribute('aria-label').includes('values, half of them')",
    );
    assert_eq!(browser.run("return location.hash"), "", "the code is not left in the address");

    // Nothing is operated by a mouse alone: to the node of chicago by the keyboard.
    browser.run("document.querySelector('#map-nodes [aria-label^=chicago]').focus()");
    browser.press(&["\u{e007}"]);
    browser.until("document.getElementById('node-title').textContent === 'chicago'");
    browser.until("document.getElementById('node-detail').textContent.includes('grafana')");

    // The live filter.
    for (filter, rows) in [("env=prod", 3), ("env=prod !db", 2), ("berlin", 2), ("nothing", 0), ("", 4)] {
        browser.run(&format!(
            "const f = document.getElementById('tunnel-filter'); f.value = '{filter}'; f.dispatchEvent(new Event('input'))"
        ));
        browser.until(&format!("document.querySelectorAll('#tunnels tr').length === {rows}"));
    }
    for theme in ["light", "dark"] {
        browser.run(&format!("document.documentElement.dataset.theme = '{theme}'"));
        assert_eq!(browser.run(FLAWS), serde_json::json!([]), "in {theme}");
        browser.picture(&format!("dashboard-{theme}"));
    }

    cut_and_heal(&browser, &runtime, &nodes);

    // Small windows, too: nothing is wider than the window.
    browser.resize(420, 900);
    let wide = "const w = document.documentElement.clientWidth; return [...document.querySelectorAll('body *')] \
        .filter((e) => !e.closest('.scroll, nav, .unseen, svg') && e.getBoundingClientRect().right > w + 1).map((e) => e.outerHTML.slice(0, 90))";
    assert_eq!(browser.run(wide), serde_json::json!([]), "wider than a small window");
    browser.run("scrollTo({ top: 0, behavior: 'instant' })");
    browser.picture("dashboard-phone");
    assert_eq!(browser.complaints(), Vec::<String>::new());

    // A link works once: a second visitor is told how to get one.
    browser.run("sessionStorage.clear()");
    browser.visit("about:blank");
    browser.visit(&link);
    browser.until("!document.getElementById('gate').hidden && document.getElementById('page').hidden");
    browser.until("document.getElementById('gate-text').textContent.includes('used already')");
    runtime.block_on(async {
        for node in nodes {
            node.node.shutdown().await;
        }
    });
}
