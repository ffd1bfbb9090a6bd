//! `expose`, `unexpose`, `bind`, `unbind`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::sleep;

use super::attr::encode;
use super::failure::{Exit, Failure};
use super::parse;
use super::screen::{Color, Format, Screen, remark};
use super::shell::word;
use super::up::Signals;
use crate::id::TunnelName;
use crate::mesh::{Destination, Policy, Weight};
use crate::node::Client;
use crate::node::api::{self, Exposed, Resolution, Status};
use crate::service::{Listen, ParseListenError, Target};

const LOOK_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct Expose {
    /// What the tunnel is to be called: 1 to 63 of a-z 0-9 . -
    pub(super) name: TunnelName,
    /// The service: HOST:PORT, or a port of 127.0.0.1; udp:HOST:PORT; unix:/PATH; or 'stdio:/PATH ARGUMENT…', a program
    /// that is run for each connection
    #[arg(value_parser = parse::target)]
    pub(super) target: Target,
    /// Something to say of it, as often as you like
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::pair)]
    pub(super) attr: Vec<(String, String)>,
    /// Its share of the visitors who choose with --policy weighted, against other holders of the name: 1 to 1000
    #[arg(long, value_name = "NUMBER", default_value_t)]
    pub(super) weight: Weight,
    #[command(flatten)]
    pub(super) health: Option<HealthArgs>,
}

/// How to find out whether the service serves. Nobody picks a tunnel whose service does not.
#[derive(Debug, Args)]
#[group(requires = "health")]
pub(super) struct HealthArgs {
    /// Check the service: tcp, http:/PATH, or 'cmd:/PATH/OF/PROGRAM ARGUMENT…'; nobody picks the tunnel while it fails
    #[arg(long, value_name = "CHECK", required = false, value_parser = parse::check)]
    health: String,
    /// From one check to the next [default: 5s]
    #[arg(long, value_name = "TIME")]
    health_interval: Option<String>,
    /// How long a check may take [default: 2s]
    #[arg(long, value_name = "TIME")]
    health_timeout: Option<String>,
    /// How many successes in a row bring it back [default: 2]
    #[arg(long, value_name = "NUMBER")]
    health_rise: Option<u32>,
    /// How many failures in a row take it away [default: 3]
    #[arg(long, value_name = "NUMBER")]
    health_fall: Option<u32>,
}

