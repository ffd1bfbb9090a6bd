//! Puts lines of a copy into a mesh: into that of a node that runs, or of one that does not.

use std::collections::BTreeSet;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::task::JoinSet;

use super::api::{API_VERSION, ImportState, ImportedState, Problem, RefusedLine};
use crate::auth::{Revocation, SignedPolicy};
use crate::mesh::{Adoption, CommandError, MeshHandle, Standing};
use crate::replica::{AttributeKey, ElementId, Piece, WriteError};

/// The most lines at a time.
const MAX_LINES: usize = 1_000;

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

/// Writes the lines, all at once; they are durable when it returns. If one of them is no line, nothing is written.
///
/// Proofs are looked at with the certificates of the mesh's authorities.
pub(super) async fn import(
    mesh: &MeshHandle,
    authorities: &[CertificateDer<'_>],
    lines: ImportState,
) -> Result<ImportedState, Problem> {
    let ImportState { lines, dry_run, keep } = lines;
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
        if holds(mesh, authorities, &piece) {
            pieces.push((number, piece));
        } else {
            imported.left_out += 1;
        }
    }
    if dry_run {
        let pieces = pieces.into_iter().map(|(_, piece)| piece).collect();
        for adoption in mesh.would_adopt(pieces, standing).await? {
            imported.count(adoption);
        }
        return Ok(imported);
    }
    let mut writing = JoinSet::new();
    for (number, piece) in pieces {
        let mesh = mesh.clone();
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
    Ok(imported)
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
fn holds(mesh: &MeshHandle, authorities: &[CertificateDer<'_>], piece: &Piece) -> bool {
    match piece {
        Piece::Revocation { node, proof } => {
            Revocation::verify(proof.as_bytes(), authorities).is_ok_and(|proved| proved.node == *node)
        }
        Piece::Policy(proof) => {
            let Ok(proved) = SignedPolicy::verify(proof, authorities) else { return false };
            let holds = mesh.access().policy();
            holds.is_none_or(|holds| proved.cmp_rank(&holds).is_ge())
        }
        Piece::Attribute(_) | Piece::Counter { .. } | Piece::Element { .. } => true,
    }
}
