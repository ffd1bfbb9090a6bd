//! How a command ends: a code for programs, what went wrong and what to do for people.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use super::compat::NO_CERTIFICATE;
pub(in crate::node) use crate::causes::in_one_line as describe;
use crate::compat::ServerError;
use crate::node::api::Code;
use crate::node::{ClientError, DataDirError, FileError, StartError};
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
  8    degraded: the node is not ready, a check of `doctor` has failed, or `config check --strict` warns
  9    there, and not reachable: no link, or the service behind the tunnel does not answer
  10   the configuration is not valid, key files included
  74   the disk failed, or the state file is damaged
  130  ended by SIGINT (143: by SIGTERM) after a clean drain
`snomesh check` alone ends with the codes of monitoring: 0 ok, 1 warning, 2 critical, 3 unknown";

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
    /// What `snomesh check` found, in the codes of those that watch over others.
    Check(Level),
}

/// How bad it is, as monitoring has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        })
    }
}

impl Exit {
    const ALL: &[Self] = &[
        Self::Success,
        Self::Unexpected,
        Self::Usage,
        Self::NoAgent,
        Self::NotFound,
        Self::Unauthorised,
        Self::TimedOut,
        Self::Conflict,
        Self::Degraded,
        Self::Unreachable,
        Self::Configuration,
        Self::Disk,
        Self::Interrupted,
        Self::Terminated,
    ];

    fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Unexpected => 1,
            Self::Usage => 2,
            Self::NoAgent => 3,
            Self::NotFound => 4,
            Self::Unauthorised => 5,
            Self::TimedOut => 6,
            Self::Conflict => 7,
            Self::Degraded => 8,
            Self::Unreachable => 9,
            Self::Configuration => 10,
            Self::Disk => 74,
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::Check(level) => level as u8,
        }
    }

    /// How a process of this program ended.
    pub(super) fn of(code: Option<i32>) -> Self {
        let known = Self::ALL.iter().find(|exit| code == Some(exit.code().into()));
        known.copied().unwrap_or(Self::Unexpected)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
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

    /// Gives a hint where there is none.
    pub(super) fn or_hint(mut self, hint: &str) -> Self {
        self.hint.get_or_insert_with(|| hint.to_owned());
        self
    }

    pub(super) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    fn hinted(exit: Exit, error: &dyn Error, hint: Option<String>) -> Self {
        Self { exit, what: describe(error), hint }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            // There may well be a node: it is not for us to say.
            ClientError::Unreachable { agent, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                Self::new(Exit::Unauthorised, format!("{agent} may not be opened by this user: {source}"))
                    .hint("run it as the user of the node, or show a token: --agent http://127.0.0.1:PORT --token-file FILE")
            }
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
            ClientError::Broken(source)
                if source.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) =>
            {
                Self::hinted(Exit::Unexpected, &error, None)
            }
            // The node ended while it was asked.
            ClientError::Broken(_) => Self::hinted(
                Exit::NoAgent,
                &error,
                Some("whether it did what was asked is not known; see if it is back: snomesh status".into()),
            ),
            ClientError::Unintelligible(_) => Self::hinted(Exit::Unexpected, &error, None),
            ClientError::Refused(problem) => {
                let exit = match problem.code {
                    Code::Invalid | Code::TooLarge | Code::MethodNotAllowed => Exit::Usage,
                    Code::NotFound => Exit::NotFound,
                    Code::Conflict => Exit::Conflict,
                    Code::TimedOut => Exit::TimedOut,
                    Code::NoRoom | Code::Busy => Exit::Degraded,
                    Code::Unavailable => Exit::NoAgent,
                    Code::Internal => Exit::Unexpected,
                    Code::Unauthorized | Code::Forbidden => Exit::Unauthorised,
                    Code::Unreachable => Exit::Unreachable,
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
            StartError::DataDir(DataDirError::File(FileError::Read { source, .. }))
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                (Exit::Unauthorised, Some("run it as the user whose directory that is".into()))
            }
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
            StartError::Compat(ServerError::Endpoint(BindError::Socket { source, .. }))
                if source.kind() == io::ErrorKind::AddrInUse =>
            {
                (Exit::Conflict, Some("choose another address as compat.listen".into()))
            }
            StartError::Compat(ServerError::Endpoint(_)) => (Exit::Configuration, None),
            StartError::Compat(_) => (Exit::Configuration, Some(NO_CERTIFICATE.into())),
            StartError::Store(inner @ StoreError::InUse { .. }) => (Exit::Conflict, inner.hint()),
            StartError::Store(inner @ StoreError::Newer { .. }) => (Exit::Configuration, inner.hint()),
            StartError::Store(inner) => (Exit::Disk, inner.hint()),
            StartError::SetAside { .. } => (Exit::Disk, None),
            StartError::Address(_) | StartError::Thread(_) => (Exit::Unexpected, None),
        };
        Self::hinted(exit, &error, hint)
    }
}

/// A file that was named cannot be used.
pub(super) fn file_failure(error: &FileError) -> Failure {
    Failure::hinted(Exit::Unexpected, error, error.hint())
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_we_may_not_open_is_not_taken_to_be_absent() {
        let kinds = [
            (io::ErrorKind::PermissionDenied, Exit::Unauthorised),
            (io::ErrorKind::NotFound, Exit::NoAgent),
            (io::ErrorKind::ConnectionRefused, Exit::NoAgent),
        ];
        for (kind, exit) in kinds {
            let agent = Box::new(Path::new("/x/admin.sock").into());
            let failure = Failure::from(ClientError::Unreachable { agent, source: kind.into() });
            assert_eq!(failure.exit, exit);
            assert!(failure.what.contains("/x/admin.sock") && failure.hint.is_some(), "{failure:?}");
        }
        let source = io::ErrorKind::PermissionDenied.into();
        let unread = DataDirError::File(FileError::Read { path: "/x/state.redb".into(), source });
        assert_eq!(Failure::from(unread).exit, Exit::Unauthorised);
    }

    #[test]
    fn every_exit_code_is_told_and_known_again() {
        for exit in Exit::ALL {
            let code = exit.code();
            assert_eq!(Exit::of(Some(code.into())), *exit);
            let told =
                EXIT_CODES.split(|c: char| !c.is_ascii_digit()).any(|number| number == code.to_string());
            assert!(told, "{exit:?} is {code}, which --help does not tell");
        }
        assert_eq!((Exit::of(Some(99)), Exit::of(None)), (Exit::Unexpected, Exit::Unexpected));
    }
}
