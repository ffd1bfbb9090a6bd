//! Clean-up that no exit path can miss.

/// Runs an action when it is dropped: at the end of a scope, with a cancelled task, or while a panic unwinds.
///
/// The action must not block. What it leaves to be awaited belongs into a task that somebody tracks.
pub struct Dropkick<F: FnOnce()> {
    action: Option<F>,
}

impl<F: FnOnce()> Dropkick<F> {
    /// Arms the action.
    pub fn new(action: F) -> Self {
        Self { action: Some(action) }
    }

    /// Gives the action back without running it.
    pub fn disarm(mut self) -> Option<F> {
        self.action.take()
    }
}

impl<F: FnOnce()> Drop for Dropkick<F> {
    fn drop(&mut self) {
        if let Some(action) = self.action.take() {
            action();
        }
    }
}

impl<F: FnOnce()> std::fmt::Debug for Dropkick<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dropkick").field("armed", &self.action.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// FEATURES S14.
    #[test]
    fn it_kicks_once_also_while_a_panic_unwinds() {
        let kicks = Cell::new(0);
        let kick = || kicks.set(kicks.get() + 1);
        drop(Dropkick::new(kick));
        assert_eq!(kicks.get(), 1);
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _dropkick = Dropkick::new(kick);
            panic!("on purpose");
        }));
        assert!(unwound.is_err());
        assert_eq!(kicks.get(), 2);
        Dropkick::new(kick).disarm();
        assert_eq!(kicks.get(), 2);
    }
}
