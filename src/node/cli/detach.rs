//! `snomesh up --detach`: the node goes on in the background, once it serves.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::failure::{Exit, Failure};
use super::screen::Screen;

/// Starts this program again with these arguments, in the foreground of nobody, and returns when it says that it serves.
pub(super) fn detach(
    data_dir: &Path,
    arguments: Vec<OsString>,
    screen: &mut Screen,
) -> Result<Exit, Failure> {
    let data_dir = std::path::absolute(data_dir)?;
    std::fs::DirBuilder::new().recursive(true).create(data_dir.parent().unwrap_or(&data_dir))?;
    let log = beside(&data_dir);
    let lines = OpenOptions::new().create(true).append(true).mode(0o600).open(&log)?;
    let already = lines.metadata()?.len();
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .env("SNOMESH_OUTPUT", "json")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(lines)
        // Ctrl-C of this terminal is not meant for it.
        .process_group(0)
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line)?;
    let Ok(up) = serde_json::from_str::<serde_json::Value>(&line) else {
        let code = child.wait()?.code();
        let said = std::fs::read(&log)?.split_off(usize::try_from(already).unwrap_or_default());
        let said = String::from_utf8_lossy(&said);
        let why = said.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or("it ended at once");
        let hint = said.lines().find_map(|line| line.strip_prefix("hint: "));
        let failure = Failure::new(Exit::of(code), why.to_owned());
        return Err(failure.hint(hint.map_or_else(|| format!("see {}", log.display()), str::to_owned)));
    };
    let text = |field: &str| up[field].as_str().unwrap_or_default().to_owned();
    if !screen.format().is_for_people() {
        screen.line(line.trim_end())?;
        return Ok(Exit::Success);
    }
    screen.done(format!("{} serves on udp/{}, process {}", text("name"), text("listen"), child.id()))?;
    screen.next(format!("Its log:  {}", log.display()))?;
    screen.next(format!("Stop it:  snomesh --data-dir {} down", data_dir.display()))?;
    Ok(Exit::Success)
}

/// The log of a node: its directory's name with an ending of its own.
fn beside(data_dir: &Path) -> PathBuf {
    let mut log = data_dir.as_os_str().to_owned();
    log.push(".log");
    log.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_whose_names_differ_behind_a_dot_have_a_log_each() {
        assert_eq!(beside(Path::new("/d/node.1")), Path::new("/d/node.1.log"));
    }
}
