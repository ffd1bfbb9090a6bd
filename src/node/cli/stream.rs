//! Commands that go on: `events` and `attr watch`.

use super::attr::encode;
use super::failure::{Exit, Failure};
use super::look::{ended, short, shown};
use super::screen::{Format, Screen, escape, excerpt};
use crate::node::api::Event;
use crate::node::{Client, EventStream};

/// How much of a value a line shows.
const EXCERPT: usize = 60;

pub(super) async fn events(client: &Client, screen: &mut Screen) -> Result<Exit, Failure> {
    let stream = client.stream("/v1/events").await?;
    print(stream, screen, |event, _| describe(event)).await
}

pub(super) async fn watch(client: &Client, screen: &mut Screen, prefix: &str) -> Result<Exit, Failure> {
    let stream = client.stream(&format!("/v1/watch/attributes?prefix={}", encode(prefix))).await?;
    print(stream, screen, |event, synced| match event {
        Event::Attribute { key, value: Some(value), siblings, .. } => {
            let mark = if synced { '+' } else { '=' };
            let siblings = match siblings {
                0 => String::new(),
                1 => "  (1 sibling)".to_owned(),
                siblings => format!("  ({siblings} siblings)"),
            };
            format!("{mark} {key}  {}{siblings}", excerpt(&shown(value), EXCERPT))
        }
        Event::Attribute { key, value: None, .. } => format!("- {key}"),
        Event::Synced => "-- this is all; changes follow".to_owned(),
        Event::Lagged { missed } => format!("-- lagged {missed}; all of it again"),
        other => describe(other),
    })
    .await
}

/// The tunnels, and how they come and go.
pub(super) async fn watch_tunnels(
    client: &Client,
    screen: &mut Screen,
    prefix: &str,
) -> Result<Exit, Failure> {
    let stream = client.stream(&format!("/v1/watch/tunnels?prefix={}", encode(prefix))).await?;
    print(stream, screen, |event, synced| match event {
        Event::Registered { name, tunnel, holder, .. } => {
            let mark = if synced { '+' } else { '=' };
            format!("{mark} {}  {tunnel} by {}", escape(name), short(holder))
        }
        Event::Deregistered { name, tunnel } => format!("- {}  {tunnel}", escape(name)),
        Event::Synced => "-- this is all; changes follow".to_owned(),
        Event::Lagged { missed } => format!("-- lagged {missed}; all of it again"),
        other => describe(other),
    })
    .await
}

/// Prints what comes; a stream never ends by itself, so its end is the node's.
async fn print(
    mut stream: EventStream,
    screen: &mut Screen,
    line: impl Fn(&Event, bool) -> String,
) -> Result<Exit, Failure> {
    let mut synced = false;
    while let Some((json, event)) = stream.next().await? {
        match screen.format() {
            Format::Json | Format::Jsonl => screen.line(json)?,
            Format::Name => {
                if let Event::Attribute { key: name, .. } | Event::Registered { name, .. } = &event {
                    screen.line(escape(name))?;
                }
            }
            Format::Table | Format::Wide => screen.line(line(&event, synced))?,
        }
        synced = match event {
            Event::Synced => true,
            Event::Lagged { .. } => false,
            _ => synced,
        };
    }
    Err(ended())
}

fn describe(event: &Event) -> String {
    match event {
        Event::Attribute { key, value: Some(value), siblings, .. } => {
            format!("attribute     {key} = {} ({siblings} siblings)", excerpt(&shown(value), EXCERPT))
        }
        Event::Attribute { key, value: None, .. } => format!("attribute     {key} removed"),
        Event::Counter { key, value: Some(value) } => format!("counter       {key} = {value}"),
        Event::Counter { key, value: None } => format!("counter       {key} removed"),
        Event::Element { key, element: Some(element), .. } => {
            format!("element       {key} + {}", excerpt(&shown(element), EXCERPT))
        }
        Event::Element { key, id, element: None } => format!("element       {key} - {id}"),
        Event::Registered { name, tunnel, holder, healthy, .. } => {
            let health = if *healthy { "" } else { ", unhealthy" };
            format!("registered    {name} as {tunnel} by {}{health}", short(holder))
        }
        Event::Deregistered { name, tunnel } => format!("deregistered  {name} as {tunnel}"),
        Event::Member { node, state, .. } => format!("member        {} is {state}", short(node)),
        Event::Revocation { node } => format!("revocation    {}", short(node)),
        Event::Policy => "policy        snomesh acl show".to_owned(),
        Event::LinkUp { peer } => format!("link up       {}", short(peer)),
        Event::LinkDown { peer } => format!("link down     {}", short(peer)),
        Event::Alarm { message } => format!("alarm         {}", escape(message)),
        Event::Lagged { missed } => format!("-- lagged {missed}; going on with the oldest still held"),
        Event::Synced => "-- synced".to_owned(),
        Event::Unknown => "something that this version does not know".to_owned(),
    }
}
