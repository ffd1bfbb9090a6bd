//! `snomesh check`: one line and one of four codes, for programs that watch over others (Nagios and its kin, containers).

use std::io;
use std::time::Duration;

use clap::Subcommand;

use super::failure::{Exit, Failure, Level};
use super::parse;
use super::screen::{Screen, escape};
use crate::node::api::{Node, NodeList, Ping, Pong, Status};
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
    if let Check::Tunnel { warning: Some(warning), critical: Some(critical), .. } = check
        && warning > critical
    {
        let (warning, critical) = (parse::shown(*warning), parse::shown(*critical));
        let what = format!("the warning ({warning}) would come after it is critical ({critical})");
        return Err(Failure::usage(what).hint("give the shorter time to -w, and the longer one to -c"));
    }
    let looked = match check {
        Check::Node => node(client).await,
        Check::Mesh => mesh(client).await,
        Check::Tunnel { name, warning, critical } => tunnel(client, name, (*warning, *critical)).await,
    };
    let (level, said) = looked.unwrap_or_else(|error| (gravity(&error), super::describe(&error)));
    screen.line(format!("SNOMESH {level} - {}", escape(&said)))?;
    Ok(Exit::Check(level))
}

/// A node that is not there is what is watched for; an answer that is none says nothing of it.
fn gravity(error: &ClientError) -> Level {
    match error {
        ClientError::Unreachable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Level::Unknown
        }
        ClientError::Unreachable { .. } | ClientError::TimedOut { .. } | ClientError::Broken(_) => {
            Level::Critical
        }
        ClientError::Refused(problem) if matches!(problem.status, 404 | 502) => Level::Critical,
        _ => Level::Unknown,
    }
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
    Ok(verdict(&list.nodes))
}

/// What the states of nodes come to.
fn verdict(nodes: &[Node]) -> (Level, String) {
    let of = |state: &str| {
        let names = nodes.iter().filter(|node| node.state == state).map(|node| node.name.as_str());
        names.collect::<Vec<_>>()
    };
    let (alive, suspect, down) = (of("alive"), of("suspect"), of("down"));
    let figures = format!("alive={} suspect={} down={}", alive.len(), suspect.len(), down.len());
    if !down.is_empty() {
        (Level::Critical, format!("down: {} | {figures}", down.join(", ")))
    } else if !suspect.is_empty() {
        (Level::Warning, format!("suspect: {} | {figures}", suspect.join(", ")))
    } else {
        (Level::Ok, format!("{} nodes are alive | {figures}", alive.len()))
    }
}

async fn tunnel(
    client: &Client,
    name: &str,
    limits: (Option<Duration>, Option<Duration>),
) -> Result<(Level, String), ClientError> {
    let pong: Pong = client.post_json("/v1/ping", &Ping { target: name.to_owned() }).await?;
    let took = Duration::from_micros(pong.micros);
    Ok((
        slowness(took, limits),
        format!("{name} answers after {:.1} ms | time={:.6}s", took.as_secs_f64() * 1e3, took.as_secs_f64()),
    ))
}

/// What a time comes to, if there is a limit from which on it is worth a warning, or critical.
fn slowness(took: Duration, (warning, critical): (Option<Duration>, Option<Duration>)) -> Level {
    let over = |limit: Option<Duration>| limit.is_some_and(|limit| took > limit);
    match (over(critical), over(warning)) {
        (true, _) => Level::Critical,
        (false, true) => Level::Warning,
        (false, false) => Level::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::api::{Code, Problem};

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// FEATURES P7.
    #[test]
    fn whoever_is_slow_is_worth_a_warning_and_then_critical() {
        let limits = (Some(millis(100)), Some(millis(1_000)));
        for (took, level) in [
            (0, Level::Ok),
            (100, Level::Ok),
            (101, Level::Warning),
            (1_000, Level::Warning),
            (1_001, Level::Critical),
        ] {
            assert_eq!(slowness(millis(took), limits), level, "{took}");
        }
        assert_eq!(slowness(millis(5_000), (None, None)), Level::Ok);
        assert_eq!(slowness(millis(5_000), (Some(millis(1)), None)), Level::Warning);
        // The graver one counts, in whatever order they were given.
        assert_eq!(slowness(millis(50), (Some(millis(100)), Some(millis(10)))), Level::Critical);
    }

    #[test]
    fn nodes_that_are_missed_are_named_and_those_that_left_are_not() {
        let node = |name: &str, state: &str| -> Node {
            let written = serde_json::json!({
                "node": name, "name": name, "state": state, "local": false, "linked": false,
                "generation": 1, "version": "", "addresses": [],
            });
            serde_json::from_value(written).unwrap()
        };
        let mut nodes = vec![node("a", "alive"), node("b", "left"), node("c", "revoked")];
        assert_eq!(verdict(&nodes), (Level::Ok, "1 nodes are alive | alive=1 suspect=0 down=0".into()));
        nodes.push(node("d", "suspect"));
        assert_eq!(verdict(&nodes), (Level::Warning, "suspect: d | alive=1 suspect=1 down=0".into()));
        nodes.push(node("e", "down"));
        assert_eq!(verdict(&nodes), (Level::Critical, "down: e | alive=1 suspect=1 down=1".into()));
    }

    #[test]
    fn what_is_not_there_is_critical_and_what_makes_no_sense_is_not_known() {
        let refused = |status: u16, code| {
            let status = hyper::StatusCode::from_u16(status).unwrap();
            gravity(&ClientError::Refused(Problem::new(status, code, "no")))
        };
        assert_eq!(refused(404, Code::NotFound), Level::Critical);
        assert_eq!(refused(502, Code::Unreachable), Level::Critical);
        assert_eq!(refused(503, Code::Unavailable), Level::Unknown);
        assert_eq!(refused(400, Code::Invalid), Level::Unknown);
        let unreachable = |kind: io::ErrorKind| {
            let agent = Box::new(std::path::Path::new("/x/admin.sock").into());
            gravity(&ClientError::Unreachable { agent, source: kind.into() })
        };
        assert_eq!(unreachable(io::ErrorKind::NotFound), Level::Critical);
        assert_eq!(unreachable(io::ErrorKind::PermissionDenied), Level::Unknown);
        assert_eq!(gravity(&ClientError::TimedOut { after: millis(1) }), Level::Critical);
        let nonsense = serde_json::from_str::<u8>("nonsense").unwrap_err();
        assert_eq!(gravity(&ClientError::Unintelligible(nonsense)), Level::Unknown);
    }
}
