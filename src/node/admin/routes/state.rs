//! The state as lines, out and in.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use tokio::sync::mpsc;

use super::{Answer, Body, json};
use crate::clock::WallClock;
use crate::crdt::Key;
use crate::mesh::MeshHandle;
use crate::node::admin::stream::Frames;
use crate::node::agent::Agent;
use crate::node::api::{ImportedState, STATE_FORMAT, StateEnd, StateHead, StateLine};
use crate::node::import;

/// How many chunks may wait for a slow reader.
const QUEUE: usize = 2;

pub(super) fn routes() -> Router<Arc<Agent>> {
    Router::new().route("/v1/state", get(export).post(import))
}

/// All of it, or what has full names that begin so. Every thing is told as it is when its turn comes.
async fn export(
    State(agent): State<Arc<Agent>>,
    Query(query): Query<std::collections::BTreeMap<String, String>>,
) -> Response {
    let prefix = query.get("prefix").cloned().unwrap_or_default();
    let (chunks, waiting) = mpsc::channel(QUEUE);
    let head = StateHead {
        format: STATE_FORMAT,
        mesh: Some(agent.facts.mesh.to_string()),
        node: Some(agent.facts.node.to_string()),
        at: WallClock::system().now().0,
    };
    let mesh = agent.mesh.clone();
    agent.forwards.spawn(async move {
        // Whoever has gone needs no more; where the mesh has ended there is no last line.
        write(&mesh, head, prefix, &chunks).await;
    });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    (headers, axum::body::Body::new(Frames::new(waiting))).into_response()
}

async fn write(
    mesh: &MeshHandle,
    head: StateHead,
    prefix: String,
    chunks: &mpsc::Sender<Bytes>,
) -> Option<()> {
    chunks.send(text(&[StateLine::State(head)])).await.ok()?;
    let (mut from, mut lines): (Option<Key>, u64) = (None, 0);
    loop {
        let page = mesh.view(move |mesh| mesh.replica().pieces(from)).await.ok()?;
        let wanted = page.pieces.iter().filter(|piece| prefix.is_empty() || piece.is_under(&prefix));
        let told: Vec<StateLine> = wanted.map(StateLine::from).collect();
        lines += told.len() as u64;
        if !told.is_empty() {
            chunks.send(text(&told)).await.ok()?;
        }
        from = page.next;
        if from.is_none() {
            return chunks.send(text(&[StateLine::End(StateEnd { lines })])).await.ok();
        }
    }
}

fn text(lines: &[StateLine]) -> Bytes {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line).expect("texts and numbers are JSON");
        text.push(b'\n');
    }
    text.into()
}

/// Writes the lines, all at once, and answers when they are durable. If one of them is no line, nothing is written.
async fn import(State(agent): State<Arc<Agent>>, body: Body) -> Answer<ImportedState> {
    let lines = json(body)?;
    let authorities = agent.keys.trust().credentials.authorities;
    Ok(Json(import::import(&agent.mesh, &authorities, lines).await?))
}
