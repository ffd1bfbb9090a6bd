//! `snomesh state export`.

use std::io::{self, Write};
use std::path::Path;

use super::super::Global;
use super::super::attr::encode;
use super::super::failure::{Exit, Failure, file_failure};
use super::super::screen::{Format, Screen};
use super::super::shell::word;
use super::{Export, progress};
use crate::clock::WallClock;
use crate::node::Client;
use crate::node::api::{STATE_FORMAT, StateEnd, StateHead, StateLine};
use crate::node::files::Draft;
use crate::node::offline::Resting;

/// Where a copy goes.
enum Sink {
    /// A file that is there when it is whole.
    File(Draft),
    /// Standard output, or something else that is no file.
    Stream(Box<dyn Write>),
}

impl Sink {
    fn open(file: &Path) -> Result<Self, Failure> {
        if file == Path::new("-") {
            return Ok(Self::Stream(Box::new(io::stdout())));
        }
        // A device or a pipe is written to, not replaced.
        if std::fs::metadata(file).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            let stream = std::fs::OpenOptions::new().write(true).open(file)?;
            return Ok(Self::Stream(Box::new(stream)));
        }
        Ok(Self::File(Draft::create(file, 0o600).map_err(|error| file_failure(&error))?))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(draft) => draft.write_all(bytes),
            Self::Stream(stream) => stream.write_all(bytes),
        }
    }

    fn finish(self) -> Result<(), Failure> {
        match self {
            Self::File(draft) => draft.publish().map_err(|error| file_failure(&error)),
            Self::Stream(mut stream) => Ok(stream.flush()?),
        }
    }
}

/// Asks the node.
pub(super) async fn online(client: &Client, screen: &mut Screen, export: &Export) -> Result<(), Failure> {
    let mut sink = Sink::open(Path::new(&export.file))?;
    let mut pieces = client.pieces(&format!("/v1/state?prefix={}", encode(&export.prefix))).await?;
    let bar = progress(screen, None);
    let (mut last, mut lines) = (Vec::new(), 0_u64);
    while let Some(piece) = pieces.next().await? {
        sink.write(&piece)?;
        bar.inc(piece.len() as u64);
        // Pieces are of whole lines, whatever chunks they come in; what counts is how the last one reads.
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            if last.ends_with(b"\n") {
                last.clear();
            }
            last.extend_from_slice(part);
            lines += u64::from(part.ends_with(b"\n"));
        }
    }
    bar.finish_and_clear();
    let told = match serde_json::from_slice(&last) {
        Ok(StateLine::End(end)) => Some(end.lines),
        _ => None,
    };
    // The first line and the last one do not count.
    if told.is_none_or(|told| Some(told) != lines.checked_sub(2)) {
        let what = "the node broke off before the end: the copy is not whole";
        let hint = format!("is it stopping? {} status", screen.snomesh());
        return Err(Failure::new(Exit::Unexpected, what).hint(hint));
    }
    sink.finish()?;
    done(screen, export, told.unwrap_or_default())
}

/// Reads a node's directory.
pub(super) fn offline(global: &Global, export: &Export, screen: &mut Screen) -> Result<Exit, Failure> {
    let directory = global.data_dir()?;
    let resting =
        Resting::read(&directory).map_err(|error| Failure::from(error).or_hint("leave out --offline"))?;
    let Some(resting) = resting else {
        let what = format!("there is no state in {}", directory.display());
        return Err(Failure::new(Exit::NotFound, what).hint("name the node's directory: --data-dir DIR"));
    };
    let mut sink = Sink::open(Path::new(&export.file))?;
    let id = |id: crate::id::NodeId| id.to_string();
    let head = StateHead {
        format: STATE_FORMAT,
        mesh: resting.mesh.map(id),
        node: resting.node.map(id),
        at: WallClock::system().now().0,
    };
    write(&mut sink, &StateLine::State(head))?;
    let (mut from, mut lines) = (None, 0);
    loop {
        let page = resting.replica.pieces(from);
        for piece in &page.pieces {
            if export.prefix.is_empty() || piece.is_under(&export.prefix) {
                write(&mut sink, &piece.into())?;
                lines += 1;
            }
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    write(&mut sink, &StateLine::End(StateEnd { lines }))?;
    sink.finish()?;
    done(screen, export, lines)?;
    Ok(Exit::Success)
}

fn write(sink: &mut Sink, line: &StateLine) -> io::Result<()> {
    let mut text = serde_json::to_vec(line).expect("texts and numbers are JSON");
    text.push(b'\n');
    sink.write(&text)
}

/// Says so, unless the copy itself was printed.
fn done(screen: &mut Screen, export: &Export, lines: u64) -> Result<(), Failure> {
    if export.file == "-" {
        return Ok(());
    }
    if matches!(screen.format(), Format::Json | Format::Jsonl) {
        return Ok(screen.document(&StateEnd { lines })?);
    }
    screen.done(format!("{lines} lines in {}", Path::new(&export.file).display()))?;
    let (snomesh, offline) = (screen.snomesh(), if export.offline { " --offline" } else { "" });
    let file = word(&export.file);
    screen.next(format!("Put them back:  {snomesh} state import --dry-run{offline} {file}"))?;
    Ok(())
}
