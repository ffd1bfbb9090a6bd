//! What a running node can be told that is not its own: the files it was configured by and the log of its process
//! belong to whoever started it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::api::Reload;

/// What a node can be told while it runs. Without it: nothing.
#[derive(Clone, Default)]
pub struct Controls {
    /// The log of the process.
    pub log: Option<Arc<dyn LogControl>>,
    /// Reads the configuration again. Asked for by SIGHUP and by the admin API, one at a time.
    pub reload: Option<ReloadRequests>,
    /// Ends the process in good order.
    pub shutdown: Option<Arc<Notify>>,
    /// Called after every answer of the core, for whoever supervises the process.
    pub alive: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Controls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controls")
            .field("log", &self.log.is_some())
            .field("reload", &self.reload.is_some())
            .finish_non_exhaustive()
    }
}

/// The log of a process.
pub trait LogControl: Send + Sync {
    /// The filter that holds.
    fn spec(&self) -> String;

    /// Makes another filter hold.
    ///
    /// # Errors
    ///
    /// What is wrong with it; the old one holds.
    fn set(&self, spec: &str) -> Result<(), String>;
}

/// How a reload went: what it did, or what is wrong with the configuration, which then changed nothing.
pub type Reloaded = Result<Reload, String>;

/// Where reloads are asked for.
pub type ReloadRequests = tokio::sync::mpsc::Sender<tokio::sync::oneshot::Sender<Reloaded>>;

impl Controls {
    /// Makes a filter hold, for a while or until the next change. The one that a while gives back is the one that
    /// was set last for good.
    pub(super) fn set_log(
        &self,
        spec: &str,
        lasting: Option<Duration>,
        stop: &CancellationToken,
    ) -> Option<Result<String, String>> {
        let log = self.log.clone()?;
        let before = log.spec();
        if let Err(error) = log.set(spec) {
            return Some(Err(error));
        }
        let now = log.spec();
        if let Some(lasting) = lasting {
            let (stop, set) = (stop.clone(), now.clone());
            tokio::spawn(async move {
                stop.run_until_cancelled(tokio::time::sleep(lasting)).await;
                // Whoever has set another one meanwhile wants that one.
                if log.spec() == set && log.set(&before).is_ok() {
                    tracing::info!(spec = %before, "the log is as before");
                }
            });
        }
        Some(Ok(now))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Paper(Mutex<String>);

    impl LogControl for Paper {
        fn spec(&self) -> String {
            self.0.lock().unwrap().clone()
        }

        fn set(&self, spec: &str) -> Result<(), String> {
            if spec == "nonsense" {
                return Err("no filter".into());
            }
            spec.clone_into(&mut self.0.lock().unwrap());
            Ok(())
        }
    }

    /// FEATURES P7.
    #[tokio::test(start_paused = true)]
    async fn a_log_level_for_a_while_goes_back_by_itself() {
        let log = Arc::new(Paper(Mutex::new("info".into())));
        let controls = Controls { log: Some(Arc::clone(&log) as _), ..Controls::default() };
        let stop = CancellationToken::new();
        let minute = Some(Duration::from_secs(60));
        assert_eq!(controls.set_log("debug", minute, &stop), Some(Ok("debug".into())));
        tokio::time::sleep(Duration::from_secs(59)).await;
        assert_eq!(log.spec(), "debug");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(log.spec(), "info");
        assert_eq!(controls.set_log("nonsense", None, &stop), Some(Err("no filter".into())));
        assert_eq!(log.spec(), "info");
        controls.set_log("debug", minute, &stop);
        controls.set_log("trace", None, &stop);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(log.spec(), "trace");
        assert_eq!(Controls::default().set_log("debug", None, &stop), None);
    }
}
