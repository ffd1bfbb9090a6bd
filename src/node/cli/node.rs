//! `snomesh node`, `snomesh ping` and `snomesh doctor`.

use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::failure::{Exit, Failure};
use super::look::{follow, short, shown};
use super::screen::{Format, Screen, Table, escape, excerpt};
use super::trust::consent;
use super::up::Signals;
use crate::node::Client;
use crate::node::api::{
    self, AttributeList, Check, Doctor, Drain, Event, Forget, Forgotten, NodeList, Ping, Pong, Status,
    Verdict,
};
use crate::node::nearest::nearest;

/// How much of an attribute a line shows.
const EXCERPT: usize = 60;

#[derive(Debug, Subcommand)]
pub(super) enum Nodes {
    /// List them, this one first
    Ls {
        /// Print the list again whenever it changes
        #[arg(long)]
        watch: bool,
    },
    /// Have all nodes pass over what this one offers, until it is resumed or ends
    ///
    /// Its tunnels stay registered and say so. Streams that live go on, new ones go to other holders.
    #[command(after_help = "\
Example:
  snomesh node drain --wait --timeout 5m && snomesh down    before the machine is taken away")]
    Drain {
        /// Return when its targets serve no stream any more; 6 if that takes longer than --timeout
        #[arg(long)]
        wait: bool,
    },
    /// Let what this node offers be picked again
    Resume,
    /// Everything that is known of one
    Show {
        /// Its name, its id, or at least eight letters of its id
        #[arg(add = super::complete::nodes())]
        node: String,
    },
    /// Wait no more for one that is not there and does not come back; what it wrote stays
    Forget {
        /// Its name, its id, or the beginning of its id
        #[arg(add = super::complete::nodes())]
        node: String,
        /// Only say what would be done
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
        /// Do not ask. Needed where nobody can be asked
        #[arg(short, long)]
        yes: bool,
    },
}

pub(super) async fn run(
    client: &Client,
    screen: &mut Screen,
    (nodes, timeout): (Nodes, Duration),
) -> Result<Exit, Failure> {
    match nodes {
        Nodes::Ls { watch: false } => print(screen, &list(client).await?)?,
        Nodes::Ls { watch: true } => return watch(client, screen).await,
        Nodes::Drain { wait } => return drain(client, screen, wait, timeout).await,
        Nodes::Resume => resume(client, screen).await?,
        Nodes::Show { node } => show(client, screen, &node).await?,
        Nodes::Forget { node, dry_run, yes } => forget(client, screen, &node, dry_run, yes).await?,
    }
    Ok(Exit::Success)
}

async fn forget(
    client: &Client,
    screen: &mut Screen,
    node: &str,
    dry_run: bool,
    yes: bool,
) -> Result<(), Failure> {
    let would: Forgotten = client.post_json(&path_of(node), &Forget { dry_run: true }).await?;
    let who = format!("{} {}", would.node, would.name);
    let who = who.trim_end();
    if !dry_run && !yes {
        let what = "a node cannot be remembered again, and there is nobody to ask";
        consent(what, &format!("Wait no more for {who}, on all nodes?"))?;
    }
    let forgotten = if dry_run {
        would.clone()
    } else {
        client.post_json(&path_of(&would.node), &Forget { dry_run }).await?
    };
    match screen.format() {
        Format::Json | Format::Jsonl => screen.json(&forgotten)?,
        Format::Name => screen.line(forgotten.node)?,
        Format::Table | Format::Wide => screen.done(match (dry_run, forgotten.changed) {
            (true, _) => format!("would forget {who}"),
            (false, true) => format!("forgot {who}: nobody waits for it any more, what it wrote stays"),
            (false, false) => format!("nothing is known of {who}"),
        })?,
    }
    Ok(())
}

/// Where a node is forgotten: people may call it anything.
fn path_of(node: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let byte = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    format!("/v1/nodes/{}/forget", node.bytes().map(byte).collect::<String>())
}

async fn list(client: &Client) -> Result<NodeList, Failure> {
    Ok(client.list("/v1/nodes").await?)
}

async fn watch(client: &Client, screen: &mut Screen) -> Result<Exit, Failure> {
    let is_news = |event: &Event| {
        use Event::{LinkDown, LinkUp, Member, Revocation};
        matches!(event, Member { .. } | LinkUp { .. } | LinkDown { .. } | Revocation { .. })
    };
    // Round-trip times always change, and are no news.
    let what_matters = |list: &NodeList| {
        let nodes = list.nodes.iter();
        let nodes = nodes.map(|node| (node.node.clone(), node.state.clone(), node.linked, node.name.clone()));
        nodes.collect::<Vec<_>>()
    };
    follow((client, screen), is_news, async || list(client).await, what_matters, print).await
}