impl HealthArgs {
    fn words(self) -> api::HealthCheck {
        api::HealthCheck {
            check: self.health,
            interval: self.health_interval,
            timeout: self.health_timeout,
            rise: self.health_rise,
            fall: self.health_fall,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Bind {
    /// Where to listen: IP:PORT, or a port of 127.0.0.1; port 0 takes a free one, FIRST-LAST the lowest free one; or
    /// udp:IP:PORT, or unix:/PATH
    #[arg(value_parser = listen)]
    pub(super) listen: Listen,
    #[command(flatten)]
    pub(super) route: Route,
    /// Stay, and take the bind back at the end
    #[arg(long)]
    pub(super) foreground: bool,
    /// Bind once somebody offers it whose service serves; 6 if that takes longer than --timeout
    #[arg(long)]
    pub(super) wait_healthy: bool,
}

/// Where streams go.
#[derive(Debug, Args)]
pub(super) struct Route {
    /// The tunnel: NAME, NAME@NODE, or a selector like 'service=db,region in (eu,us),!canary'
    #[arg(value_name = "NAME|SELECTOR", add = super::complete::tunnels())]
    pub(super) to: Destination,
    /// Which of several holders comes first: last, first, round-robin, nearest, least-conn, random, weighted,
    /// hash:src
    #[arg(long, default_value = "last")]
    pub(super) policy: Policy,
}

impl Route {
    /// As the query of a request.
    pub(super) fn query(&self) -> String {
        format!("to={}&policy={}", encode(&self.to.to_string()), encode(&self.policy.to_string()))
    }
}

/// What was said with `--attr`, each name once.
pub(super) fn pairs(said: &[(String, String)]) -> Result<BTreeMap<String, String>, Failure> {
    let mut pairs = BTreeMap::new();
    for (name, value) in said {
        if let Some(before) = pairs.insert(name.clone(), value.clone()) {
            let what = format!("the attribute {name} is given twice, as {before} and as {value}");
            return Err(Failure::usage(what).hint("an attribute has one value"));
        }
    }
    Ok(pairs)
}

pub(super) async fn expose(
    client: &Client,
    screen: &mut Screen,
    color: Color,
    expose: Expose,
) -> Result<(), Failure> {
    let Expose { name, target, attr, weight, health } = expose;
    let (attributes, health) = (pairs(&attr)?, health.map(HealthArgs::words));
    let body = api::Expose { target: target.to_string(), attributes, health, weight: weight.get() };
    let exposed: Exposed = client.put_json(&format!("/v1/tunnels/{name}"), &body).await?;
    if matches!(screen.format(), Format::Json | Format::Jsonl) {
        return Ok(screen.document(&exposed)?);
    }
    let status: Status = client.get("/v1/status").await?;
    let others = match status.nodes.linked {
        0 => "no other node linked yet".to_owned(),
        1 => "1 other node linked".to_owned(),
        linked => format!("{linked} other nodes linked"),
    };
    match &exposed.health {
        Some(api::Health { state, failure: Some(failure), .. }) if state != "healthy" => {
            remark(
                color,
                &format!("{}: {failure}; nobody picks {name} until that has changed", exposed.target),
            );
        }
        _ => {}
    }
    if exposed.state == "draining" {
        remark(color, "this node is drained: nobody picks its tunnels until snomesh node resume");
    }
    let state = exposed.health.map_or_else(|| "registered".to_owned(), |health| health.state);
    screen.done(format!("{name} → {}   {state}, {others}", exposed.target))?;
    screen.next(format!("Reach it from any node:  snomesh bind 8080 {name}"))?;
    Ok(())
}

pub(super) async fn unexpose(client: &Client, screen: &mut Screen, name: &TunnelName) -> Result<(), Failure> {
    client.delete(&format!("/v1/tunnels/{name}")).await?;
    let said = format!("{name} is no longer offered; connections that are open go on");
    Ok(screen.outcome(said, &json!({ "name": name.as_str(), "changed": true }))?)
}

pub(super) async fn bind(
    client: &Client,
    screen: &mut Screen,
    (color, timeout): (Color, Duration),
    bind: Bind,
) -> Result<Exit, Failure> {
    let Bind { listen, route, foreground, wait_healthy } = bind;
    let Route { to, policy } = &route;
    let mut signals = foreground.then(Signals::new).transpose()?;
    if wait_healthy {
        await_healthy(client, &route, timeout).await?;
    }
    let body = api::Bind { listen: listen.to_string(), tunnel: to.to_string(), policy: policy.to_string() };
    let bound: api::Bind = client.post_json("/v1/binds", &body).await?;
    if matches!(screen.format(), Format::Json | Format::Jsonl) {
        screen.document(&bound)?;
    } else if screen.format() == Format::Name {
        screen.line(&bound.listen)?;
    }
    screen.done(format!("{} → {to}", bound.listen))?;
    let found: Resolution = client.get(&format!("/v1/resolve?{}", route.query())).await?;
    if found.candidates.is_empty() {
        remark(color, &format!("nobody offers \"{to}\" yet; until then its visitors are turned away"));
    }
    let Some(signals) = &mut signals else {
        match bound.listen.parse() {
            Ok(Listen::Tcp(address)) => screen.next(format!("Try it:        curl http://{address}/"))?,
            Ok(Listen::Unix(path)) => {
                screen
                    .next(format!("Try it:        curl --unix-socket {} http://localhost/", word(&path)))?;
            }
            _ => {}
        }
        let (snomesh, listen) = (screen.snomesh(), word(&bound.listen));
        screen.next(format!("Take it back:  {snomesh} unbind {listen}"))?;
        return Ok(Exit::Success);
    };
    let exit = signals.recv().await;
    client.delete(&format!("/v1/binds/{}", encode(&bound.listen))).await?;
    screen.done(format!("{} is free again", bound.listen))?;
    Ok(exit)
}

/// Where to listen. Of a range that is none it is said why, for its ends are easily exchanged.
fn listen(text: &str) -> Result<Listen, String> {
    let ends = text.rsplit(':').next().and_then(|ports| ports.split_once('-'));
    if let Some((Ok(first), Ok(last))) = ends.map(|(first, last)| (first.parse(), last.parse()))
        && first > last
    {
        return Err(backwards(first, last));
    }
    text.parse().map_err(|error: ParseListenError| error.to_string())
}

/// What is wrong with a range of ports.
pub(super) fn backwards(first: u16, last: u16) -> String {
    format!("the range is backwards: did you mean {last}-{first}?")
}

/// Waits until a tunnel that is meant can be picked.
async fn await_healthy(client: &Client, route: &Route, timeout: Duration) -> Result<(), Failure> {
    let path = format!("/v1/resolve?{}", route.query());
    let found = async {
        loop {
            let found: Resolution = client.get(&path).await?;
            if !found.candidates.is_empty() {
                return Ok::<_, Failure>(());
            }
            sleep(LOOK_INTERVAL).await;
        }
    };
    tokio::time::timeout(timeout, found).await.unwrap_or_else(|_elapsed| {
        let what = format!("nobody offers \"{}\" with a service that serves, after {timeout:?}", route.to);
        Err(Failure::new(Exit::TimedOut, what)
            .hint(format!("snomesh resolve --explain '{}'; or wait longer with --timeout", route.to)))
    })
}

pub(super) async fn unbind(client: &Client, screen: &mut Screen, listen: &Listen) -> Result<(), Failure> {
    client.delete(&format!("/v1/binds/{}", encode(&listen.to_string()))).await?;
    let document = json!({ "listen": listen.to_string(), "changed": true });
    Ok(screen.outcome(format!("{listen} is free again"), &document)?)
}
