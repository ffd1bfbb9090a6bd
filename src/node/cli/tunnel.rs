//! `snomesh tunnel` and `snomesh watch`.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;

use super::attr::encode;
use super::failure::{Exit, Failure};
use super::look::{age, follow, short, shown};
use super::screen::{Format, Screen, Table, escape};
use crate::node::Client;
use crate::node::api::{self, Event, TunnelList};
use crate::node::nearest::nearest;

#[derive(Debug, Subcommand)]
pub(super) enum Tunnels {
    /// List them, by name
    Ls {
        /// Only those whose holder says so of them; as often as you like, all must hold
        #[arg(short = 'l', long, value_name = "NAME=VALUE", value_parser = super::parse::pair)]
        attr: Vec<(String, String)>,
        /// Print the list again whenever it changes
        #[arg(long)]
        watch: bool,
    },
    /// Who holds the tunnels of a name, and which of them is found first
    Show {
        /// The name
        #[arg(add = super::complete::tunnels())]
        name: String,
    },
}

pub(super) async fn run(client: &Client, screen: &mut Screen, tunnels: Tunnels) -> Result<Exit, Failure> {
    match tunnels {
        Tunnels::Ls { attr, watch: false } => print(screen, &list(client, &attr).await?)?,
        Tunnels::Ls { attr, watch: true } => {
            let is_news = |event: &Event| {
                use Event::{Deregistered, Member, Policy, Registered};
                matches!(event, Registered { .. } | Deregistered { .. } | Member { .. } | Policy)
            };
            let list = async || list(client, &attr).await;
            return follow((client, screen), is_news, list, Clone::clone, print).await;
        }
        Tunnels::Show { name } => show(client, screen, &name).await?,
    }
    Ok(Exit::Success)
}

async fn list(client: &Client, attr: &[(String, String)]) -> Result<TunnelList, Failure> {
    let mut list: TunnelList = client.list("/v1/tunnels").await?;
    let has = |tunnel: &api::Tunnel, (name, value): &(String, String)| {
        tunnel.attributes.get(name).and_then(|found| found.text.as_deref()) == Some(value)
    };
    list.tunnels.retain(|tunnel| attr.iter().all(|wanted| has(tunnel, wanted)));
    Ok(list)
}

fn print(screen: &mut Screen, list: &TunnelList) -> Result<(), Failure> {
    let wide = screen.format() == Format::Wide;
    let mut head = vec!["NAME", "TUNNEL", "HOLDER", "STATE", "HEALTH", "CHOSEN", "ATTRIBUTES"];
    if wide {
        head.extend(["WEIGHT", "REGISTERED"]);
    }
    let mut table = Table::new(&head);
    for tunnel in &list.tunnels {
        let id = if wide { tunnel.holder.clone() } else { short(&tunnel.holder) };
        let holder = format!("{} ({id})", tunnel.holder_name);
        let chosen = if tunnel.chosen { "yes" } else { "-" }.to_owned();
        let (name, id) = (tunnel.name.clone(), tunnel.tunnel.clone());
        let row = [name, id, holder, tunnel.holder_state.clone(), tunnel.health.clone(), chosen];
        let more = [attributes(tunnel), tunnel.weight.to_string(), registered(tunnel)];
        let more = more.into_iter().take(if wide { 3 } else { 1 });
        table.row(row.into_iter().chain(more));
    }
    Ok(screen.list(list, &list.tunnels, |tunnel| &tunnel.name, &table)?)
}

fn attributes(tunnel: &api::Tunnel) -> String {
    let pairs = tunnel.attributes.iter().map(|(name, value)| format!("{name}={}", shown(value)));
    pairs.collect::<Vec<_>>().join(" ")
}

fn registered(tunnel: &api::Tunnel) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = std::time::Duration::from_millis(tunnel.registered_at);
    format!("{} ago", age(now.saturating_sub(at)))
}

async fn show(client: &Client, screen: &mut Screen, name: &str) -> Result<(), Failure> {
    let list: TunnelList = client.list(&format!("/v1/tunnels?name={}", encode(name))).await?;
    let found = &list.tunnels;
    if found.is_empty() {
        let list: TunnelList = client.get("/v1/tunnels").await?;
        let near = nearest(name, list.tunnels.iter().map(|tunnel| tunnel.name.as_str()));
        let hint = near.map_or_else(
            || format!("offer one: snomesh expose {name} PORT"),
            |near| format!("did you mean \"{near}\"?"),
        );
        let what = format!("no tunnel is called \"{}\"", escape(name));
        return Err(Failure::new(Exit::NotFound, what).hint(hint));
    }
    match screen.format() {
        Format::Json | Format::Jsonl => {
            let document =
                serde_json::json!({ "apiVersion": list.api_version, "name": name, "tunnels": found });
            return Ok(screen.json(&document)?);
        }
        Format::Name => return Ok(found.iter().try_for_each(|tunnel| screen.line(&tunnel.tunnel))?),
        Format::Table | Format::Wide => {}
    }
    for tunnel in found {
        let mark = match tunnel {
            api::Tunnel { chosen: true, .. } => "found first",
            api::Tunnel { health, .. } if health == "draining" => "not found: its holder is drained",
            api::Tunnel { healthy: false, .. } => "not found: its holder says that it does not serve",
            _ => "found after others, or its holder is down",
        };
        screen.line(format!("{}  {}", escape(&tunnel.name), tunnel.tunnel))?;
        screen.line(format!(
            "  held by     {} ({}), {}",
            escape(&tunnel.holder_name),
            tunnel.holder,
            tunnel.holder_state
        ))?;
        screen.line(format!("  lookup      {mark}"))?;
        screen.line(format!("  registered  {}", registered(tunnel)))?;
        if tunnel.weight > 1 {
            screen.line(format!("  weight      {}", tunnel.weight))?;
        }
        for (name, value) in &tunnel.attributes {
            screen.line(format!("  attribute   {}={}", escape(name), escape(&shown(value))))?;
        }
    }
    screen.next(format!("Reach it:  {} bind 0 {name}", screen.snomesh()))?;
    Ok(())
}