/// How often it is looked whether the last stream has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

async fn drain(client: &Client, screen: &mut Screen, wait: bool, timeout: Duration) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let deadline = tokio::time::Instant::now() + timeout;
    let drained: Drain = client.post_json("/v1/drain", &json!({})).await?;
    let mut serving = drained.serving;
    while wait && serving > 0 {
        tokio::select! {
            exit = signals.recv() => return Ok(exit),
            () = tokio::time::sleep_until(deadline) => {
                let what = format!("the node is drained, and serves {serving} stream(s) still");
                return Err(Failure::new(Exit::TimedOut, what)
                    .hint("wait longer with --timeout; snomesh down cuts them after limits.drain_timeout"));
            }
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        serving = client.get::<Status>("/v1/status").await?.serving;
    }
    let drained = Drain { serving, ..drained };
    if matches!(screen.format(), Format::Json | Format::Jsonl) {
        screen.json(&drained)?;
        return Ok(Exit::Success);
    }
    let said = if drained.changed { "drained" } else { "drained already" };
    screen.done(format!("{said}: nobody picks this node's tunnels; {serving} stream(s) go on"))?;
    screen.next(format!("Take it back:  {} node resume", screen.snomesh()))?;
    Ok(Exit::Success)
}

async fn resume(client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let resumed: Drain = client.post_json("/v1/resume", &json!({})).await?;
    if matches!(screen.format(), Format::Json | Format::Jsonl) {
        return Ok(screen.json(&resumed)?);
    }
    let said = if resumed.changed { "resumed" } else { "it was not drained" };
    Ok(screen.done(format!("{said}: this node's tunnels may be picked"))?)
}

fn print(screen: &mut Screen, list: &NodeList) -> Result<(), Failure> {
    let wide = screen.format() == Format::Wide;
    let mut head = vec!["NAME", "ID", "STATE", "LINK", "ADDRESS"];
    if wide {
        head.extend(["BEHIND", "SENT", "RECEIVED", "VERSION", "GENERATION"]);
    }
    let mut table = Table::new(&head);
    for node in &list.nodes {
        let id = if wide { node.node.clone() } else { short(&node.node) };
        let address =
            if wide { node.addresses.join(",") } else { node.addresses.first().cloned().unwrap_or_default() };
        let mut row = vec![node.name.clone(), id, node.state.clone(), link(node), or_dash(address)];
        if wide {
            let behind = node.behind.map(|behind| behind.to_string()).unwrap_or_default();
            let traffic = [node.sent_bytes, node.received_bytes].map(|bytes| bytes.to_string());
            row.push(or_dash(behind));
            row.extend(traffic);
            row.extend([node.version.clone(), node.generation.to_string()]);
        }
        table.row(row);
    }
    Ok(screen.list(list, &list.nodes, |node| &node.node, &table)?)
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn link(node: &api::Node) -> String {
    match (node.local, node.linked, node.rtt_micros) {
        (true, ..) => "this node".to_owned(),
        (false, true, Some(micros)) => time(micros),
        (false, true, None) => "yes".to_owned(),
        (false, false, _) => "-".to_owned(),
    }
}

/// A round-trip time.
pub(super) fn time(micros: u64) -> String {
    format!("{}.{:01} ms", micros / 1_000, micros % 1_000 / 100)
}

async fn show(client: &Client, screen: &mut Screen, sought: &str) -> Result<(), Failure> {
    let list = list(client).await?;
    let is = |node: &&api::Node| node.name == sought || sought.len() >= 8 && node.node.starts_with(sought);
    let found: Vec<_> = list.nodes.iter().filter(is).collect();
    let [node] = found.as_slice() else {
        if found.is_empty() {
            let near = nearest(sought, list.nodes.iter().map(|node| node.name.as_str()));
            let hint =
                near.map_or_else(|| "snomesh node ls".to_owned(), |near| format!("did you mean \"{near}\"?"));
            return Err(Failure::new(Exit::NotFound, format!("no node is called \"{sought}\"")).hint(hint));
        }
        let ids: Vec<_> = found.iter().map(|node| short(&node.node)).collect();
        let what = format!("{} nodes are called \"{sought}\"", found.len());
        return Err(
            Failure::new(Exit::Conflict, what).hint(format!("say which, by its id: {}", ids.join(", ")))
        );
    };
    match screen.format() {
        Format::Json | Format::Jsonl => return Ok(screen.document(node)?),
        Format::Name => return Ok(screen.line(&node.node)?),
        Format::Table | Format::Wide => {}
    }
    let names = node.links.iter().map(|id| {
        list.nodes.iter().find(|node| node.node == *id).map_or_else(|| short(id), |node| node.name.clone())
    });
    let links: Vec<_> = names.collect();
    let mut rows = vec![
        ("node", format!("{}  {}", escape(&node.name), node.node)),
        ("state", node.state.clone()),
        ("address", escape(&or_dash(node.addresses.join(", ")))),
        ("version", format!("{}, generation {}", escape(&node.version), node.generation)),
        ("links", escape(&or_dash(links.join(", ")))),
        ("link", link(node)),
    ];
    let path = format!("/v1/attributes?prefix=node/{}/", node.node);
    let said: AttributeList = client.list(&path).await?;
    let said: Vec<_> = said
        .attributes
        .iter()
        .map(|attribute| {
            let name =
                attribute.key.rsplit_once(&node.node).map_or("", |(_, name)| name.trim_start_matches('/'));
            format!("{name}={}", excerpt(&shown(&attribute.value), EXCERPT))
        })
        .collect();
    if !said.is_empty() {
        rows.push(("attributes", said.join(" ")));
    }
    if let (Some(behind), Some(in_sync)) = (node.behind, node.in_sync) {
        let state = if in_sync && behind == 0 {
            "the same as here".to_owned()
        } else {
            format!("{behind} writes behind")
        };
        rows.push(("state of it", state));
        rows.push(("traffic", format!("{} bytes sent, {} received", node.sent_bytes, node.received_bytes)));
    }
    rows.iter().try_for_each(|(name, value)| screen.line(format!("{name:11} {value}")))?;
    Ok(())
}

/// How often, and whom.
#[derive(Debug, clap::Args)]
pub(super) struct PingArgs {
    /// A node by its name or id, or a tunnel by its name: then the service behind it is asked
    #[arg(add = super::complete::nodes_and_tunnels())]
    target: String,
    /// How often
    #[arg(short, long, value_name = "TIMES", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// The pause between two
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = super::parse::duration)]
    interval: Duration,
}

