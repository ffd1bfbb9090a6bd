//! Which keys have changed since somebody asked.

use crate::crdt::Key;

/// How many keys may be noted before those are looked for that were noted twice: more than one delta changes.
const MAX_NOTED: usize = 1_024;

/// Keys that have changed: each at least once, and not much more often.
#[derive(Debug, Clone, Default)]
pub(super) struct ChangedKeys {
    noted: Vec<Key>,
    /// How many of them were different when that was looked at last.
    different: usize,
}

impl ChangedKeys {
    pub(super) fn note(&mut self, key: &Key) {
        self.noted.push(key.clone());
        if self.noted.len() > 2 * self.different + MAX_NOTED {
            self.noted = std::mem::take(self).into_sorted();
            self.different = self.noted.len();
        }
    }

    pub(super) fn into_sorted(self) -> Vec<Key> {
        let mut keys = self.noted;
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}
