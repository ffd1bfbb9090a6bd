//! `snomesh wait`: until the mesh is as a script needs it.

use std::time::Duration;

use serde_json::json;

use super::failure::{Exit, Failure};
use super::screen::Screen;
use super::up::Signals;
use crate::id::TunnelName;
use crate::node::api::{Attribute, NodeList, Status, TunnelList};
use crate::node::{Client, ClientError};
use crate::replica::AttributeKey;

const INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub(super) struct Wait {
    /// Until so many nodes are alive and linked, this one included
    #[arg(long, value_name = "NUMBER")]
    nodes: Option<usize>,
    /// Until a node that can be reached offers this tunnel
    #[arg(long, value_name = "NAME", add = super::complete::tunnels())]
    tunnel: Vec<TunnelName>,
    /// Until this attribute is set
    #[arg(long, value_name = "KEY", value_parser = super::parse::key, add = super::complete::keys())]
    attr: Vec<AttributeKey>,
}

/// Waits until the node is ready and everything else holds; 6 if that takes longer than `--timeout`.
pub(super) async fn wait(
    client: &Client,
    screen: &mut Screen,
    wait: Wait,
    timeout: Duration,
) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        let missing = match missing(client, &wait).await {
            Ok(None) => {
                screen.outcome("everything is there", &json!({ "ready": true }))?;
                return Ok(Exit::Success);
            }
            Ok(Some(missing)) => missing,
            // A node that is about to start is waited for as well.
            Err(ClientError::Unreachable { source, .. })
                if source.kind() != std::io::ErrorKind::PermissionDenied =>
            {
                "a node that answers".to_owned()
            }
            Err(error) => return Err(error.into()),
        };
        tokio::select! {
            exit = signals.recv() => return Ok(exit),
            () = tokio::time::sleep_until(deadline) => {
                return Err(Failure::new(Exit::TimedOut, format!("still missing after {timeout:?}: {missing}"))
                    .hint("wait longer with --timeout"));
            }
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// What does not hold yet.
async fn missing(client: &Client, wait: &Wait) -> Result<Option<String>, ClientError> {
    let status: Status = client.get("/v1/status").await?;
    if !status.ready {
        return Ok(Some(format!("readiness ({})", status.reasons.join("; "))));
    }
    if let Some(wanted) = wait.nodes {
        let list: NodeList = client.list("/v1/nodes").await?;
        let there =
            list.nodes.iter().filter(|node| node.local || node.linked && node.state == "alive").count();
        if there < wanted {
            return Ok(Some(format!("{} of {wanted} nodes", wanted - there)));
        }
    }
    for name in &wait.tunnel {
        let list: TunnelList = client.list(&format!("/v1/tunnels?name={name}")).await?;
        if !list.tunnels.iter().any(|tunnel| tunnel.chosen) {
            return Ok(Some(format!("tunnel \"{name}\"")));
        }
    }
    for key in &wait.attr {
        match client.get::<Attribute>(&format!("/v1/attributes/{key}?format=json")).await {
            Ok(_) => {}
            Err(ClientError::Refused(problem)) if problem.status == 404 => {
                return Ok(Some(format!("attribute \"{key}\"")));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
