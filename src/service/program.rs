//! Programs as targets: one process for each stream, its input and output the stream's.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::str::FromStr;

use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::splice::SpliceError;

/// A program by its absolute path, and its arguments. There is no shell: nothing in them means anything but itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Program {
    words: Vec<String>,
}

/// A text names no program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a program is named by its absolute path")]
pub struct ParseProgramError;

/// A process, which is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
}

impl FromStr for Program {
    type Err = ParseProgramError;

    fn from_str(text: &str) -> Result<Self, ParseProgramError> {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        let legal = words.first().is_some_and(|path| Path::new(path).is_absolute())
            && !text.contains(|c: char| c.is_control());
        if legal { Ok(Self { words }) } else { Err(ParseProgramError) }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

impl Program {
    /// Whether there is something to start.
    pub(super) fn look(&self) -> io::Result<()> {
        let path = self.words.first().ok_or(io::ErrorKind::InvalidInput)?;
        let found = std::fs::metadata(path)?;
        if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a program"));
        }
        Ok(())
    }

    /// Starts it, with one socket as its input and output, as inetd does. Of the node's environment it gets nothing
    /// but `PATH`.
    pub(super) fn start(&self) -> io::Result<(UnixStream, Running)> {
        let (near, far) = std::os::unix::net::UnixStream::pair()?;
        near.set_nonblocking(true)?;
        let input = OwnedFd::from(far.try_clone()?);
        let mut command = self.command()?;
        command.stdin(Stdio::from(input)).stdout(Stdio::from(OwnedFd::from(far)));
        let child = command.spawn()?;
        Ok((UnixStream::from_std(near)?, Running { child }))
    }

    /// Runs it to its end, without input and output, with these variables besides. It is killed if nobody waits any more.
    #[cfg(feature = "node")]
    pub(crate) async fn run(&self, variables: &[(&str, String)]) -> io::Result<std::process::ExitStatus> {
        let mut command = self.command()?;
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?.wait().await
    }

    fn command(&self) -> io::Result<Command> {
        let (path, arguments) = self.words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(path);
        command
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .current_dir("/")
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }
}

impl Running {
    /// Waits for the end that the program makes by itself. One that fails ends as no stream should that is whole.
    pub(super) async fn ended(&mut self) -> Result<(), SpliceError> {
        let status = self.child.wait().await?;
        if status.success() { Ok(()) } else { Err(SpliceError::Program(status)) }
    }
}
