//! Who answers guests: a certificate for whoever has an invitation, a refusal for everybody else.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Keys;
use super::invitations::Invitation;
use crate::auth::{JoinAnswer, JoinRefusal, JoinRequest};
use crate::clock::WallClock;
use crate::id::NodeId;
use crate::mesh::MeshHandle;
use crate::tunnel::quic::Guest;

/// Answers guests one after another until the node stops.
pub(in crate::node) async fn keep_door(
    mut guests: mpsc::Receiver<Guest>,
    keys: Arc<Keys>,
    mesh: MeshHandle,
    stop: CancellationToken,
) {
    loop {
        let guest = tokio::select! {
            () = stop.cancelled() => return,
            guest = guests.recv() => match guest {
                Some(guest) => guest,
                None => return,
            },
        };
        let (remote, request) = (guest.remote, guest.request.clone());
        let judging = Arc::clone(&keys);
        // Signs and writes a file: nothing for a thread that others wait for.
        let judged = tokio::task::spawn_blocking(move || judge(&judging, &request)).await;
        let admitted = match judged {
            Ok(Ok(admitted)) => grant(&keys, &mesh, admitted).await,
            Ok(Err(refusal)) => Err(refusal),
            Err(_panicked) => Err(JoinRefusal::Unable),
        };
        let answer = match admitted {
            Ok(answer) => {
                tracing::info!(%remote, "a guest became a node");
                answer
            }
            Err(refusal) => {
                tracing::warn!(%remote, %refusal, "a guest was refused");
                JoinAnswer::Refused(refusal)
            }
        };
        tokio::spawn(async move { guest.answer(&answer.encode()).await });
    }
}

/// A guest whose secret was good, and is spent.
struct Admitted {
    node: NodeId,
    answer: JoinAnswer,
    spent: Invitation,
}

/// Gives what the invitation promised. Without that the guest does not become a node, and its use is given back.
async fn grant(keys: &Arc<Keys>, mesh: &MeshHandle, admitted: Admitted) -> Result<JoinAnswer, JoinRefusal> {
    let Admitted { node, answer, spent } = admitted;
    let Err(error) = keys.grant(mesh, node, &spent.terms).await else { return Ok(answer) };
    tracing::error!(%node, %error, "what an invitation gives cannot be given");
    let keys = Arc::clone(keys);
    let refunded = tokio::task::spawn_blocking(move || keys.invitations.refund(&spent)).await;
    if let Ok(Err(error)) = refunded {
        tracing::error!(%error, "the use of an invitation cannot be given back");
    }
    Err(JoinRefusal::Unable)
}

fn judge(keys: &Keys, request: &[u8]) -> Result<Admitted, JoinRefusal> {
    let request = JoinRequest::decode(request).map_err(|_malformed| JoinRefusal::Request)?;
    let authority = keys.authority().ok_or(JoinRefusal::Unable)?;
    // Signed before the secret is spent: a request that proves nothing must not cost anybody an invitation.
    let signed = request.sign(&authority, keys.validity()).map_err(|_unproven| JoinRefusal::Request)?;
    if keys.denied.contains(signed.node) {
        return Err(JoinRefusal::Revoked);
    }
    match keys.invitations.spend(&request.secret, WallClock::system().now()) {
        Ok(Some(spent)) => {
            let answer = JoinAnswer::Granted {
                certificate: signed.pem,
                authority: authority.certificate_pem().to_owned(),
                addresses: keys.addresses.clone(),
            };
            Ok(Admitted { node: signed.node, answer, spent })
        }
        Ok(None) => Err(JoinRefusal::Secret),
        Err(error) => {
            tracing::error!(%error, "the use of an invitation cannot be written down");
            Err(JoinRefusal::Unable)
        }
    }
}