pub(super) async fn ping(client: &Client, screen: &mut Screen, args: PingArgs) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let mut times = Vec::new();
    for number in 0..args.count {
        if number > 0 {
            tokio::select! {
                exit = signals.recv() => return Ok(exit),
                () = tokio::time::sleep(args.interval) => {}
            }
        }
        let pong: Pong = client.post_json("/v1/ping", &Ping { target: args.target.clone() }).await?;
        times.push(pong.micros);
        match screen.format() {
            Format::Json | Format::Jsonl => screen.line(json!(pong).to_string())?,
            Format::Name => screen.line(pong.micros.to_string())?,
            Format::Table | Format::Wide => {
                screen.line(format!("{} {}  {}", pong.kind, escape(&pong.name), precise(pong.micros)))?;
            }
        }
    }
    let (least, most) = (times.iter().min().copied(), times.iter().max().copied());
    if let (Some(least), Some(most)) = (least, most) {
        let mean = times.iter().sum::<u64>() / times.len() as u64;
        let all = [least, mean, most].map(precise);
        screen.say(format!("least {}, mean {}, most {}", all[0], all[1], all[2]))?;
    }
    Ok(Exit::Success)
}

fn precise(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1_000, micros % 1_000)
}

/// Prints all checks; ends with 8 if one of them has failed.
pub(super) async fn doctor(client: &Client, screen: &mut Screen) -> Result<Exit, Failure> {
    let doctor: Doctor = client.get("/v1/doctor").await?;
    match screen.format() {
        Format::Json => screen.json(&doctor)?,
        Format::Jsonl => doctor.checks.iter().try_for_each(|check| screen.json(check))?,
        Format::Name => {
            let bad = doctor.checks.iter().filter(|check| check.verdict != Verdict::Ok);
            bad.clone().try_for_each(|check| screen.line(&check.name))?;
        }
        Format::Table | Format::Wide => {
            let width = doctor.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
            doctor.checks.iter().try_for_each(|check| print_check(screen, check, width))?;
        }
    }
    let failed = doctor.checks.iter().any(|check| check.verdict == Verdict::Fail);
    Ok(if failed { Exit::Degraded } else { Exit::Success })
}

fn print_check(screen: &mut Screen, check: &Check, width: usize) -> Result<(), Failure> {
    let text = format!("{:width$}  {}", check.name, escape(&check.found));
    match check.verdict {
        Verdict::Ok => screen.passed(text)?,
        Verdict::Warn => screen.doubted(text)?,
        Verdict::Fail => screen.failed(text)?,
    }
    match &check.hint {
        Some(hint) => Ok(screen.line(format!("  {:width$}  {}", "", escape(hint)))?),
        None => Ok(()),
    }
}
