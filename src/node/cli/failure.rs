//! How a command ends: a code for programs, what went wrong and what to do for people.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use crate::node::api::Code;
use crate::node::{ClientError, DataDirError, StartError};
use crate::store::StoreError;
use crate::tunnel::quic::BindError;

/// The exit codes, as `--help` tells them.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0    success
  1    unexpected failure
  2    usage: an argument, a name, a key or a value is not legal
  3    no node answers on the admin socket
  4    not found
  5    not authorised: a token, an invitation or a right that is missing or does not hold
  6    timed out
  7    conflict: an address, a name or a directory is in use
  8    degraded: the node runs, but is not ready
  9    the tunnel's target cannot be reached
  10   the configuration is not valid, key files included
  74   the disk failed, or the state file is damaged
  130  ended by SIGINT (143: by SIGTERM) after a clean drain";

/// How a command ended, for whoever started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Success,
    Unexpected,
    Usage,
    NoAgent,
    NotFound,
    Unauthorised,
    TimedOut,
    Conflict,
    Degraded,
    Unreachable,
    Configuration,
    Disk,
    Interrupted,
    Terminated,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Unexpected => 1,
            Exit::Usage => 2,
            Exit::NoAgent => 3,
            Exit::NotFound => 4,
            Exit::Unauthorised => 5,
            Exit::TimedOut => 6,
            Exit::Conflict => 7,
            Exit::Degraded => 8,
            Exit::Unreachable => 9,
            Exit::Configuration => 10,
            Exit::Disk => 74,
            Exit::Interrupted => 130,
            Exit::Terminated => 143,
        })
    }
}

/// A command that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) what: String,
    pub(super) hint: Option<String>,
}

impl Failure {
    pub(super) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    fn hinted(exit: Exit, error: &dyn Error, hint: Option<String>) -> Self {
        Self { exit, what: describe(error), hint }
    }
}

/// An error and its causes in one line, none of them twice.
pub(in crate::node) fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Unreachable { .. } => Self::hinted(
                Exit::NoAgent,
                &error,
                Some(
                    "start one with `snomesh up`, or name its socket: --agent PATH or --data-dir DIR".into(),
                ),
            ),
            ClientError::TimedOut { .. } => {
                Self::hinted(Exit::TimedOut, &error, Some("wait longer with --timeout".into()))
            }
            ClientError::Broken(_) | ClientError::Unintelligible(_) => {
                Self::hinted(Exit::Unexpected, &error, None)
            }
            ClientError::Refused(problem) => {
                let exit = match problem.code {
                    Code::Invalid | Code::TooLarge | Code::MethodNotAllowed => Exit::Usage,
                    Code::NotFound => Exit::NotFound,
                    Code::Conflict => Exit::Conflict,
                    Code::TimedOut => Exit::TimedOut,
                    Code::NoRoom => Exit::Degraded,
                    Code::Unavailable => Exit::NoAgent,
                    Code::Unreachable => Exit::Unreachable,
                    Code::Internal => Exit::Unexpected,
                    Code::Unauthorized | Code::Forbidden => Exit::Unauthorised,
                    Code::Configuration => Exit::Configuration,
                };
                Self { exit, what: problem.title.clone(), hint: problem.hint.clone() }
            }
        }
    }
}

impl From<DataDirError> for Failure {
    fn from(error: DataDirError) -> Self {
        StartError::DataDir(error).into()
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let in_use =
            Some("another process has the address; choose one with --listen, port 0 takes a free one");
        let (exit, hint) = match &error {
            StartError::DataDir(inner @ DataDirError::InUse { .. }) => (Exit::Conflict, inner.hint()),
            StartError::DataDir(inner) => (Exit::Configuration, inner.hint()),
            StartError::Endpoint(BindError::Socket { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse =>
            {
                (Exit::Conflict, in_use.map(Into::into))
            }
            StartError::Admin(inner @ crate::node::AdminError::InUse { .. }) => {
                (Exit::Conflict, inner.hint())
            }
            StartError::Admin(inner) => (Exit::Configuration, inner.hint()),
            StartError::Http(inner @ crate::node::HttpError::Listen { .. }) => (Exit::Conflict, inner.hint()),
            StartError::Http(inner) => (Exit::Configuration, inner.hint()),
            StartError::File(inner) => (Exit::Configuration, inner.hint()),
            StartError::Door { .. } => (Exit::Configuration, None),
            StartError::Credentials(_) | StartError::Endpoint(_) | StartError::Gossip(_) => {
                (Exit::Configuration, None)
            }
            StartError::Store(inner @ StoreError::InUse { .. }) => (Exit::Conflict, inner.hint()),
            StartError::Store(inner @ StoreError::Newer { .. }) => (Exit::Configuration, inner.hint()),
            StartError::Store(inner) => (Exit::Disk, inner.hint()),
            StartError::SetAside { .. } => (Exit::Disk, None),
            StartError::Address(_) | StartError::Thread(_) => (Exit::Unexpected, None),
        };
        Self::hinted(exit, &error, hint)
    }
}

impl From<io::Error> for Failure {
    /// Of standard output and the system at large. A reader that has seen enough is no failure.
    fn from(error: io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::BrokenPipe => Exit::Success,
            _ => Exit::Unexpected,
        };
        Self::new(exit, format!("the system refuses: {error}"))
    }
}
