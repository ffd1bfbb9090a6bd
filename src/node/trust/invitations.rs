//! The invitations that are open, in a file: made, used up, forgotten.
//!
//! Of a secret only its hash is kept, so that whoever reads the file cannot join with it.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::auth::SECRET_LEN;
use crate::node::files::{self, FileError};
use crate::time::UnixMillis;

/// The open invitations of one node.
#[derive(Debug)]
pub(in crate::node) struct Invitations {
    path: PathBuf,
    open: Mutex<Vec<Invitation>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Invitation {
    /// SHA-256 of the secret, in hexadecimal.
    hash: String,
    expires_at: u64,
    uses: u32,
}

impl Invitations {
    /// How many may be open at a time.
    pub(in crate::node) const MAX: usize = 1_000;

    /// Reads them. A file that makes no sense is an error, for the invitations in it were promises.
    pub(super) fn open(path: PathBuf) -> Result<Self, FileError> {
        let text = files::read_secret(&path)?;
        let open = text.map_or(Ok(Vec::new()), |text| serde_json::from_str(&text));
        let open = open.map_err(|error| FileError::Read { path: path.clone(), source: error.into() })?;
        Ok(Self { path, open: Mutex::new(open) })
    }

    /// Opens one; durable when it returns. Says no if there are too many.
    pub(super) fn add(
        &self,
        secret: &[u8; SECRET_LEN],
        expires_at: UnixMillis,
        uses: u32,
        now: UnixMillis,
    ) -> Result<bool, FileError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next: Vec<_> = open.iter().filter(|one| one.expires_at > now.0).cloned().collect();
        if next.len() >= Self::MAX {
            return Ok(false);
        }
        next.push(Invitation { hash: hash(secret), expires_at: expires_at.0, uses });
        self.write(&next)?;
        *open = next;
        Ok(true)
    }

    /// Uses one up, if the secret is that of one which holds. That it is used is durable when this returns: no crash
    /// and no race makes one use two.
    pub(super) fn spend(&self, secret: &[u8; SECRET_LEN], now: UnixMillis) -> Result<bool, FileError> {
        let sought = hash(secret);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // All are looked at, and all alike: how long it takes tells nothing.
        let mut found = None;
        for (at, one) in open.iter().enumerate() {
            if bool::from(one.hash.as_bytes().ct_eq(sought.as_bytes())) {
                found = Some(at);
            }
        }
        let Some(at) = found.filter(|at| open[*at].expires_at > now.0 && open[*at].uses > 0) else {
            return Ok(false);
        };
        let mut next = open.clone();
        next[at].uses -= 1;
        next.retain(|one| one.expires_at > now.0 && one.uses > 0);
        self.write(&next)?;
        *open = next;
        Ok(true)
    }

    fn write(&self, open: &[Invitation]) -> Result<(), FileError> {
        let text = serde_json::to_string_pretty(open).expect("texts and numbers are JSON");
        files::write(&self.path, &text, 0o600)
    }
}

fn hash(secret: &[u8; SECRET_LEN]) -> String {
    HEXLOWER.encode(digest(&SHA256, secret).as_ref())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000);
    const LATER: UnixMillis = UnixMillis(2_000);

    fn empty() -> (tempfile::TempDir, Invitations) {
        let directory = tempfile::tempdir().unwrap();
        let invitations = Invitations::open(directory.path().join("invitations.json")).unwrap();
        (directory, invitations)
    }

    /// FEATURES P6.
    #[test]
    fn an_invitation_is_good_for_its_uses_and_its_time_and_survives_a_restart() {
        let (directory, invitations) = empty();
        assert!(!invitations.spend(&[1; SECRET_LEN], NOW).unwrap());
        invitations.add(&[1; SECRET_LEN], LATER, 2, NOW).unwrap();
        invitations.add(&[2; SECRET_LEN], LATER, 1, NOW).unwrap();
        assert!(!invitations.spend(&[3; SECRET_LEN], NOW).unwrap());
        assert!(invitations.spend(&[1; SECRET_LEN], NOW).unwrap());
        drop(invitations);
        let invitations = Invitations::open(directory.path().join("invitations.json")).unwrap();
        assert!(invitations.spend(&[1; SECRET_LEN], NOW).unwrap());
        assert!(!invitations.spend(&[1; SECRET_LEN], NOW).unwrap());
        assert!(!invitations.spend(&[2; SECRET_LEN], LATER).unwrap());
        let text = std::fs::read_to_string(directory.path().join("invitations.json")).unwrap();
        assert!(!text.contains(&HEXLOWER.encode(&[2; SECRET_LEN])), "secrets are not kept: {text}");
    }

    #[test]
    fn two_guests_with_one_use_are_one_node() {
        let (_directory, invitations) = empty();
        invitations.add(&[1; SECRET_LEN], LATER, 1, NOW).unwrap();
        let invitations = Arc::new(invitations);
        let guests: Vec<_> = (0..8)
            .map(|_| {
                let invitations = Arc::clone(&invitations);
                std::thread::spawn(move || invitations.spend(&[1; SECRET_LEN], NOW).unwrap())
            })
            .collect();
        let admitted = guests.into_iter().filter_map(|guest| guest.join().ok()).filter(|admitted| *admitted);
        assert_eq!(admitted.count(), 1);
    }

    /// If it cannot be written down that a use is spent, it is not given.
    #[test]
    fn a_use_that_cannot_be_written_down_is_not_given() {
        let (directory, invitations) = empty();
        invitations.add(&[1; SECRET_LEN], LATER, 1, NOW).unwrap();
        directory.close().unwrap();
        assert!(invitations.spend(&[1; SECRET_LEN], NOW).is_err());
    }

    #[test]
    fn their_number_is_bounded_and_those_that_ended_do_not_count() {
        let (_directory, invitations) = empty();
        *invitations.open.lock().unwrap() = (0..Invitations::MAX)
            .map(|_| Invitation { hash: String::new(), expires_at: LATER.0, uses: 1 })
            .collect();
        assert!(!invitations.add(&[1; SECRET_LEN], LATER, 1, NOW).unwrap());
        assert!(invitations.add(&[1; SECRET_LEN], UnixMillis(3_000), 1, LATER).unwrap());
    }

    #[test]
    fn a_file_that_others_can_read_or_that_makes_no_sense_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("invitations.json");
        files::write(&path, "[]", 0o644).unwrap();
        assert!(matches!(Invitations::open(path.clone()), Err(FileError::Exposed { .. })));
        files::write(&path, "nonsense", 0o600).unwrap();
        assert!(matches!(Invitations::open(path), Err(FileError::Read { .. })));
    }
}
