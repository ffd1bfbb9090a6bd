//! Panics of tasks: a runtime catches them, and nobody looks.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static NOTICED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// From now on panics are noted, by the thread that they happen in, besides whatever else is done about them.
pub(super) fn watch() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            NOTICED.with_borrow_mut(|noticed| noticed.push(panic.to_string()));
            before(panic);
        }));
    });
    take();
}

/// The panics of this thread since the last time.
pub(super) fn take() -> Vec<String> {
    NOTICED.take()
}
