//! Takes over what a copy of the state holds, piece by piece.
//!
//! What is adopted is written by this node, now, as if somebody had said it anew: so it reaches every node, and what
//! stood in its place is replaced as by any write. Adopting twice is adopting once.

use super::handle::{CommandError, MeshHandle, Stopped, Written};
use crate::gossip::Durability;
use crate::replica::{AttributeKey, ElementId, Piece, Replica};

/// What becomes of an attribute or a counter that has another value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// It takes the one that is adopted.
    #[default]
    Replaced,
    /// It stays.
    Kept,
}

/// What became of a piece, or would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// It was written.
    Written,
    /// It was there.
    Unchanged,
    /// Something else is there, and stays.
    Kept,
}

impl MeshHandle {
    /// What [`adopt`](Self::adopt) would make of pieces, all looked at in one moment.
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub async fn would_adopt(
        &self,
        pieces: Vec<Piece>,
        standing: Standing,
    ) -> Result<Vec<Adoption>, Stopped> {
        self.view(move |mesh| pieces.iter().map(|piece| judge(mesh.replica(), piece, standing)).collect())
            .await
    }

    /// Makes a piece part of the state; its siblings are not, for who wrote them and when is gone. A counter is
    /// brought to the value; what others count meanwhile is added to that. Durable when this returns, as far as the
    /// mesh has a disk.
    ///
    /// Proofs are taken as they are: whether they hold is for whoever hands them in, and for whoever reads them.
    ///
    /// # Errors
    ///
    /// [`CommandError`]; a counter that is further away than 2^63 may have come nearer.
    pub async fn adopt(&self, piece: Piece, standing: Standing) -> Result<Adoption, CommandError> {
        let judged = piece.clone();
        let adoption = self.view(move |mesh| judge(mesh.replica(), &judged, standing)).await?;
        if adoption != Adoption::Written {
            return Ok(adoption);
        }
        let written = match piece {
            Piece::Attribute(attribute) => {
                // Judged once more: what has come meanwhile stays too, if it should.
                self.write(Durability::Disk, move |mesh, now| {
                    let found = mesh.replica().attribute(&attribute.key);
                    match (found, standing) {
                        (Some(_), Standing::Kept) => Ok(None),
                        (Some(_), Standing::Replaced) | (None, _) => {
                            mesh.set(now, &attribute.key, attribute.value)
                        }
                    }
                })
                .await?
            }
            Piece::Counter { key, value } => self.count_to(key, value).await?,
            Piece::Element { set, element } => self.add(set, element).await?,
            Piece::Revocation { node, proof } => self.revoke(node, proof).await?,
            Piece::Policy(proof) => self.decree(proof).await?,
        };
        Ok(match written {
            Written::Yes => Adoption::Written,
            Written::Unchanged => Adoption::Unchanged,
        })
    }

    /// Brings a counter to a value, in as few steps as there are.
    async fn count_to(&self, key: AttributeKey, value: i128) -> Result<Written, CommandError> {
        let mut rest = value.saturating_sub(self.counter(key.clone()).await?.unwrap_or(0));
        let mut written = Written::Unchanged;
        while rest != 0 {
            let by = i64::try_from(rest).unwrap_or(if rest < 0 { i64::MIN } else { i64::MAX });
            let key = key.clone();
            self.write(Durability::Disk, move |mesh, now| mesh.increment(now, &key, by)).await?;
            rest -= i128::from(by);
            written = Written::Yes;
        }
        Ok(written)
    }
}

fn judge(replica: &Replica, piece: &Piece, standing: Standing) -> Adoption {
    let of = |there: Option<bool>| match (there, standing) {
        (Some(true), _) => Adoption::Unchanged,
        (Some(false), Standing::Kept) => Adoption::Kept,
        (Some(false), Standing::Replaced) | (None, _) => Adoption::Written,
    };
    match piece {
        Piece::Attribute(attribute) => {
            of(replica.attribute(&attribute.key).map(|found| found.value == attribute.value))
        }
        // That nobody has counted and that the sum is zero are the same to whoever reads it.
        Piece::Counter { key, value: 0 } => of(Some(replica.counter(key).unwrap_or(0) == 0)),
        Piece::Counter { key, value } => of(replica.counter(key).map(|found| found == *value)),
        Piece::Element { set, element } => {
            let id = ElementId::of(element);
            of(replica.element(set, id).map(|_| true))
        }
        Piece::Revocation { node, proof } => of(replica.revocations_of(node).contains(proof).then_some(true)),
        Piece::Policy(proof) => of(replica.policies().contains(proof).then_some(true)),
    }
}
