//! The invitations that are open, in a file: made, used up, forgotten.
//!
//! Of a secret only its hash is kept, so that whoever reads the file cannot join with it.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::Terms;
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
pub(super) struct Invitation {
    /// SHA-256 of the secret, in hexadecimal.
    hash: String,
    expires_at: u64,
    uses: u32,
    /// What whoever comes with it is given.
    #[serde(default, skip_serializing_if = "says_nothing")]
    pub(super) terms: Terms,
}

fn says_nothing(terms: &Terms) -> bool {
    *terms == Terms::default()
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
        (uses, terms): (u32, Terms),
        now: UnixMillis,
    ) -> Result<bool, FileError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next: Vec<_> = open.iter().filter(|one| one.expires_at > now.0).cloned().collect();
        if next.len() >= Self::MAX {
            return Ok(false);
        }
        next.push(Invitation { hash: hash(secret), expires_at: expires_at.0, uses, terms });
        self.write(&next)?;
        *open = next;
        Ok(true)
    }

    /// Uses one up, if the secret is that of one which holds, and gives that one back. That it is used is durable when
    /// this returns: no crash and no race makes one use two.
    pub(super) fn spend(
        &self,
        secret: &[u8; SECRET_LEN],
        now: UnixMillis,
    ) -> Result<Option<Invitation>, FileError> {
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
            return Ok(None);
        };
        let (spent, mut next) = (open[at].clone(), open.clone());
        next[at].uses -= 1;
        next.retain(|one| one.expires_at > now.0 && one.uses > 0);
        self.write(&next)?;
        *open = next;
        Ok(Some(spent))
    }

    /// Gives a use back for which nothing was given.
    pub(super) fn refund(&self, spent: &Invitation) -> Result<(), FileError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = open.clone();
        match next.iter_mut().find(|one| one.hash == spent.hash) {
            Some(one) => one.uses += 1,
            None => next.push(Invitation { uses: 1, ..spent.clone() }),
        }
        self.write(&next)?;
        *open = next;
        Ok(())
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
        assert!(invitations.spend(&[1; SECRET_LEN], NOW).unwrap().is_none());
        invitations.add(&[1; SECRET_LEN], LATER, (2, Terms::default()), NOW).unwrap();
        invitations.add(&[2; SECRET_LEN], LATER, (1, Terms::default()), NOW).unwrap();
        assert!(invitations.spend(&[3; SECRET_LEN], NOW).unwrap().is_none());
        assert!(invitations.spend(&[1; SECRET_LEN], NOW).unwrap().is_some());
        drop(invitations);
        let invitations = Invitations::open(directory.path().join("invitations.json")).unwrap();
        assert!(invitations.spend(&[1; SECRET_LEN], NOW).unwrap().is_some());
        assert!(invitations.spend(&[1; SECRET_LEN], NOW).unwrap().is_none());
        assert!(invitations.spend(&[2; SECRET_LEN], LATER).unwrap().is_none());
        let text = std::fs::read_to_string(directory.path().join("invitations.json")).unwrap();
        assert!(!text.contains(&HEXLOWER.encode(&[2; SECRET_LEN])), "secrets are not kept: {text}");
    }

    #[test]
    fn two_guests_with_one_use_are_one_node() {
        let (_directory, invitations) = empty();
        invitations.add(&[1; SECRET_LEN], LATER, (1, Terms::default()), NOW).unwrap();
        let invitations = Arc::new(invitations);
        let guests: Vec<_> = (0..8)
            .map(|_| {
                let invitations = Arc::clone(&invitations);
                std::thread::spawn(move || invitations.spend(&[1; SECRET_LEN], NOW).unwrap().is_some())
            })
            .collect();
        let admitted = guests.into_iter().filter_map(|guest| guest.join().ok()).filter(|admitted| *admitted);
        assert_eq!(admitted.count(), 1);
    }

    /// FEATURES P6: what it gives is told to each who comes with it, after a restart too; and a use for which nothing could be
    /// given is one again, not two.
    #[test]
    fn an_invitation_keeps_its_terms_and_a_use_that_gave_nothing_comes_back() {
        let (directory, invitations) = empty();
        let terms = Terms { roles: ["edge".to_owned()].into(), ..Terms::default() };
        invitations.add(&[1; SECRET_LEN], LATER, (2, terms.clone()), NOW).unwrap();
        drop(invitations);
        let invitations = Invitations::open(directory.path().join("invitations.json")).unwrap();
        let spent = |secret| invitations.spend(&[secret; SECRET_LEN], NOW).unwrap();
        let (first, second) = (spent(1).unwrap(), spent(1).unwrap());
        assert_eq!((&first.terms, &second.terms), (&terms, &terms));
        assert!(spent(1).is_none());
        invitations.refund(&second).unwrap();
        assert_eq!(spent(1).unwrap().terms, terms);
        assert!(spent(1).is_none());
        invitations.refund(&first).unwrap();
        invitations.refund(&second).unwrap();
        assert!(spent(1).is_some() && spent(1).is_some() && spent(1).is_none());
    }

    /// If it cannot be written down that a use is spent, it is not given.
    #[test]
    fn a_use_that_cannot_be_written_down_is_not_given() {
        let (directory, invitations) = empty();
        invitations.add(&[1; SECRET_LEN], LATER, (1, Terms::default()), NOW).unwrap();
        directory.close().unwrap();
        assert!(invitations.spend(&[1; SECRET_LEN], NOW).is_err());
    }

    #[test]
    fn their_number_is_bounded_and_those_that_ended_do_not_count() {
        let (_directory, invitations) = empty();
        *invitations.open.lock().unwrap() = (0..Invitations::MAX)
            .map(|_| Invitation {
                hash: String::new(),
                expires_at: LATER.0,
                uses: 1,
                terms: Terms::default(),
            })
            .collect();
        assert!(!invitations.add(&[1; SECRET_LEN], LATER, (1, Terms::default()), NOW).unwrap());
        assert!(invitations.add(&[1; SECRET_LEN], UnixMillis(3_000), (1, Terms::default()), LATER).unwrap());
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
