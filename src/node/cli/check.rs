//! `snomesh check`: one line and one of four codes, for programs that watch over others (Nagios and its kin, containers).

use std::time::Duration;

use clap::Subcommand;

use super::failure::{Exit, Failure, Level};
use super::parse;
use super::screen::{Screen, escape};
use crate::node::api::{NodeList, Ping, Pong, Status};
use crate::node::{Client, ClientError};

#[derive(Debug, Subcommand)]
pub(super) enum Check {
    /// Whether the node serves as it should
    Node,
    /// Whether all nodes of the mesh can be reached
    Mesh,
    /// Whether what is behind a tunnel answers, and how soon
    Tunnel {
        /// Its name
        #[arg(add = super::complete::tunnels())]
        name: String,
        /// Warn if that takes longer
        #[arg(short, long, value_name = "TIME", value_parser = parse::duration)]
        warning: Option<Duration>,
        /// It is critical if that takes longer
        #[arg(short, long, value_name = "TIME", value_parser = parse::duration)]
        critical: Option<Duration>,
    },
}

/// Looks, and prints one line. Whatever comes in between is a verdict too.
pub(super) async fn check(client: &Client, screen: &mut Screen, check: &Check) -> Result<Exit, Failure> {
    let looked = match check {
        Check::Node => node(client).await,
        Check::Mesh => mesh(client).await,
        Check::Tunnel { name, warning, critical } => tunnel(client, name, (*warning, *critical)).await,
    };
    let (level, said) = looked.unwrap_or_else(|error| {
        // A node that is not there is what is watched for; an answer that is none says nothing of it.
        let level = match &error {
            ClientError::Unreachable { .. } | ClientError::TimedOut { .. } | ClientError::Broken(_) => {
                Level::Critical
            }
            ClientError::Refused(problem) if matches!(problem.status, 404 | 502) => Level::Critical,
            _ => Level::Unknown,
        };
        (level, super::describe(&error))
    });
    screen.line(format!("SNOMESH {level} - {}", escape(&said)))?;
    Ok(Exit::Check(level))
}

async fn node(client: &Client) -> Result<(Level, String), ClientError> {
    let status: Status = client.get("/v1/status").await?;
    let figures = format!("linked={} tunnels={}", status.nodes.linked, status.tunnels);
    Ok(match status.ready {
        true => (Level::Ok, format!("{} is ready | {figures}", status.name)),
        false => (Level::Critical, format!("{}: {} | {figures}", status.name, status.reasons.join("; "))),
    })
}

async fn mesh(client: &Client) -> Result<(Level, String), ClientError> {
    let list: NodeList = client.list("/v1/nodes").await?;
    let of = |state: &str| {
        let names = list.nodes.iter().filter(|node| node.state == state).map(|node| node.name.as_str());
        names.collect::<Vec<_>>()
    };
    let (alive, suspect, down) = (of("alive"), of("suspect"), of("down"));
    let figures = format!("alive={} suspect={} down={}", alive.len(), suspect.len(), down.len());
    Ok(if !down.is_empty() {
        (Level::Critical, format!("down: {} | {figures}", down.join(", ")))
    } else if !suspect.is_empty() {
        (Level::Warning, format!("suspect: {} | {figures}", suspect.join(", ")))
    } else {
        (Level::Ok, format!("{} nodes are alive | {figures}", alive.len()))
    })
}

async fn tunnel(
    client: &Client,
    name: &str,
    (warning, critical): (Option<Duration>, Option<Duration>),
) -> Result<(Level, String), ClientError> {
    let pong: Pong = client.post_json("/v1/ping", &Ping { target: name.to_owned() }).await?;
    let took = Duration::from_micros(pong.micros);
    let over = |limit: Option<Duration>| limit.is_some_and(|limit| took > limit);
    let level = match (over(critical), over(warning)) {
        (true, _) => Level::Critical,
        (false, true) => Level::Warning,
        (false, false) => Level::Ok,
    };
    Ok((
        level,
        format!("{name} answers after {:.1} ms | time={:.6}s", took.as_secs_f64() * 1e3, took.as_secs_f64()),
    ))
}
