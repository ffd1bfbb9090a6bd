//! `snomesh up --detach`: the node goes on in the background, once it serves.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::failure::{Exit, Failure};
use super::screen::Screen;

/// Starts this program again without `--detach`, and returns when it says that it serves.
pub(super) fn detach(data_dir: &Path, screen: &mut Screen) -> Result<Exit, Failure> {
    let data_dir = std::path::absolute(data_dir)?;
    std::fs::DirBuilder::new().recursive(true).create(data_dir.parent().unwrap_or(&data_dir))?;
    let log = data_dir.with_extension("log");
    let lines = OpenOptions::new().create(true).append(true).mode(0o600).open(&log)?;
    let already = lines.metadata()?.len();
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments(std::env::args_os().skip(1)))
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

/// What the node itself is told: no `--detach`, and no format, which is ours to read.
fn arguments(args: impl Iterator<Item = std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let (mut kept, mut skip) = (Vec::new(), false);
    for arg in args {
        let text = arg.to_string_lossy();
        if std::mem::take(&mut skip) || text == "--detach" {
            continue;
        }
        if text == "-o" || text == "--output" {
            skip = true;
        } else if !(text.starts_with("--output=") || text.starts_with("-o") && !text.starts_with("--")) {
            kept.push(arg);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_told_the_same_but_for_how_to_begin() {
        let args =
            ["--data-dir", "/d", "up", "--detach", "-o", "name", "--name", "a", "--output=json", "-ojson"];
        let kept = arguments(args.iter().map(Into::into));
        assert_eq!(kept, ["--data-dir", "/d", "up", "--name", "a"]);
    }
}
