//! What systemd is told, where it supervises the process (`Type=notify-reload`). Elsewhere: nothing, to nobody.

use sd_notify::NotifyState;

/// The node serves.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being read again. systemd wants the time of a clock that it shares with us, or it takes the
/// `READY` that follows for that of another reload.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic clock for systemd"),
    }
}

/// The node stops; from now on its end is no failure.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The node lives. Called after every answer of the core: a core that is stuck is restarted by the watchdog.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// Whether somebody wants to be told that the node lives.
pub(super) fn is_watched() -> bool {
    sd_notify::watchdog_enabled().is_some()
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}
