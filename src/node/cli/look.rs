//! Commands that only look: `status`, `digest`, `version`; and how what they print looks.

use std::time::Duration;

use serde_json::json;

use super::failure::{Exit, Failure};
use super::screen::{Format, Screen, escape};
use super::up::Signals;
use crate::node::api::{API_VERSION, Bytes, Digest, Event, Status};
use crate::node::{Client, EventStream};

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Look the node over as well, as `snomesh doctor` does
    #[arg(long)]
    deep: bool,
    /// Print it again whenever something happens
    #[arg(long)]
    watch: bool,
}

pub(super) async fn status(client: &Client, screen: &mut Screen, args: StatusArgs) -> Result<Exit, Failure> {
    if args.watch {
        return again(
            client,
            |_| true,
            Some(STATUS_INTERVAL),
            async || {
                screen.clear()?;
                print_status(client, screen, args.deep).await.map(drop)
            },
        )
        .await;
    }
    print_status(client, screen, args.deep).await
}

async fn print_status(client: &Client, screen: &mut Screen, deep: bool) -> Result<Exit, Failure> {
    let exit = brief(client, screen).await?;
    if !deep {
        return Ok(exit);
    }
    let health = super::node::doctor(client, screen).await?;
    Ok(if exit == Exit::Success { health } else { exit })
}

/// A status changes without any event too: certificates end, disks fill.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);
/// What happens within so much time is looked at once.
const GATHERING: Duration = Duration::from_millis(200);

/// Does something now, and again whenever an event is news, at the latest after `longest`; until a signal comes or the node
/// ends.
async fn again(
    client: &Client,
    is_news: impl Fn(&Event) -> bool,
    longest: Option<Duration>,
    mut work: impl AsyncFnMut() -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    // Before the first look, so that nothing happens between the two.
    let mut events = client.stream("/v1/events").await?;
    loop {
        work().await?;
        let until = longest.map(|longest| tokio::time::Instant::now() + longest);
        tokio::select! {
            exit = signals.recv() => return Ok(exit),
            heard = news(&mut events, &is_news) => heard?,
            () = sleep_until(until) => {}
        }
        let gathering = tokio::time::timeout(GATHERING, news(&mut events, |_| false));
        tokio::select! {
            exit = signals.recv() => return Ok(exit),
            gathered = gathering => if let Ok(Err(failure)) = gathered { return Err(failure) },
        }
    }
}

/// Prints a list now, and again whenever one of these events has come and what matters of the list has changed; until a
/// signal comes or the node ends.
pub(super) async fn follow<L, M: PartialEq>(
    (client, screen): (&Client, &mut Screen),
    is_news: impl Fn(&Event) -> bool,
    list: impl AsyncFn() -> Result<L, Failure>,
    what_matters: impl Fn(&L) -> M,
    print: impl Fn(&mut Screen, &L) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let mut last = None;
    again(client, is_news, None, async || {
        let list = list().await?;
        let now = Some(what_matters(&list));
        if now != last {
            screen.clear()?;
            print(screen, &list)?;
            last = now;
        }
        Ok(())
    })
    .await
}

/// Waits until something is news. Whoever was too slow has missed some.
async fn news(events: &mut EventStream, is_news: impl Fn(&Event) -> bool) -> Result<(), Failure> {
    loop {
        let event = next(events).await?;
        if is_news(&event) || matches!(event, Event::Lagged { .. }) {
            return Ok(());
        }
    }
}

/// A stream never ends by itself, so its end is the node's.
async fn next(events: &mut EventStream) -> Result<Event, Failure> {
    let event = events.next().await?.map(|(_, event)| event);
    event.ok_or_else(ended)
}

/// The node has gone while it was listened to.
pub(super) fn ended() -> Failure {
    Failure::new(Exit::NoAgent, "the node has ended the stream: it is shutting down")
}

