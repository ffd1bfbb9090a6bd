//! Waits for what the authority's decrees have to do with.

use crate::daemon::{RecvError, Subscription};
use crate::gossip::Event;

/// What a subscription came to.
pub(super) enum Next<T> {
    /// Something that was waited for.
    Event(T),
    /// Some was missed: everything may have changed.
    Everything,
    /// The mesh has ended.
    End,
}

/// Waits for the next event that `wants` takes.
pub(super) async fn next<T>(
    events: &mut Subscription<Event>,
    wants: impl Fn(&Event) -> Option<T>,
) -> Next<T> {
    loop {
        match events.recv().await {
            Ok((_, event)) => {
                if let Some(wanted) = wants(&event) {
                    return Next::Event(wanted);
                }
            }
            Err(RecvError::Lagged(_)) => return Next::Everything,
            Err(RecvError::Closed) => return Next::End,
        }
    }
}
