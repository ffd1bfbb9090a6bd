//! The line that says how far a long search has come.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long nothing is said at first, and between two lines.
const PAUSE: Duration = Duration::from_millis(250);

/// Counts what is done and, on a terminal, says so.
#[derive(Debug)]
pub(crate) struct Progress {
    state: Option<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    begun: Instant,
    said_at: Instant,
    said: bool,
    done: u64,
    failed: u64,
    total: Total,
}

/// When it will be over.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Total {
    /// After so many runs.
    Runs(u64),
    /// After so long.
    Time(Duration),
}

impl Progress {
    /// Says nothing.
    pub(crate) fn silent() -> Self {
        Self { state: None }
    }

    /// Speaks if standard error is a terminal.
    pub(crate) fn on_terminal(total: Total) -> Self {
        let now = Instant::now();
        let state = State { begun: now, said_at: now, said: false, done: 0, failed: 0, total };
        Self { state: stderr().is_terminal().then(|| Mutex::new(state)) }
    }

    /// A run is over.
    pub(crate) fn done(&self, held: bool) {
        let Some(state) = &self.state else { return };
        let mut state = state.lock().expect("no thread panics while it holds the lock");
        state.done += 1;
        state.failed += u64::from(!held);
        if state.said_at.elapsed() >= PAUSE {
            state.said_at = Instant::now();
            state.said = true;
            let text = line(state.done, state.failed, state.begun.elapsed(), state.total);
            // A terminal that does not take the line misses nothing.
            write!(stderr(), "\r\x1b[K{text}").ok();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let said = self.state.as_ref().and_then(|state| state.lock().ok()).is_some_and(|state| state.said);
        if said {
            write!(stderr(), "\r\x1b[K").ok();
        }
    }
}

fn line(done: u64, failed: u64, elapsed: Duration, total: Total) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-3);
    let (of, left) = match total {
        Total::Runs(runs) => (format!(" of {runs}"), runs.saturating_sub(done) as f64 / rate.max(1e-3)),
        Total::Time(time) => (String::new(), time.saturating_sub(elapsed).as_secs_f64()),
    };
    format!("{done}{of} runs, {rate:.0}/s, {failed} failed, {left:.0} s to go")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_fast_how_well_and_how_long_still() {
        let elapsed = Duration::from_secs(4);
        assert_eq!(line(200, 1, elapsed, Total::Runs(1_000)), "200 of 1000 runs, 50/s, 1 failed, 16 s to go");
        assert_eq!(
            line(200, 0, elapsed, Total::Time(Duration::from_secs(60))),
            "200 runs, 50/s, 0 failed, 56 s to go"
        );
    }
}