async fn sleep_until(until: Option<tokio::time::Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

async fn brief(client: &Client, screen: &mut Screen) -> Result<Exit, Failure> {
    let status: Status = client.get("/v1/status").await?;
    let exit = if status.ready { Exit::Success } else { Exit::Degraded };
    match screen.format() {
        Format::Json | Format::Jsonl => screen.json(&status)?,
        Format::Name => screen.line(&status.node)?,
        Format::Table | Format::Wide => for_people(&status, screen)?,
    }
    Ok(exit)
}

fn for_people(status: &Status, screen: &mut Screen) -> Result<(), Failure> {
    let up = age(Duration::from_millis(status.uptime_ms));
    screen.line(format!("node        {}  {}", escape(&status.name), status.node))?;
    screen.line(format!("mesh        {}", status.mesh))?;
    let advertised = match status.advertised.join(", ") {
        addresses if addresses.is_empty() => "nothing".to_owned(),
        addresses => addresses,
    };
    screen.line(format!("listening   udp/{}, advertises {}", status.listen, escape(&advertised)))?;
    screen.line(format!("admin       unix:{}", escape(&status.admin)))?;
    if let Some(http) = &status.http {
        screen.line(format!("            http://{http}, with the token of admin.token"))?;
    }
    screen.line(format!("running     {up}, version {}, generation {}", status.version, status.generation))?;
    let counts = &status.nodes;
    let mut others = format!("{} alive, {} linked", counts.alive, counts.linked);
    for (count, state) in [(counts.suspect, "suspect"), (counts.down, "down"), (counts.left, "left")] {
        if count > 0 {
            others += &format!(", {count} {state}");
        }
    }
    screen.line(format!("others      {others}"))?;
    if status.draining {
        let streams = counted(usize::try_from(status.serving).unwrap_or(usize::MAX), "stream");
        screen.line(format!("drained     nobody picks its tunnels, {streams} go on: snomesh node resume"))?;
    }
    let (tunnels, attributes) = (counted(status.tunnels, "tunnel"), counted(status.attributes, "attribute"));
    screen.line(format!("state       {tunnels}, {attributes}"))?;
    screen.line(format!("digest      {}", status.digest))?;
    for exposed in &status.exposed {
        screen.line(format!("exposes     {} → {}", exposed.name, exposed.target))?;
    }
    for bind in &status.binds {
        screen.line(format!("binds       {} → {}", bind.listen, bind.tunnel))?;
    }
    if let Some(compat) = &status.compat {
        let clients = counted(compat.clients, "client");
        screen.line(format!("snocat      udp/{}, grants {}, {clients}", compat.listen, compat.public))?;
    }
    for seed in status.seeds.iter().filter(|seed| seed.reached) {
        screen.line(format!("joined      {}", seed.address))?;
    }
    if status.ready {
        screen.done("ready")?;
    } else {
        for (number, reason) in status.reasons.iter().enumerate() {
            let reason = escape(reason);
            if number == 0 {
                screen.failed(format!("not ready: {reason}"))?;
            } else {
                screen.line(format!("  {reason}"))?;
            }
        }
        if status
            .seeds
            .iter()
            .any(|seed| seed.error.as_ref().is_some_and(|error| error.contains("another mesh")))
        {
            screen.next("The nodes of a mesh share one authority: compare the line `mesh` of both, and")?;
            screen.next("start this node with the other one's --ca and --ca-key, in a new --data-dir.")?;
        }
    }
    Ok(())
}

pub(super) async fn digest(client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let digest: Digest = client.get("/v1/digest").await?;
    match screen.format() {
        Format::Json | Format::Jsonl => screen.json(&digest)?,
        Format::Table | Format::Wide | Format::Name => screen.line(&digest.digest)?,
    }
    Ok(())
}

pub(super) fn version(screen: &mut Screen) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match screen.format() {
        Format::Json | Format::Jsonl => {
            screen.json(&json!({ "apiVersion": API_VERSION, "version": version }))?;
        }
        Format::Table | Format::Wide | Format::Name => screen.line(format!("snomesh {version}"))?,
    }
    Ok(())
}

/// `1 tunnel`, `2 tunnels`.
fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Bytes as people read them.
pub(super) fn shown(bytes: &Bytes) -> String {
    match &bytes.text {
        Some(text) => text.clone(),
        None => format!("{} bytes", bytes.decode().map_or(0, |bytes| bytes.len())),
    }
}

/// Enough of an id for people to tell nodes apart.
pub(super) fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

/// A duration, to about one part in sixty.
pub(super) fn age(age: Duration) -> String {
    match age.as_secs() {
        0 => format!("{} ms", age.as_millis()),
        seconds @ 1..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min", seconds / 60),
        seconds @ 3_600..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}
