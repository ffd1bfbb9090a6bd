//! `resolve`: which tunnels are meant, and why the others are not.

use clap::Args;

use super::failure::{Exit, Failure};
use super::forward::Route;
use super::look::short;
use super::screen::{Screen, Table};
use crate::node::Client;
use crate::node::api::{Candidate, Resolution};

#[derive(Debug, Args)]
pub(super) struct Resolve {
    #[command(flatten)]
    route: Route,
    /// List those that are not meant too, and say why
    #[arg(long)]
    explain: bool,
}

pub(super) async fn resolve(client: &Client, screen: &mut Screen, resolve: &Resolve) -> Result<(), Failure> {
    let Resolve { route, explain } = resolve;
    let (to, path) = (&route.to, format!("/v1/resolve?{}&explain={explain}", route.query()));
    let found: Resolution = client.get(&path).await?;
    let mut table = Table::new(&["TRY", "NAME", "TUNNEL", "HOLDER", "WAY", "RTT", "WHY NOT"]);
    for (number, candidate) in found.candidates.iter().enumerate() {
        let place = if candidate.chosen { (number + 1).to_string() } else { "-".to_owned() };
        let rtt = match candidate.rtt_micros {
            Some(micros) => format!("{}.{:02} ms", micros / 1_000, micros % 1_000 / 10),
            None => "-".to_owned(),
        };
        let why = candidate.reason.clone().unwrap_or_default();
        let (name, tunnel) = (candidate.name.clone(), candidate.tunnel.clone());
        table.row([place, name, tunnel, holder(candidate), way(candidate), rtt, why]);
    }
    if found.candidates.iter().any(|candidate| candidate.chosen) || *explain {
        screen.list(&found, &found.candidates, |candidate| &candidate.name, &table)?;
    }
    if found.candidates.iter().any(|candidate| candidate.chosen) {
        return Ok(());
    }
    let failure =
        Failure::new(Exit::NotFound, format!("no node that can be reached holds what \"{to}\" means"));
    Err(match explain {
        true => failure,
        false => failure
            .hint(format!("see what there is, and why it is not meant: snomesh resolve --explain '{to}'")),
    })
}

fn holder(candidate: &Candidate) -> String {
    match candidate.holder_name.as_str() {
        "" => short(&candidate.holder),
        name => name.to_owned(),
    }
}

fn way(candidate: &Candidate) -> String {
    match &candidate.relay {
        Some(relay) => format!("over {}", short(relay)),
        None => candidate.way.clone(),
    }
}
