//! The state as lines, out and in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Answer, Body, json};
use crate::auth::{Revocation, SignedPolicy};
use crate::clock::WallClock;
use crate::crdt::Key;
use crate::mesh::{Adoption, CommandError, MeshHandle, Standing};
use crate::node::admin::stream::Frames;
use crate::node::agent::Agent;
use crate::node::api::{
    API_VERSION, ImportState, ImportedState, Problem, RefusedLine, STATE_FORMAT, StateEnd, StateHead,
    StateLine,
};
use crate::replica::{AttributeKey, ElementId, Piece, WriteError};

/// The most lines of one request.
const MAX_LINES: usize = 1_000;
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

/// What a line is about.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Attribute(AttributeKey),
    Counter(AttributeKey),
    Element(AttributeKey, ElementId),
    Proof(Vec<u8>),
}

impl Subject {
    fn of(piece: &Piece) -> Self {
        match piece {
            Piece::Attribute(attribute) => Self::Attribute(attribute.key.clone()),
            Piece::Counter { key, .. } => Self::Counter(key.clone()),
            Piece::Element { set, element } => Self::Element(set.clone(), ElementId::of(element)),
            Piece::Revocation { proof, .. } | Piece::Policy(proof) => Self::Proof(proof.as_bytes().to_vec()),
        }
    }
}

/// Writes the lines, all at once, and answers when they are durable. If one of them is no line, nothing is written.
async fn import(State(agent): State<Arc<Agent>>, body: Body) -> Answer<ImportedState> {
    let ImportState { lines, dry_run, keep } = json(body)?;
    if lines.len() > MAX_LINES {
        return Err(Problem::invalid(format!("{} lines are too many for one request", lines.len()))
            .hint(format!("at most {MAX_LINES}; snomesh state import takes any number")));
    }
    let standing = if keep { Standing::Kept } else { Standing::Replaced };
    let mut imported = ImportedState { api_version: API_VERSION.into(), ..ImportedState::default() };
    let (mut pieces, mut subjects) = (Vec::new(), BTreeSet::new());
    for (number, line) in (0_u64..).zip(&lines) {
        let piece = line.to_piece().map_err(|error| Problem::invalid(format!("line {number}: {error}")))?;
        if !subjects.insert(Subject::of(&piece)) {
            return Err(Problem::invalid(format!("line {number} is about what an earlier line is about")));
        }
        if holds(&agent, &piece) {
            pieces.push((number, piece));
        } else {
            imported.left_out += 1;
        }
    }
    if dry_run {
        let pieces = pieces.into_iter().map(|(_, piece)| piece).collect();
        for adoption in agent.mesh.would_adopt(pieces, standing).await? {
            imported.count(adoption);
        }
        return Ok(Json(imported));
    }
    let mut writing = JoinSet::new();
    for (number, piece) in pieces {
        let mesh = agent.mesh.clone();
        writing.spawn(async move { (number, adopt(&mesh, &piece, standing).await) });
    }
    while let Some(written) = writing.join_next().await {
        let (number, outcome) = written.map_err(|_panicked| Problem::bug("a line could not be written"))?;
        match outcome {
            Ok(adoption) => imported.count(adoption),
            Err(CommandError::Write(error)) => {
                imported.refused.push(RefusedLine { index: number, reason: error.to_string() });
            }
            Err(error) => return Err(error.into()),
        }
    }
    imported.refused.sort_by_key(|refused| refused.index);
    Ok(Json(imported))
}

impl ImportedState {
    fn count(&mut self, adoption: Adoption) {
        *match adoption {
            Adoption::Written => &mut self.written,
            Adoption::Unchanged => &mut self.unchanged,
            Adoption::Kept => &mut self.kept,
        } += 1;
    }
}

/// Writes a piece as soon as the mesh takes it.
async fn adopt(mesh: &MeshHandle, piece: &Piece, standing: Standing) -> Result<Adoption, CommandError> {
    loop {
        match mesh.adopt(piece.clone(), standing).await {
            Err(CommandError::Write(WriteError::Busy { retry_after })) => {
                tokio::time::sleep(retry_after.max(Duration::from_millis(1))).await;
            }
            outcome => return outcome,
        }
    }
}

/// Whether a proof is one of this mesh, and not older than what holds; everything else needs none.
fn holds(agent: &Agent, piece: &Piece) -> bool {
    match piece {
        Piece::Revocation { node, proof } => {
            let authorities = agent.keys.trust().credentials.authorities;
            Revocation::verify(proof.as_bytes(), &authorities).is_ok_and(|proved| proved.node == *node)
        }
        Piece::Policy(proof) => {
            let authorities = agent.keys.trust().credentials.authorities;
            let Ok(proved) = SignedPolicy::verify(proof, &authorities) else { return false };
            let holds = agent.mesh.access().policy();
            holds.is_none_or(|holds| proved.cmp_rank(&holds).is_ge())
        }
        Piece::Attribute(_) | Piece::Counter { .. } | Piece::Element { .. } => true,
    }
}
