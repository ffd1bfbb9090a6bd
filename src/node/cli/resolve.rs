//! `resolve`: which tunnels are meant, and why the others are not.

use clap::Args;

use super::failure::{Exit, Failure};
use super::forward::Route;
use super::look::short;
use super::screen::{Screen, Table};
use super::shell::word;
use crate::mesh::{Destination, Health, Refused};
use crate::node::Client;
use crate::node::api::{Candidate, Resolution, TunnelList};
use crate::node::nearest::nearest;

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
    // A table without rows says less than the error.
    let explains = *explain && !(found.candidates.is_empty() && screen.format().is_for_people());
    if found.candidates.iter().any(|candidate| candidate.chosen) || explains {
        screen.list(&found, &found.candidates, |candidate| &candidate.name, &table)?;
    }
    if found.candidates.iter().any(|candidate| candidate.chosen) {
        return Ok(());
    }
    // All of them are needed to say why.
    let all: Resolution = if *explain {
        found
    } else {
        client.get(&format!("/v1/resolve?{}&explain=true", route.query())).await?
    };
    let (exit, what) = why_not(to, &all.candidates);
    Err(Failure::new(exit, what).hint(if all.candidates.is_empty() {
        similar(client, screen, to).await?
    } else if *explain {
        "on the node that holds it: snomesh doctor".to_owned()
    } else {
        let (snomesh, to) = (screen.snomesh(), word(&to.to_string()));
        format!("see what there is, and why it is not meant: {snomesh} resolve --explain {to}")
    }))
}

/// What a stream that goes there would end with.
fn why_not(to: &Destination, candidates: &[Candidate]) -> (Exit, String) {
    // The reasons are texts for people; these are the node's own words.
    let any = |reasons: &[Refused]| {
        let mut given = candidates.iter().filter_map(|candidate| candidate.reason.as_deref());
        given.any(|given| reasons.iter().any(|reason| given == reason.to_string()))
    };
    let unhealthy = [Health::Starting, Health::Failing, Health::Draining].map(Refused::Unhealthy);
    if candidates.is_empty() {
        (Exit::NotFound, format!("there is no tunnel that \"{to}\" could mean"))
    } else if any(&[Refused::NoWay]) {
        (Exit::Unreachable, format!("no link leads to whoever holds what \"{to}\" means"))
    } else if any(&[Refused::MayNot, Refused::HolderMayNot]) {
        (Exit::Unauthorised, format!("the mesh's policy does not permit this node to connect to \"{to}\""))
    } else if any(&unhealthy) {
        let what = format!("whatever \"{to}\" means fails its health checks, or its holder is drained");
        (Exit::Unreachable, what)
    } else {
        (Exit::NotFound, format!("no node that can be reached holds a tunnel that \"{to}\" means"))
    }
}

/// What was probably meant, or where to look.
async fn similar(client: &Client, screen: &Screen, to: &Destination) -> Result<String, Failure> {
    let list: TunnelList = client.get("/v1/tunnels").await?;
    let near = match to {
        Destination::Name { name, .. } => {
            nearest(name.as_str(), list.tunnels.iter().map(|tunnel| tunnel.name.as_str()))
        }
        Destination::Selector(_) => None,
    };
    Ok(near.map_or_else(
        || format!("{} tunnel ls", screen.snomesh()),
        |near| format!("did you mean \"{near}\"?"),
    ))
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
