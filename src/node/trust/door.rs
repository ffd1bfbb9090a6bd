//! Who answers guests: a certificate for whoever has an invitation, a refusal for everybody else.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Keys;
use crate::auth::{JoinAnswer, JoinRefusal, JoinRequest};
use crate::clock::WallClock;
use crate::tunnel::quic::Guest;

/// Answers guests one after another until the node stops.
pub(in crate::node) async fn keep_door(
    mut guests: mpsc::Receiver<Guest>,
    keys: Arc<Keys>,
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
        let answer = match judged {
            Ok(Ok(answer)) => {
                tracing::info!(%remote, "a guest became a node");
                answer
            }
            Ok(Err(refusal)) => {
                tracing::warn!(%remote, %refusal, "a guest was refused");
                JoinAnswer::Refused(refusal)
            }
            Err(_panicked) => JoinAnswer::Refused(JoinRefusal::Unable),
        };
        tokio::spawn(async move { guest.answer(&answer.encode()).await });
    }
}

fn judge(keys: &Keys, request: &[u8]) -> Result<JoinAnswer, JoinRefusal> {
    let request = JoinRequest::decode(request).map_err(|_malformed| JoinRefusal::Request)?;
    let authority = keys.authority().ok_or(JoinRefusal::Unable)?;
    // Signed before the secret is spent: a request that proves nothing must not cost anybody an invitation.
    let signed = request.sign(&authority, keys.validity()).map_err(|_unproven| JoinRefusal::Request)?;
    if keys.denied.contains(signed.node) {
        return Err(JoinRefusal::Revoked);
    }
    match keys.invitations.spend(&request.secret, WallClock::system().now()) {
        Ok(true) => Ok(JoinAnswer::Granted {
            certificate: signed.pem,
            authority: authority.certificate_pem().to_owned(),
            addresses: keys.addresses.clone(),
        }),
        Ok(false) => Err(JoinRefusal::Secret),
        Err(error) => {
            tracing::error!(%error, "the use of an invitation cannot be written down");
            Err(JoinRefusal::Unable)
        }
    }
}
